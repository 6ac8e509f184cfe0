package routing

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// A recorder is a sink.
type recorder struct {
	mu     sync.Mutex // guards routes
	routes map[RouteKey][]netip.Addr
}

func (r *recorder) sink(updates []RouteUpdate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range updates {
		if len(u.NextHops) == 0 {
			delete(r.routes, u.Key)
		} else {
			r.routes[u.Key] = u.NextHops
		}
	}
}

func eventually(t *testing.T, what string, ok func() string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		reason := ok()
		if reason == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, reason)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// libraryReflector reflects on loopback, with the library itself; it knows RFC 4684, as FRR does not.
func libraryReflector(t *testing.T, clients ...string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	discard := libraryLog{log: slog.New(slog.NewTextHandler(io.Discard, nil)), failed: func(netip.Addr, string) {}}
	bgp := server.NewBgpServer(server.LoggerOption(discard))
	go bgp.Serve()
	ctx := context.Background()
	if err := bgp.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: 64512, RouterId: "10.255.255.1", ListenPort: int32(at.Port()), ListenAddresses: []string{"127.0.0.1"},
	}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bgp.StopBgp(ctx, &api.StopBgpRequest{}) })
	for _, client := range clients {
		cfg := goodConfig().withDefaults()
		p := cfg.peer(Reflector{Address: netip.MustParseAddr(client), ASN: 64512, RouteTargetConstraint: true}, false)
		p.Transport = &api.Transport{PassiveMode: true}
		p.RouteReflector = &api.RouteReflector{RouteReflectorClient: true, RouteReflectorClusterId: "10.255.255.1"}
		if err := bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: p}); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

// startSpeaker runs a speaker until the test ends.
func startSpeaker(t *testing.T, cfg Config, local string, reflector netip.AddrPort) (*Speaker, *recorder) {
	t.Helper()
	cfg.LocalAddress = netip.MustParseAddr(local)
	cfg.Reflectors = []Reflector{{Address: reflector.Addr(), Port: reflector.Port(), RouteTargetConstraint: true}}
	cfg.StaleTime = 50 * time.Millisecond
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	sink := &recorder{routes: map[RouteKey][]netip.Addr{}}
	s, err := New(cfg, sink.sink)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Run does not end")
		}
	})
	return s, sink
}

// Under the race detector this reports the library: several of its servers in one process share
// variables that each writes at its start. An agent has one.
func TestRouteTargetConstraintSparesAHostWhatItDoesNotImport(t *testing.T) {
	at := libraryReflector(t, "127.0.0.2", "127.0.0.3")
	a, _ := startSpeaker(t, goodConfig(), "127.0.0.2", at)
	b, sink := startSpeaker(t, peerConfig(), "127.0.0.3", at)
	ctx := t.Context()
	announcement := func(vni uint32) Announcement {
		return Announcement{PortID: "p", VNI: vni, Prefix: netip.MustParsePrefix("10.0.0.1/32"), NextHop: netip.MustParseAddr("fd00:10:0:1::7")}
	}
	if err := a.Announce(ctx, []Announcement{announcement(5), announcement(6), announcement(7)}); err != nil {
		t.Fatal(err)
	}
	b.Import([]uint32{5})
	if err := b.Announce(ctx, nil); err != nil {
		t.Fatal(err)
	}
	has := func(vnis ...uint32) func() string {
		want := map[RouteKey][]netip.Addr{}
		for _, vni := range vnis {
			want[RouteKey{vni, netip.MustParsePrefix("10.0.0.1/32")}] = []netip.Addr{netip.MustParseAddr("fd00:10:0:1::7")}
		}
		return func() string {
			sink.mu.Lock()
			defer sink.mu.Unlock()
			return cmp.Diff(want, sink.routes, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
		}
	}
	eventually(t, "the imported network arrives", has(5))
	<-b.Synced()
	if got := b.Status().Sessions[0].RoutesIn; got != 2 { // and the presence
		t.Errorf("the reflector sent %d routes, want 2", got)
	}
	b.Import([]uint32{5, 7})
	eventually(t, "a network imported later arrives", has(5, 7))
	b.Import([]uint32{7})
	eventually(t, "a network no longer imported goes", has(7))
	if err := a.Announce(ctx, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "withdrawn routes go", has())
}
