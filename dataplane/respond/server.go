package respond

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Config of a Server. The zero value is usable.
type Config struct {
	// Rate bounds the packets a second that one port is answered; 0 is 20. A machine that boots
	// sends fewer than ten in all.
	Rate float64
	// Burst is how many it may send at once; 0 is 40.
	Burst float64
	Log   *slog.Logger
}

// A Server answers the machines of one network namespace. Its methods are safe for concurrent use.
type Server struct {
	cfg        Config
	ipv4, ipv6 *socket.Conn
	counts     [outcomes]atomic.Uint64
	lost       atomic.Uint64
	wake       chan struct{}

	mu    sync.Mutex // guards ports and what they hold
	ports map[int]*served
}

// served is a port by its device.
type served struct {
	port   Port
	bucket bucket
	// advertise is when the next unsolicited router advertisement is due.
	advertise time.Time
}

// New opens the sockets in the calling thread's network namespace. Requests queue until Run.
func New(cfg Config) (*Server, error) {
	if cfg.Rate == 0 {
		cfg.Rate = 20
	}
	if cfg.Burst == 0 {
		cfg.Burst = 40
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ipv4, err := listen(unix.ETH_P_IP, filterIPv4)
	if err != nil {
		return nil, fmt.Errorf("listen for IPv4: %w", err)
	}
	ipv6, err := listen(unix.ETH_P_IPV6, filterIPv6)
	if err != nil {
		ipv4.Close()
		return nil, fmt.Errorf("listen for IPv6: %w", err)
	}
	return &Server{
		cfg: cfg, ipv4: ipv4, ipv6: ipv6,
		wake:  make(chan struct{}, 1),
		ports: make(map[int]*served),
	}, nil
}

// Close ends Run and frees the sockets.
func (s *Server) Close() error { return errors.Join(s.ipv4.Close(), s.ipv6.Close()) }

// Set makes ifindex answer as p, replacing what it was. A change is advertised to the machine at once.
// The error is a joined list of p's faults.
func (s *Server) Set(ifindex int, p Port) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("set port of device %d: %w", ifindex, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, ok := s.ports[ifindex]; ok {
		if reflect.DeepEqual(have.port, p) {
			return nil
		}
		have.port, have.advertise = p, time.Time{}
	} else {
		s.ports[ifindex] = &served{port: p}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// Remove stops answering on ifindex.
func (s *Server) Remove(ifindex int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ports, ifindex)
}

// Run serves until ctx ends, which is no error. It must be called at most once.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.receive(ctx, s.ipv4) })
	group.Go(func() error { return s.receive(ctx, s.ipv6) })
	group.Go(func() error { return s.advertise(ctx) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("answer machines: %w", err)
	}
	return nil
}

// maxRequest is more than any client sends; what is longer is cut and then found malformed.
const maxRequest = 4096

func (s *Server) receive(ctx context.Context, conn *socket.Conn) error {
	buf := make([]byte, maxRequest)
	for {
		n, from, err := conn.Recvfrom(ctx, buf, 0)
		switch {
		case err == nil:
		case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR):
			s.counts[receiveError].Add(1) // a device's trouble, reported once
			continue
		default:
			return err
		}
		if sender, ok := from.(*unix.SockaddrLinklayer); ok {
			s.serve(conn, sender.Ifindex, buf[:n])
		}
	}
}

// serve handles one frame that came in on device ifindex.
func (s *Server) serve(conn *socket.Conn, ifindex int, frame []byte) {
	port, what := s.admit(ifindex, time.Now())
	if port == nil {
		s.counts[what].Add(1)
		return
	}
	reply, what := port.answer(frame)
	s.counts[what].Add(1)
	if what == declined {
		s.cfg.Log.Debug("machine found its address in use", "mac", port.MAC, "ifindex", ifindex)
	}
	if reply != nil {
		s.send(conn, ifindex, reply)
	}
}

// admit returns a copy of the port, nil and the reason when the packet must not be answered.
func (s *Server) admit(ifindex int, now time.Time) (*Port, outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry, ok := s.ports[ifindex]
	if !ok {
		return nil, unknownPort
	}
	if !entry.bucket.admit(now, s.cfg.Rate, s.cfg.Burst) {
		return nil, rateLimited
	}
	port := entry.port
	return &port, 0
}

func (s *Server) send(conn *socket.Conn, ifindex int, frame []byte) {
	if err := transmit(conn, ifindex, frame); err != nil {
		s.counts[sendError].Add(1)
		s.cfg.Log.Debug("answer not sent", "ifindex", ifindex, "error", err)
	}
}

// advertise sends unsolicited router advertisements: at once for a new or changed port, then at
// random intervals within RFC 4861's bounds.
func (s *Server) advertise(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		case <-timer.C:
		}
		due, next := s.due(time.Now())
		for ifindex, port := range due {
			s.send(s.ipv6, ifindex, port.advertise(allNodes, allNodesMAC))
			s.counts[sentAdvertisement].Add(1)
		}
		timer.Reset(next)
	}
}

// due returns the ports whose advertisement is due at now, sets their next one, and tells how long
// there is nothing to do.
func (s *Server) due(now time.Time) (map[int]Port, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	due, next := make(map[int]Port), maxInterval
	for ifindex, entry := range s.ports {
		if len(entry.port.ipv6()) == 0 {
			continue
		}
		if !entry.advertise.After(now) {
			due[ifindex] = entry.port
			entry.advertise = now.Add(minInterval + rand.N(maxInterval-minInterval))
		}
		next = min(next, entry.advertise.Sub(now))
	}
	return due, next
}

// Counters are totals since New.
type Counters struct {
	// Answers sent, by kind.
	DHCPv4, DHCPv4Naks, DHCPv6, Advertisements uint64
	// Ignored requests are well-formed, but none of ours: another client's, another server's, a
	// release, a family that the port does not have.
	Ignored uint64
	// Declined: a machine found its address in use by another.
	Declined uint64
	// Malformed requests, and those that made a parser panic.
	Malformed, Panics uint64
	// UnknownPort: a device that was never Set, or was Removed.
	UnknownPort uint64
	// RateLimited requests were not looked at; Lost ones found the receive buffer full.
	RateLimited, Lost uint64
	// Errors of the sockets; a device that vanished gives a SendError.
	SendErrors, ReceiveErrors uint64
}

// Counters returns a snapshot.
func (s *Server) Counters() Counters {
	for _, conn := range []*socket.Conn{s.ipv4, s.ipv6} {
		// Reading the statistics resets them.
		if stats, err := conn.GetsockoptTpacketStats(unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			s.lost.Add(uint64(stats.Drops))
		}
	}
	get := func(o outcome) uint64 { return s.counts[o].Load() }
	return Counters{
		DHCPv4: get(sentDHCPv4), DHCPv4Naks: get(sentNak), DHCPv6: get(sentDHCPv6),
		Advertisements: get(sentAdvertisement),
		Ignored:        get(ignored), Declined: get(declined),
		Malformed: get(malformed), Panics: get(parserPanic), UnknownPort: get(unknownPort),
		RateLimited: get(rateLimited), Lost: s.lost.Load(),
		SendErrors: get(sendError), ReceiveErrors: get(receiveError),
	}
}
