package throughput

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A tap is the emulator's end of a machine's interface. Reading and writing never wait.
type tap int

func (t tap) Close() error { return unix.Close(int(t)) }

func (t tap) write(frame []byte) error {
	if _, errno := t.transfer(unix.SYS_WRITE, frame); errno != 0 {
		return fmt.Errorf("write to tap: %w", errno)
	}
	return nil
}

// read returns 0 when nothing came for a while.
func (t tap) read(buf []byte, wait time.Duration) (int, error) {
	for range 2 {
		n, errno := t.transfer(unix.SYS_READ, buf)
		switch errno {
		case 0:
			return n, nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
		default:
			return 0, fmt.Errorf("read from tap: %w", errno)
		}
		fds := []unix.PollFd{{Fd: int32(t), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(wait.Milliseconds())); n <= 0 {
			if err != nil && !errors.Is(err, unix.EINTR) {
				return 0, fmt.Errorf("poll tap: %w", err)
			}
			return 0, nil
		}
	}
	return 0, nil
}

// transfer is a system call that never blocks, so the Go scheduler need not know of it.
func (t tap) transfer(call uintptr, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(call, uintptr(t), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

// expect reads until a frame of proto satisfies want, or nothing comes for a while.
func (t tap) expect(proto uint8, wait time.Duration, want func(segment []byte) bool) (bool, error) {
	buf := make([]byte, 1<<17)
	for {
		n, err := t.read(buf, wait)
		if n == 0 || err != nil {
			return false, err
		}
		if segment := transport(buf[:n], proto); segment != nil && want(segment) {
			return true, nil
		}
	}
}

// tapStream is a TCP connection between taps: established properly, so that flow tracking agrees, and
// then all data and no acknowledgements.
type tapStream struct {
	from, to tap
	nextHop  net.HardwareAddr
	mss      int
	seq      uint32
	frame    []byte
	buf      []byte
}

const (
	// streamFrame is what one write carries at most: 60 KiB.
	streamFrame = 60 << 10
	// patience is how long a packet may take before it counts as lost.
	patience = 500 * time.Millisecond
	// inFlight frames are written before any is read; in wire size they fit every queue on the way.
	inFlight = 8
)

func connectTaps(p *path) (*tapStream, error) {
	s := &tapStream{from: p.taps[0], to: p.taps[1], nextHop: p.nextHop(0), mss: p.mtu - ipv4Len - tcpLen, buf: make([]byte, 1<<17)}
	size := streamFrame / s.mss * s.mss
	flags := func(want uint8) func([]byte) bool {
		return func(segment []byte) bool { return len(segment) >= tcpLen && segment[13] == want }
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s: no TCP handshake between taps in half a minute", p.name)
		}
		if err := s.from.write(tcpFrame(0, s.nextHop, 99, 0, tcpSYN, 0, s.mss)); err != nil {
			return nil, err
		}
		if ok, err := s.to.expect(protoTCP, patience, flags(tcpSYN)); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		if err := s.to.write(tcpFrame(1, p.nextHop(1), 199, 100, tcpSYN|tcpACK, 0, s.mss)); err != nil {
			return nil, err
		}
		if ok, err := s.from.expect(protoTCP, patience, flags(tcpSYN|tcpACK)); err != nil {
			return nil, err
		} else if ok {
			break
		}
	}
	s.seq = 100
	s.frame = tcpFrame(0, s.nextHop, s.seq, 200, tcpACK, size, s.mss)
	return s, s.from.write(tcpFrame(0, s.nextHop, s.seq, 200, tcpACK, 0, s.mss))
}

// run sends for a while and counts Gbit that arrived.
func (s *tapStream) run(during time.Duration) (sample, error) {
	watch, err := startWatch()
	if err != nil {
		return sample{}, err
	}
	received, lost := 0, 0
	for start := time.Now(); time.Since(start) < during; {
		missing, err := s.burst()
		if err != nil {
			return sample{}, err
		}
		lost += missing
		received += inFlight*s.size() - missing
	}
	if lost > received/100 {
		return sample{}, fmt.Errorf("%d of %d bytes were lost between taps", lost, lost+received)
	}
	return watch.stop(float64(received) * 8 / 1e9)
}

// size is the data in one frame.
func (s *tapStream) size() int { return len(s.frame) - headersLen - tcpLen }

// burst sends inFlight frames, receives them, and returns how many bytes did not come.
func (s *tapStream) burst() (missing int, err error) {
	for range inFlight {
		binary.BigEndian.PutUint32(s.frame[headersLen+4:], s.seq)
		if err := s.from.write(s.frame); err != nil {
			return 0, err
		}
		s.seq += uint32(s.size())
	}
	for missing = inFlight * s.size(); missing > 0; {
		n, err := s.to.read(s.buf, patience)
		if n == 0 || err != nil {
			return missing, err
		}
		if segment := transport(s.buf[:n], protoTCP); len(segment) > tcpLen {
			missing -= len(segment) - tcpLen
		}
	}
	return missing, nil
}
