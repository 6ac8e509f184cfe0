package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// ping sends from left to right over every address of right.
func (s *story) ping(ctx context.Context) error {
	for _, address := range s.right.addresses {
		result, err := s.left.Exec(ctx, "/bin/traffic", "ping", "-count", "5", "-interval", "50ms", address)
		if err != nil {
			return err
		}
		var said struct {
			Sent, Received int
			MedianUs       int64 `json:"median_us"`
		}
		if err := decode(result, &said); err != nil {
			return err
		}
		if said.Received != said.Sent {
			return fmt.Errorf("%d of %d pings to %s were answered", said.Received, said.Sent, address)
		}
		s.show("left → %s: %d of %d answered, median %.1f ms", address, said.Received, said.Sent, float64(said.MedianUs)/1000)
	}
	return nil
}

// stream sends TCP from left to a server on right, over every address.
func (s *story) stream(ctx context.Context) error {
	if err := s.serve(ctx, openPort); err != nil {
		return err
	}
	for _, address := range s.right.addresses {
		result, err := s.left.Exec(ctx, "/bin/traffic", "tcp-send", "-time", "2s", "-timeout", "10s", net.JoinHostPort(address, openPort))
		if err != nil {
			return err
		}
		var said struct {
			Bytes  int64
			Mbit   float64 `json:"mbit_s"`
			Intact bool
		}
		if err := decode(result, &said); err != nil {
			return err
		}
		if !said.Intact {
			return fmt.Errorf("stream to %s arrived changed", address)
		}
		s.show("left → %s: %d MiB at %.0f Mbit/s, checksums agree", address, said.Bytes>>20, said.Mbit)
	}
	return nil
}

// serve starts a TCP server on right and waits until it listens there.
func (s *story) serve(ctx context.Context, port string) error {
	if _, err := s.right.Start(ctx, "/bin/traffic", "tcp-serve", ":"+port); err != nil {
		return err
	}
	return until(ctx, 10*time.Second, func() error {
		result, err := s.right.Exec(ctx, "/bin/traffic", "tcp-connect", net.JoinHostPort("127.0.0.1", port))
		if err == nil && result.ExitCode != 0 {
			err = fmt.Errorf("server on port %s: %s", port, result.Stderr)
		}
		return err
	})
}

// closedPort connects to a port that a server listens on and the policy does not allow.
func (s *story) closedPort(ctx context.Context) error {
	if err := s.serve(ctx, closedPort); err != nil {
		return err
	}
	before, err := s.drops(ctx)
	if err != nil {
		return err
	}
	for _, address := range s.right.addresses {
		said, err := s.connect(ctx, address, closedPort)
		if err != nil {
			return err
		}
		if said != "timeout" {
			return fmt.Errorf("connection to %s port %s: %s; the policy should drop it", address, closedPort, said)
		}
	}
	return until(ctx, 10*time.Second, func() error {
		after, err := s.drops(ctx)
		if err != nil {
			return err
		}
		for series, count := range after {
			if count > before[series] {
				s.show("%s: %s %.0f → %.0f", s.right.Host.Name, series, before[series], count)
			}
		}
		if len(s.details) == 0 {
			return errors.New("no drop of the policy was counted")
		}
		return nil
	})
}

// openPort applies the policy that allows the port and connects until it opens.
func (s *story) openPort(ctx context.Context) error {
	begin := time.Now()
	if _, err := s.cloud.Ingot(ctx, "apply", "-f", s.example("open-port")); err != nil {
		return err
	}
	for _, address := range s.right.addresses {
		err := until(ctx, 30*time.Second, func() error {
			said, err := s.connect(ctx, address, closedPort)
			if err == nil && said != "open" {
				err = fmt.Errorf("connection to %s port %s: %s", address, closedPort, said)
			}
			return err
		})
		if err != nil {
			return err
		}
		s.show("left → %s port %s: open %.1f s after the command", address, closedPort, time.Since(begin).Seconds())
	}
	return nil
}

// connect tries once and says open, refused or timeout.
func (s *story) connect(ctx context.Context, address, port string) (string, error) {
	result, err := s.left.Exec(ctx, "/bin/traffic", "tcp-connect", "-timeout", "1500ms", net.JoinHostPort(address, port))
	if err != nil {
		return "", err
	}
	var said struct{ Result string }
	err = decode(result, &said)
	return said.Result, err
}

// drops are the counters of dropped packets on right's host, by the name that metrics give them.
func (s *story) drops(ctx context.Context) (map[string]float64, error) {
	for _, host := range s.cloud.Hosts {
		if host.Host != s.right.Host {
			continue
		}
		text, err := host.Get(ctx, "/metrics")
		if err != nil {
			return nil, err
		}
		counters := map[string]float64{}
		for line := range strings.Lines(text) {
			var count float64
			name, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
			if strings.HasPrefix(name, "ingot_") && strings.Contains(name, "drop") {
				if _, err := fmt.Sscan(value, &count); err == nil {
					counters[name+"}"] = count
				}
			}
		}
		return counters, nil
	}
	return nil, fmt.Errorf("find host of %s: it runs on %s", s.right.name, s.right.Host.Name)
}

// until repeats try until it works or the time is over.
func until(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (after %v)", err, limit)
		case <-ticker.C:
		}
	}
}
