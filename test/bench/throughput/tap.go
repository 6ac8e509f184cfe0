package throughput

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// A tap is the emulator's end of a machine's interface. Reading and writing never wait.
type tap int

func (t tap) Close() error { return unix.Close(int(t)) }

func (t tap) write(frame []byte) error {
	if _, err := unix.Write(int(t), frame); err != nil {
		return fmt.Errorf("write to tap: %w", err)
	}
	return nil
}

// read returns 0 when nothing came for a while.
func (t tap) read(buf []byte, wait time.Duration) (int, error) {
	for range 2 {
		n, err := unix.Read(int(t), buf)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EAGAIN):
			return 0, fmt.Errorf("read from tap: %w", err)
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
		if ok, err := s.to.expect(protoTCP, 100*time.Millisecond, flags(tcpSYN)); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		if err := s.to.write(tcpFrame(1, p.nextHop(1), 199, 100, tcpSYN|tcpACK, 0, s.mss)); err != nil {
			return nil, err
		}
		if ok, err := s.from.expect(protoTCP, 100*time.Millisecond, flags(tcpSYN|tcpACK)); err != nil {
			return nil, err
		} else if ok {
			break
		}
	}
	s.seq = 100
	s.frame = tcpFrame(0, s.nextHop, s.seq, 200, tcpACK, size, s.mss)
	return s, s.from.write(tcpFrame(0, s.nextHop, s.seq, 200, tcpACK, 0, s.mss))
}

// run sends for a while and returns what arrived, in Gbit/s.
func (s *tapStream) run(during time.Duration) (float64, error) {
	start, received, lost := time.Now(), 0, 0
	size := len(s.frame) - headersLen - tcpLen
	for time.Since(start) < during {
		for range inFlight {
			binary.BigEndian.PutUint32(s.frame[headersLen+4:], s.seq)
			if err := s.from.write(s.frame); err != nil {
				return 0, err
			}
			s.seq += uint32(size)
		}
		missing := inFlight * size
		for missing > 0 {
			n, err := s.to.read(s.buf, 20*time.Millisecond)
			if err != nil {
				return 0, err
			}
			if n == 0 {
				lost += missing
				break
			}
			if segment := transport(s.buf[:n], protoTCP); len(segment) > tcpLen {
				received += len(segment) - tcpLen
				missing -= len(segment) - tcpLen
			}
		}
	}
	elapsed := time.Since(start)
	if lost > received/100 {
		return 0, fmt.Errorf("%d of %d bytes were lost between taps", lost, lost+received)
	}
	return float64(received) * 8 / elapsed.Seconds() / 1e9, nil
}
