// Package routing is the host's BGP speaker: it announces where local ports are and learns where
// all the others are, as EVPN type 5 routes through the fabric's route reflectors.
//
// It owns sessions and the table of paths. It never owns local endpoints (they are given to
// Announce), never touches the kernel (routes go to a sink) and is the only package that imports
// the BGP library.
package routing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
	"golang.org/x/sync/errgroup"
)

// A Speaker keeps sessions with the route reflectors of a host.
type Speaker struct {
	cfg  Config
	log  *slog.Logger
	sink func([]RouteUpdate)
	bgp  *server.BgpServer

	started chan struct{} // closed by the first Announce
	synced  chan struct{} // closed once, see Synced
	wake    chan struct{} // the sink has something to hear
	ran     atomic.Bool

	// outMu guards what goes out; it may be held while the library works.
	outMu      sync.Mutex
	running    bool
	want, sent map[announcementKey]Announcement
	indexes    *distinguishers
	members    map[uint32]bool // wanted route target memberships, true once told

	// mu guards what comes in; it is held for short computations only.
	mu       sync.Mutex
	rib      *rib
	sessions []*session
	counters Counters
}

// New makes a speaker; nothing is opened before Run. The sink gets route changes in batches of up
// to 4096, one call at a time, and owns them; while it works, further changes of one
// destination merge. After Run started again from scratch, the sink is told every route again.
func New(cfg Config, sink func([]RouteUpdate)) (*Speaker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure routing: %w", err)
	}
	cfg = cfg.withDefaults()
	s := &Speaker{
		cfg: cfg, log: cfg.Logger, sink: sink,
		started: make(chan struct{}), synced: make(chan struct{}), wake: make(chan struct{}, 1),
		sent:    map[announcementKey]Announcement{},
		indexes: newDistinguishers(),
		members: map[uint32]bool{presenceVNI: false},
		rib:     newRIB(len(cfg.Reflectors)),
	}
	now := time.Now()
	for i, r := range cfg.Reflectors {
		s.sessions = append(s.sessions, &session{
			Reflector: r, address: r.Address.String(), index: i, broken: make(chan struct{}, 1), state: Idle, since: now,
		})
	}
	s.bgp = server.NewBgpServer(server.LoggerOption(libraryLog{log: cfg.Logger, failed: s.sessionFailed}))
	return s, nil
}

// Run keeps the sessions until ctx ends; it may be called once. Sessions are opened after the
// first Announce, so that End-of-RIB never claims that a set is complete which is not. At the
// end connections are dropped without a BGP message: reflectors keep this host's routes
// for Config.RestartTime. To withdraw them instead, announce nothing before.
func (s *Speaker) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("run routing: a speaker runs once")
	}
	go s.bgp.Serve() // has no end; it idles once the neighbours are gone
	if err := s.start(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	goSafe := func(name string, run func(context.Context) error) {
		group.Go(func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("routing %s: panic: %v\n%s", name, p, debug.Stack())
				}
			}()
			return run(ctx)
		})
	}
	goSafe("deliver", s.deliver)
	goSafe("settle", s.settleLoop)
	for _, n := range s.sessions {
		goSafe("session", func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return nil
			case <-s.started:
				return s.runSession(ctx, n)
			}
		})
	}
	err := group.Wait()
	s.outMu.Lock()
	s.running = false
	s.outMu.Unlock()
	return errors.Join(err, s.bgp.StopBgp(context.WithoutCancel(ctx), &api.StopBgpRequest{}))
}

// start configures the library and tells it what was announced before Run.
func (s *Speaker) start(ctx context.Context) error {
	global := &api.Global{Asn: s.cfg.ASN, RouterId: s.cfg.RouterID.String(), ListenPort: int32(s.cfg.ListenPort)}
	if s.cfg.LocalAddress.IsValid() {
		global.ListenAddresses = []string{s.cfg.LocalAddress.String()}
	}
	if err := s.bgp.StartBgp(ctx, &api.StartBgpRequest{Global: global}); err != nil {
		return fmt.Errorf("start bgp: %w", err)
	}
	if err := s.keepReceivedOut(ctx); err != nil {
		return fmt.Errorf("set import policy: %w", err)
	}
	table := func(t api.WatchEventRequest_Table_Filter_Type) *api.WatchEventRequest_Table_Filter {
		return &api.WatchEventRequest_Table_Filter{Type: t}
	}
	err := s.bgp.WatchEvent(ctx, &api.WatchEventRequest{
		Peer: &api.WatchEventRequest_Peer{},
		Table: &api.WatchEventRequest_Table{Filters: []*api.WatchEventRequest_Table_Filter{
			table(api.WatchEventRequest_Table_Filter_ADJIN), table(api.WatchEventRequest_Table_Filter_EOR),
		}},
	}, s.event)
	if err != nil {
		return fmt.Errorf("watch bgp: %w", err)
	}
	s.outMu.Lock()
	defer s.outMu.Unlock()
	s.running = true
	presence, err := encodePresence(s.cfg)
	if err != nil {
		return err
	}
	if err := s.tellPath(ctx, presence, false); err != nil {
		return err
	}
	return s.flush(ctx)
}

