package respond

import (
	"fmt"

	"github.com/mdlayher/socket"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// receiveBuffer holds a few thousand requests: all machines of a host that boot at once, and the
// time it takes to skip what a flooding one sends.
const receiveBuffer = 4 << 20

// Filters see the frame from its Ethernet header on. They spare the server a wake-up for other
// traffic of the host; the frame is still parsed with suspicion.
var (
	// udp dst port 67 over IPv4, no fragment.
	filterIPv4 = []bpf.Instruction{
		bpf.LoadAbsolute{Off: etherLen + 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: etherLen + 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 4},
		bpf.LoadMemShift{Off: etherLen},
		bpf.LoadIndirect{Off: etherLen + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: dhcpv4ServerPort, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	}
	// udp dst port 547 or a router solicitation, over IPv6 without extension headers.
	filterIPv6 = []bpf.Instruction{
		bpf.LoadAbsolute{Off: etherLen + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoICMPv6, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 5},
		bpf.LoadAbsolute{Off: etherLen + ipv6Len + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: dhcpv6ServerPort, SkipTrue: 2, SkipFalse: 3},
		bpf.LoadAbsolute{Off: etherLen + ipv6Len, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: solicitation, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	}
)

// listen opens a packet socket for one ethertype on all devices, present and future, of the calling
// thread's network namespace. Bound to an ethertype, unlike to all, it gets frames only after
// ingress filters.
func listen(etherType uint16, filter []bpf.Instruction) (*socket.Conn, error) {
	program, err := bpf.Assemble(filter)
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	// Protocol 0 receives nothing: the filter is in place before the bind starts the flow.
	conn, err := socket.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0, "respond", nil)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	if err := conn.SetBPF(program); err != nil {
		conn.Close()
		return nil, fmt.Errorf("set filter: %w", err)
	}
	if err := conn.SetReadBuffer(receiveBuffer); err != nil {
		conn.Close()
		return nil, fmt.Errorf("set receive buffer: %w", err)
	}
	if err := conn.Bind(&unix.SockaddrLinklayer{Protocol: htons(etherType)}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("bind packet socket: %w", err)
	}
	return conn, nil
}

// transmit sends a frame out of a device and never waits: a machine that does not read must not
// hold up the others.
func transmit(conn *socket.Conn, ifindex int, frame []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Ifindex: ifindex, Halen: 6}
	copy(to.Addr[:], frame[:6])
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), frame, unix.MSG_DONTWAIT, to)
		return true
	})
	if err != nil {
		return err
	}
	return sent
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
