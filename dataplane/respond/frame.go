package respond

import (
	"encoding/binary"
	"net"
	"net/netip"
)

const (
	etherLen = 14
	ipv4Len  = 20
	ipv6Len  = 40
	udpLen   = 8

	etherTypeIPv4 = 0x0800
	etherTypeIPv6 = 0x86dd

	protoUDP    = 17
	protoICMPv6 = 58

	dhcpv4ServerPort = 67
	dhcpv4ClientPort = 68
	dhcpv6ClientPort = 546
	dhcpv6ServerPort = 547
)

var (
	broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	// allNodesMAC is the link-layer group of ff02::1 (RFC 2464, section 7).
	allNodesMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}

	broadcastIPv4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	allNodes      = netip.MustParseAddr("ff02::1")
	dhcpAgents    = netip.MustParseAddr("ff02::1:2")
)

// packet is one received UDP datagram or ICMPv6 message.
type packet struct {
	src, dst         netip.Addr
	proto            uint8
	hopLimit         uint8
	srcPort, dstPort uint16
	// payload is what follows the UDP header, or the whole ICMPv6 message.
	payload []byte
}

// parse reads an Ethernet frame. Transport checksums are not verified: a machine with checksum
// offload leaves them partial, and the frame never crossed a wire.
func parse(frame []byte) (packet, bool) {
	if len(frame) < etherLen {
		return packet{}, false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherTypeIPv4:
		return parseIPv4(frame[etherLen:])
	case etherTypeIPv6:
		return parseIPv6(frame[etherLen:])
	}
	return packet{}, false
}

func parseIPv4(b []byte) (packet, bool) {
	if len(b) < ipv4Len || b[0]>>4 != 4 {
		return packet{}, false
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	fragment := binary.BigEndian.Uint16(b[6:])&0x3fff != 0 // offset, or more to come
	if header < ipv4Len || total < header || total > len(b) || fragment || b[9] != protoUDP {
		return packet{}, false
	}
	pkt := packet{
		src:      netip.AddrFrom4([4]byte(b[12:16])),
		dst:      netip.AddrFrom4([4]byte(b[16:20])),
		proto:    protoUDP,
		hopLimit: b[8],
	}
	return pkt, pkt.setUDP(b[header:total])
}

func parseIPv6(b []byte) (packet, bool) {
	if len(b) < ipv6Len || b[0]>>4 != 6 {
		return packet{}, false
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length > len(b)-ipv6Len {
		return packet{}, false
	}
	pkt := packet{
		src:      netip.AddrFrom16([16]byte(b[8:24])),
		dst:      netip.AddrFrom16([16]byte(b[24:40])),
		proto:    b[6],
		hopLimit: b[7],
	}
	payload := b[ipv6Len : ipv6Len+length]
	switch pkt.proto {
	case protoUDP:
		return pkt, pkt.setUDP(payload)
	case protoICMPv6:
		pkt.payload = payload
		return pkt, true
	}
	return packet{}, false
}

func (p *packet) setUDP(b []byte) bool {
	if len(b) < udpLen {
		return false
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < udpLen || length > len(b) {
		return false
	}
	p.srcPort, p.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	p.payload = b[udpLen:length]
	return true
}

// ether starts a frame that has room for size more bytes.
func ether(dst, src net.HardwareAddr, etherType uint16, size int) []byte {
	b := make([]byte, 0, etherLen+size)
	b = append(b, dst...)
	b = append(b, src...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

// udpIPv4 builds a frame from the gateway's DHCP server to a client.
func udpIPv4(dstMAC, srcMAC net.HardwareAddr, dst netip.Addr, payload []byte) []byte {
	b := ether(dstMAC, srcMAC, etherTypeIPv4, ipv4Len+udpLen+len(payload))
	ip := len(b)
	b = append(b, 0x45, 0xc0) // DSCP CS6: network control
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4Len+udpLen+len(payload)))
	b = append(b, 0, 0, 0x40, 0, 64, protoUDP, 0, 0) // no identification, don't fragment, TTL 64
	b = append(b, GatewayIPv4.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[ip+10:], ^fold(sum(0, b[ip:])))
	return appendUDP(b, GatewayIPv4, dst, dhcpv4ServerPort, dhcpv4ClientPort, payload)
}

// overIPv6 builds a frame from the gateway that carries payload under an IPv6 header.
func overIPv6(dstMAC, srcMAC net.HardwareAddr, dst netip.Addr, proto uint8, size int) []byte {
	b := ether(dstMAC, srcMAC, etherTypeIPv6, ipv6Len+size)
	b = append(b, 0x6c, 0, 0, 0) // version 6, traffic class CS6
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, proto, 255) // neighbor discovery requires hop limit 255
	b = append(b, GatewayIPv6.AsSlice()...)
	return append(b, dst.AsSlice()...)
}

func appendUDP(b []byte, src, dst netip.Addr, srcPort, dstPort uint16, payload []byte) []byte {
	length := uint16(udpLen + len(payload))
	udp := len(b)
	b = binary.BigEndian.AppendUint16(b, srcPort)
	b = binary.BigEndian.AppendUint16(b, dstPort)
	b = binary.BigEndian.AppendUint16(b, length)
	b = append(b, 0, 0)
	b = append(b, payload...)
	check := ^fold(sum(sum(sum(protoUDP+uint32(length), src.AsSlice()), dst.AsSlice()), b[udp:]))
	if check == 0 {
		check = 0xffff // 0 means "none" (RFC 768)
	}
	binary.BigEndian.PutUint16(b[udp+6:], check)
	return b
}

// sum adds b to a ones' complement sum (RFC 1071).
func sum(acc uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		acc += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		acc += uint32(b[0]) << 8
	}
	return acc
}

func fold(acc uint32) uint16 {
	for acc > 0xffff {
		acc = acc&0xffff + acc>>16
	}
	return uint16(acc)
}
