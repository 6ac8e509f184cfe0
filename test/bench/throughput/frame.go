package throughput

import (
	"encoding/binary"
	"net"
)

const (
	vnetLen  = 10 // struct virtio_net_hdr
	etherLen = 14
	ipv4Len  = 20
	tcpLen   = 20
	udpLen   = 8

	headersLen = vnetLen + etherLen + ipv4Len

	protoTCP = 6
	protoUDP = 17

	tcpSYN = 0x02
	tcpACK = 0x10

	// Flags and types of virtio-net headers (virtio 1.2, section 5.1.6).
	vnetNeedsChecksum = 1
	vnetTCPv4         = 1

	tcpPort = 5001
	udpPort = 5002
)

// header starts a frame from machine n to the other: virtio-net, Ethernet and IPv4 headers for
// size more bytes of proto.
func header(n int, nextHop net.HardwareAddr, proto uint8, size int) []byte {
	b := make([]byte, vnetLen, headersLen+size)
	b = append(b, nextHop...)
	b = append(b, macs[n]...)
	b = append(b, 0x08, 0x00, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4Len+size))
	b = append(b, 0, 0, 0x40, 0, 64, proto, 0, 0)
	b = append(b, addresses[n].AsSlice()...)
	b = append(b, addresses[1-n].AsSlice()...)
	ip := b[vnetLen+etherLen:]
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip)))
	return b
}

// udpFrame has size bytes from its Ethernet header on, and no UDP checksum, which IPv4 allows.
func udpFrame(n int, nextHop net.HardwareAddr, size int) []byte {
	length := size - etherLen - ipv4Len
	b := header(n, nextHop, protoUDP, length)
	b = binary.BigEndian.AppendUint16(b, 40000)
	b = binary.BigEndian.AppendUint16(b, udpPort)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, 0, 0)
	return append(b, make([]byte, length-udpLen)...)
}

// tcpFrame is a segment as an emulator hands it over: the checksum is left to the receiver of the
// frame, and so is cutting it into pieces of mss bytes when it is longer.
func tcpFrame(n int, nextHop net.HardwareAddr, seq, ack uint32, flags uint8, size, mss int) []byte {
	b := header(n, nextHop, protoTCP, tcpLen+size)
	ports := [2]uint16{40000, tcpPort}
	b = binary.BigEndian.AppendUint16(b, ports[n])
	b = binary.BigEndian.AppendUint16(b, ports[1-n])
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, tcpLen/4<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	pseudo := sum(b[headersLen-8:headersLen]) + protoTCP + uint32(tcpLen+size)
	binary.BigEndian.PutUint16(b[headersLen+16:], fold(pseudo))
	b[0] = vnetNeedsChecksum
	if size > mss {
		b[1] = vnetTCPv4
		binary.NativeEndian.PutUint16(b[2:], etherLen+ipv4Len+tcpLen)
		binary.NativeEndian.PutUint16(b[4:], uint16(mss))
	}
	binary.NativeEndian.PutUint16(b[6:], etherLen+ipv4Len) // checksum start
	binary.NativeEndian.PutUint16(b[8:], 16)               // checksum offset
	return append(b, make([]byte, size)...)
}

// transport returns proto's header and data of a received frame, nil when it is another's.
func transport(frame []byte, proto uint8) []byte {
	if len(frame) < headersLen || frame[vnetLen+12] != 0x08 || frame[vnetLen+13] != 0 || frame[vnetLen+etherLen+9] != proto {
		return nil
	}
	total := int(binary.BigEndian.Uint16(frame[vnetLen+etherLen+2:]))
	if total < ipv4Len || total > len(frame)-vnetLen-etherLen {
		return nil
	}
	return frame[headersLen : vnetLen+etherLen+total]
}

func sum(b []byte) uint32 {
	var acc uint32
	for ; len(b) >= 2; b = b[2:] {
		acc += uint32(b[0])<<8 | uint32(b[1])
	}
	return acc
}

func fold(acc uint32) uint16 {
	for acc > 0xffff {
		acc = acc&0xffff + acc>>16
	}
	return uint16(acc)
}
