package routing

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"golang.org/x/sys/unix"
)

// A session is what is known of one reflector. Speaker.mu guards it, except the constant fields.
type session struct {
	Reflector
	// address is Reflector.Address as the library spells it.
	address string
	index   int
	// broken wakes the goroutine that owns the session: it is down, or must go down.
	broken chan struct{}

	state     SessionState
	since     time.Time
	flaps     uint64
	lastError string
	// opened: this incarnation got as far as a TCP connection.
	opened bool
	// up is when the session was established, down when it was lost; one of them is zero.
	up, down time.Time
	// settled: synced, and up for StaleTime, so that every other host had time to come back too.
	settled bool
	// overflowed: closed for exceeding MaxPrefixes.
	overflowed bool
}

// established reports whether the session is up.
func (n *session) established() bool { return n.state == Established || n.state == Synced }

func (n *session) enter(state SessionState, now time.Time) {
	if n.state != state {
		n.state, n.since = state, now
	}
}

// fail asks the owner to start the session anew.
func (n *session) fail() {
	select {
	case n.broken <- struct{}{}:
	default:
	}
}

var sessionStates = map[api.PeerState_SessionState]SessionState{
	api.PeerState_IDLE:        Idle,
	api.PeerState_CONNECT:     Connect,
	api.PeerState_ACTIVE:      Active,
	api.PeerState_OPENSENT:    OpenSent,
	api.PeerState_OPENCONFIRM: OpenConfirm,
	api.PeerState_ESTABLISHED: Established,
}

// peerState notes a change of the state machine of n's session.
func (s *Speaker) peerState(n *session, told api.PeerState_SessionState, now time.Time) {
	state := sessionStates[told]
	switch {
	case state == Established:
		n.up, n.down, n.lastError = now, time.Time{}, ""
		s.log.Info("reflector session is up", "reflector", n.Address)
	case state == OpenSent || state == OpenConfirm:
		n.opened = true
	case n.established():
		n.flaps++
		n.up, n.down, n.settled = time.Time{}, now, false
		s.rib.down(n.index)
		n.fail()
		s.log.Warn("reflector session is down; its routes are kept", "reflector", n.Address,
			"routes", len(s.rib.adjacencies[n.index].paths), "reason", n.lastError)
	case state == Idle && n.opened:
		n.fail()
	}
	n.enter(state, now)
}

// runSession keeps the session until ctx ends. After each loss the neighbour is made anew rather than
// left to the library: only a new one announces again that this host kept forwarding, and it
// connects at once.
func (s *Speaker) runSession(ctx context.Context, n *session) error {
	forwarding := s.cfg.ForwardingPreserved
	pause := firstRetryPause
	for ctx.Err() == nil {
		if err := s.bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: s.cfg.peer(n.Reflector, forwarding)}); err != nil {
			return fmt.Errorf("add neighbour %v: %w", n.Address, err)
		}
		started := time.Now()
		select {
		case <-ctx.Done():
			// No farewell: a Cease would make the reflector withdraw this host's routes, a
			// lost connection makes it keep them (RFC 4724, 4.2).
			hangUp(s.cfg, n.Reflector)
		case <-n.broken:
		}
		if err := s.bgp.DeletePeer(context.WithoutCancel(ctx), &api.DeletePeerRequest{Address: n.Address.String()}); err != nil {
			return fmt.Errorf("delete neighbour %v: %w", n.Address, err)
		}
		pause = min(2*pause, longestRetryWait)
		if s.endIncarnation(n) {
			pause = longestRetryWait
		} else if time.Since(started) > longestRetryWait {
			pause = firstRetryPause
		}
		forwarding = true
		select {
		case <-ctx.Done():
		case <-time.After(pause / 4):
		}
	}
	return nil
}

// endIncarnation clears what was true of the closed session and reports whether it was closed for overflow.
func (s *Speaker) endIncarnation(n *session) (overflowed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.established() {
		s.peerState(n, api.PeerState_IDLE, time.Now())
	}
	overflowed = n.overflowed
	n.opened, n.overflowed = false, false
	select {
	case <-n.broken:
	default:
	}
	return overflowed
}

// peer gives the neighbour in the library's words.
func (c Config) peer(r Reflector, forwarding bool) *api.Peer {
	family := func(f *api.Family) *api.AfiSafi {
		return &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: f, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		}
	}
	p := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: r.Address.String(), PeerAsn: r.ASN, LocalAsn: c.ASN, AuthPassword: r.Password,
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry:           uint64(c.ConnectRetry / time.Second),
			HoldTime:               uint64(c.HoldTime / time.Second),
			KeepaliveInterval:      uint64(c.HoldTime / time.Second / 3),
			IdleHoldTimeAfterReset: 1,
		}},
		Transport: &api.Transport{RemotePort: uint32(r.Port)},
		GracefulRestart: &api.GracefulRestart{
			Enabled:     true,
			RestartTime: uint32(c.RestartTime / time.Second),
			// How long to wait for a reflector's End-of-RIB before announcing to it.
			DeferralTime: uint32(c.HoldTime / time.Second),
			// The library says "restarted" and "kept forwarding" with one switch.
			LocalRestarting: forwarding,
		},
		AfiSafis: []*api.AfiSafi{family(familyEVPN)},
	}
	if r.RouteTargetConstraint {
		p.AfiSafis = append(p.AfiSafis, family(familyRTC))
	}
	if c.LocalAddress.IsValid() {
		p.Transport.LocalAddress = c.LocalAddress.String()
	}
	if r.MaxHops > 0 {
		p.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 256 - uint32(r.MaxHops)}
	}
	return p
}

// hangUp ends the TCP connection to r without a BGP message. The library has no call for that
// and does not show its socket, so it is found among the open files of this process. A duplicate
// is examined and shut down, so that a number reused meanwhile cannot hit another file.
func hangUp(cfg Config, r Reflector) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // the session then ends with the process
	}
	for _, entry := range entries {
		number, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(number), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if isSession(fd, cfg, r) {
			_ = unix.Shutdown(fd, syscall.SHUT_RDWR)
		}
		_ = unix.Close(fd)
	}
}

func isSession(fd int, cfg Config, r Reflector) bool {
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return false
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	from, to := addrPort(local), addrPort(peer)
	return to.Addr() == r.Address &&
		(to.Port() == r.Port || int(from.Port()) == cfg.ListenPort) &&
		(!cfg.LocalAddress.IsValid() || from.Addr() == cfg.LocalAddress)
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