// keepReceivedOut keeps received routes out of the library's own best-path table: this host
// passes nothing on, and the table would cost as much memory and time again.
func (s *Speaker) keepReceivedOut(ctx context.Context) error {
	local := &api.Policy{Name: "local-only", Statements: []*api.Statement{{
		Name:       "local",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ACCEPT},
	}, {
		Name:       "memberships", // they decide what is announced to whom
		Conditions: &api.Conditions{AfiSafiIn: []*api.Family{familyRTC}},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ACCEPT},
	}}}
	if err := s.bgp.AddPolicy(ctx, &api.AddPolicyRequest{Policy: local}); err != nil {
		return err
	}
	return s.bgp.AddPolicyAssignment(ctx, &api.AddPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_IMPORT,
		Policies: []*api.Policy{local}, DefaultAction: api.RouteAction_REJECT,
	}})
}

// Announce replaces the set of prefixes that this host announces; only the difference is sent. It
// may be called before Run. A set with faults changes nothing and gives an error of class fault.Invalid.
func (s *Speaker) Announce(ctx context.Context, all []Announcement) error {
	want, err := s.cfg.index(all)
	if err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	s.outMu.Lock()
	defer s.outMu.Unlock()
	first := s.want == nil
	s.want = want
	if err := s.flush(ctx); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	if first {
		close(s.started)
	}
	return nil
}

// Import replaces the set of networks whose routes the sink is told. Routes of a new one that
// are known already are told at once, those of a dropped one are withdrawn from the sink.
func (s *Speaker) Import(vnis []uint32) {
	s.mu.Lock()
	added, removed := s.rib.setImports(vnis)
	s.mu.Unlock()
	s.nudge()
	s.outMu.Lock()
	defer s.outMu.Unlock()
	for _, vni := range removed {
		if s.members[vni] {
			if err := s.tellMembership(context.Background(), vni, true); err != nil {
				s.log.Error("route target membership is not withdrawn", "vni", vni, "error", err)
			}
		}
		delete(s.members, vni)
	}
	for _, vni := range added {
		s.members[vni] = false
	}
	if err := s.flush(context.Background()); err != nil {
		s.log.Error("route target memberships are not announced", "error", err)
	}
}

// flush tells the library what it has not been told. outMu is held.
func (s *Speaker) flush(ctx context.Context) error {
	if !s.running {
		return nil
	}
	for vni, told := range s.members {
		if told {
			continue
		}
		if err := s.tellMembership(ctx, vni, false); err != nil {
			return err
		}
		s.members[vni] = true
	}
	announce, withdraw := difference(s.want, s.sent)
	for _, a := range announce {
		if err := s.tell(ctx, a, false); err != nil {
			return err
		}
		s.sent[a.key()] = a
	}
	for _, a := range withdraw {
		if err := s.tell(ctx, a, true); err != nil {
			return err
		}
		delete(s.sent, a.key())
	}
	s.indexes.keep(s.sent)
	s.mu.Lock()
	s.counters.Announcements += uint64(len(announce))
	s.counters.Withdrawals += uint64(len(withdraw))
	s.mu.Unlock()
	return nil
}

func (s *Speaker) tell(ctx context.Context, a Announcement, withdraw bool) error {
	index, err := s.indexes.get(a)
	if err != nil {
		return err
	}
	p, err := encodeAnnouncement(a, s.cfg, index)
	if err != nil {
		return err
	}
	return s.tellPath(ctx, p, withdraw)
}

func (s *Speaker) tellMembership(ctx context.Context, vni uint32, withdraw bool) error {
	if !s.running {
		return nil
	}
	p, err := encodeMembership(vni, s.cfg)
	if err != nil {
		return err
	}
	return s.tellPath(ctx, p, withdraw)
}

func (s *Speaker) tellPath(ctx context.Context, p *api.Path, withdraw bool) (err error) {
	if withdraw {
		err = s.bgp.DeletePath(ctx, &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Family: p.Family, Path: p})
	} else {
		_, err = s.bgp.AddPath(ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: p})
	}
	if err != nil {
		return fmt.Errorf("tell bgp: %w", err)
	}
	return nil
}

// Synced is closed once a full table is known: a session has delivered its End-of-RIB and stood
// for Config.StaleTime, and no other that is up still owes its own. Only then is a route that
// the sink was not told of gone, and may be collected from a dataplane that outlived its agent.
func (s *Speaker) Synced() <-chan struct{} { return s.synced }

// Status is a snapshot.
func (s *Speaker) Status() Status {
	s.outMu.Lock()
	announced := len(s.sent)
	s.outMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Status{Announced: announced, Orphans: s.rib.orphans(), Started: isClosed(s.started), Synced: isClosed(s.synced), Counters: s.counters}
	for _, n := range s.sessions {
		a := &s.rib.adjacencies[n.index]
		st := SessionStatus{
			Reflector: n.Address, State: n.state, Since: n.since,
			RoutesIn: len(a.paths), Stale: a.stale, Flaps: n.flaps, LastError: n.lastError,
		}
		if n.established() {
			st.RoutesOut = announced
		}
		out.Sessions = append(out.Sessions, st)
	}
	return out
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (s *Speaker) sessionFailed(reflector netip.Addr, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.sessions, func(n *session) bool { return n.Address == reflector }); i >= 0 {
		s.sessions[i].lastError = reason
	}
}
