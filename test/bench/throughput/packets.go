package throughput

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// smallFrame is 64 bytes on a wire, where 4 of them are the frame check sequence.
	smallFrame = 60
	// batch packets are sent before any is received.
	batch = 64
)

// packets are written to one tap and read from another.
type packets struct {
	from, to tap
	frame    []byte
	buf      []byte
}

// openPackets returns once the first packet has arrived, or fails after half a minute.
func openPackets(on *path) (*packets, error) {
	p := &packets{
		from: on.taps[0], to: on.taps[1],
		frame: udpFrame(0, on.nextHop(0), smallFrame), buf: make([]byte, 1<<17),
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if err := p.from.write(p.frame); err != nil {
			return nil, err
		}
		if ok, err := p.receive(); ok || err != nil {
			return p, err
		}
	}
	return nil, fmt.Errorf("%s: no packet between taps in half a minute", on.name)
}

func (p *packets) send() error {
	for range batch {
		if err := p.from.write(p.frame); err != nil {
			return err
		}
	}
	return nil
}

// receive returns false when nothing came for a while.
func (p *packets) receive() (bool, error) {
	for {
		n, err := p.to.read(p.buf, patience)
		if n == 0 || err != nil {
			return false, err
		}
		if transport(p.buf[:n], protoUDP) != nil {
			return true, nil
		}
	}
}

// run sends for a while and counts packets that arrived. One thread on one processor sends and
// receives in turn, so that no time goes to waking threads up.
func (p *packets) run(during time.Duration) (sample, error) {
	type outcome struct {
		sample
		err error
	}
	done := make(chan outcome)
	go func() {
		runtime.LockOSThread() // never unlocked: the affinity ends with the thread
		s, err := func() (sample, error) {
			if err := pin(); err != nil {
				return sample{}, err
			}
			return p.sendAndReceive(during)
		}()
		done <- outcome{s, err}
	}()
	o := <-done
	return o.sample, o.err
}

func (p *packets) sendAndReceive(during time.Duration) (sample, error) {
	watch, err := startWatch()
	if err != nil {
		return sample{}, err
	}
	sent, received := 0, 0
	for start := time.Now(); time.Since(start) < during; {
		if err := p.send(); err != nil {
			return sample{}, err
		}
		sent += batch
		for range batch {
			ok, err := p.receive()
			if err != nil {
				return sample{}, err
			}
			if !ok {
				break
			}
			received++
		}
	}
	if received < sent*99/100 {
		return sample{}, fmt.Errorf("%d of %d packets were lost", sent-received, sent)
	}
	return watch.stop(float64(received))
}

// pin keeps the calling thread on the last processor that it may use.
func pin() error {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("get affinity: %w", err)
	}
	var one unix.CPUSet
	for cpu := 1023; cpu >= 0; cpu-- {
		if allowed.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("set affinity: %w", err)
	}
	return nil
}
