package dataplane

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
)

// Frames are built from the inside out: frame(src, dst, ip(a, b, tcp(...))).

type payload struct {
	protocol uint8
	data     []byte
}

// An option changes a finished layer.
type option func([]byte)

func set(offset int, values ...byte) option { return func(b []byte) { copy(b[offset:], values) } }

func apply(b []byte, options []option) []byte {
	for _, o := range options {
		o(b)
	}
	return b
}

func raw(protocol uint8, data ...byte) payload { return payload{protocol, data} }

func udp(src, dst uint16, size int) payload {
	b := make([]byte, 8+size)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	return payload{17, b}
}

const (
	fin = 1
	syn = 2
	rst = 4
	ack = 16
)

func tcp(src, dst uint16, flags byte) payload {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	b[12], b[13] = 5<<4, flags
	return payload{6, b}
}

func icmp(kind, code uint8, id uint16, rest ...byte) payload {
	b := append([]byte{kind, code, 0, 0, byte(id >> 8), byte(id), 0, 1}, rest...)
	return payload{icmp4, b}
}

func icmpv6(kind, code uint8, id uint16, rest ...byte) payload {
	p := icmp(kind, code, id, rest...)
	return payload{icmp6, p.data}
}

// ip makes the packet of the family of its addresses, TTL 64.
func ip(src, dst string, p payload, options ...option) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if s.Is4() {
		b := append([]byte{0x45, 0, 0, 0, 0, 9, 0, 0, 64, p.protocol, 0, 0}, slices.Concat(s.AsSlice(), d.AsSlice(), p.data)...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		apply(b, options)
		binary.BigEndian.PutUint16(b[10:], ^sum(b[:20]))
		return b
	}
	b := append([]byte{0x60, 0, 0, 0, 0, 0, p.protocol, 64}, slices.Concat(s.AsSlice(), d.AsSlice(), p.data)...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(p.data)))
	return apply(b, options)
}

// sum is the ones' complement sum of RFC 1071.
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// frame puts a packet into Ethernet.
func frame(src, dst net.HardwareAddr, packet []byte, options ...option) []byte {
	kind := []byte{0x08, 0x00}
	if len(packet) > 0 && packet[0]>>4 == 6 {
		kind = []byte{0x86, 0xdd}
	}
	return apply(slices.Concat(dst, src, kind, packet), options)
}

// tunnel puts a packet into ipip6.
func tunnel(src, dst netip.Addr, packet []byte, options ...option) []byte {
	protocol := uint8(4)
	if packet[0]>>4 == 6 {
		protocol = 41
	}
	return ip(src.String(), dst.String(), payload{protocol, packet}, options...)
}

func arpRequest(src net.HardwareAddr, sender, target string) []byte {
	return slices.Concat(net.HardwareAddr{255, 255, 255, 255, 255, 255}, src, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, src,
		netip.MustParseAddr(sender).AsSlice(), make([]byte, 6), netip.MustParseAddr(target).AsSlice())
}

// solicitation asks for the link-layer address of target.
func solicitation(src, target string) []byte {
	body := slices.Concat(make([]byte, 0), netip.MustParseAddr(target).AsSlice(), []byte{1, 1, 2, 0, 0, 0, 0, 1})
	p := payload{icmp6, append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, body...)}
	return ip(src, "ff02::1:ff00:2", p, set(7, 255))
}
