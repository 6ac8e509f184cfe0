package throughput

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

// connection is a TCP connection from the first machine to the second.
type connection struct{ from, to net.Conn }

// dial connects the machines, for which it allows half a minute: neighbours must be found first.
func dial(ctx context.Context, p *path) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	at := netip.AddrPortFrom(addresses[1], 5001).String()
	var c connection
	var listener net.Listener
	err := p.machines[1].Do(func() (err error) { listener, err = net.Listen("tcp4", at); return err })
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	defer listener.Close()
	err = p.machines[0].Do(func() (err error) { // a synchronous dial stays on the machine's thread
		c.from, err = (&net.Dialer{Deadline: time.Now().Add(30 * time.Second)}).DialContext(ctx, "tcp4", at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	if c.to, err = listener.Accept(); err != nil {
		return nil, errors.Join(err, c.from.Close())
	}
	return &c, nil
}

func (c *connection) Close() error { return errors.Join(c.from.Close(), c.to.Close()) }

// run sends for a while and counts Gbit that arrived.
func (c *connection) run(during time.Duration) (sample, error) {
	watch, err := startWatch()
	if err != nil {
		return sample{}, err
	}
	received := 0
	for try := 0; received == 0 && try < 20; try++ { // on a busy machine a thread may wait its turn
		if received, err = c.send(during); err != nil {
			return sample{}, err
		}
	}
	return watch.stop(float64(received) * 8 / 1e9)
}

// send returns the bytes that arrived until during had passed.
func (c *connection) send(during time.Duration) (int, error) {
	start := time.Now()
	deadline := start.Add(during)
	if err := errors.Join(c.from.SetDeadline(deadline), c.to.SetDeadline(deadline.Add(time.Second))); err != nil {
		return 0, err
	}
	sent := make(chan error, 1)
	go func() {
		buf := make([]byte, 256<<10)
		for {
			if _, err := c.from.Write(buf); err != nil {
				sent <- err
				return
			}
		}
	}()
	buf := make([]byte, 256<<10)
	received := 0
	for time.Now().Before(deadline) {
		if err := c.to.SetReadDeadline(deadline); err != nil {
			return 0, err
		}
		n, err := c.to.Read(buf)
		received += n
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			return 0, fmt.Errorf("receive: %w", err)
		}
	}
	if err := <-sent; !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, fmt.Errorf("send: %w", err)
	}
	return received, nil
}
