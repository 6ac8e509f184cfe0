package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/controlplane/api/v1alpha1"
	"ingot/dataplane"
	"ingot/iri/machine"
	"ingot/routing"
	"ingot/runtime/fault"
)

// fakeDataplane renders its state as sorted text.
type fakeDataplane struct {
	ports  map[string]dataplane.PortSpec
	routes map[dataplane.RouteKey]dataplane.Route
	broken error
}

func newFake() *fakeDataplane {
	return &fakeDataplane{ports: map[string]dataplane.PortSpec{}, routes: map[dataplane.RouteKey]dataplane.Route{}}
}

func (f *fakeDataplane) EnsurePort(_ context.Context, s dataplane.PortSpec) (dataplane.PortStatus, error) {
	if f.broken != nil {
		return dataplane.PortStatus{}, f.broken
	}
	f.ports[s.ID] = s
	return dataplane.PortStatus{ID: s.ID, Device: "tap-" + s.ID, MTU: 1460, Ready: true, Spec: s}, nil
}

func (f *fakeDataplane) DeletePort(_ context.Context, id string) error {
	delete(f.ports, id)
	return f.broken
}

func (f *fakeDataplane) Prune(_ context.Context, keep []string) error {
	maps.DeleteFunc(f.ports, func(id string, _ dataplane.PortSpec) bool { return !slices.Contains(keep, id) })
	return f.broken
}

func (f *fakeDataplane) Ports() []dataplane.PortStatus {
	var all []dataplane.PortStatus
	for _, id := range slices.Sorted(maps.Keys(f.ports)) {
		all = append(all, dataplane.PortStatus{ID: id, Device: "tap-" + id, Ready: true, Spec: f.ports[id]})
	}
	return all
}

func (f *fakeDataplane) ApplyRoutes(_ context.Context, routes []dataplane.Route) error {
	if f.broken != nil {
		return f.broken
	}
	for _, r := range routes {
		f.routes[r.Key] = r
		if len(r.NextHops) == 0 {
			delete(f.routes, r.Key)
		}
	}
	return nil
}

func (f *fakeDataplane) SyncRoutes(ctx context.Context, vni uint32, all []dataplane.Route) error {
	if f.broken != nil {
		return f.broken
	}
	maps.DeleteFunc(f.routes, func(k dataplane.RouteKey, _ dataplane.Route) bool { return k.VNI == vni })
	return f.ApplyRoutes(ctx, all)
}

func (f *fakeDataplane) String() string {
	var lines []string
	for _, s := range f.ports {
		lines = append(lines, fmt.Sprintf("port %s vni %d mac %s addresses %v ingress %v", s.ID, s.VNI, s.MAC, s.Addresses, s.Policy.Ingress.Enforced))
	}
	for _, r := range f.routes {
		lines = append(lines, fmt.Sprintf("route %d %s via %v", r.Key.VNI, r.Key.Prefix, r.NextHops[0].Address))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

type fakeView map[string]*v1alpha1.HostInterfaceSpec

func (v fakeView) Interface(_ context.Context, uid string) (*v1alpha1.HostInterfaceSpec, error) {
	if spec := v[uid]; spec != nil {
		return spec, nil
	}
	return nil, fault.NotFound
}

func testNetwork(dp Dataplane, view fakeView) *Network {
	return New(Config{UnderlayPrefix: netip.MustParsePrefix("fd00:10:0:1::/64")}, dp, view)
}

var request = machine.PortRequest{MachineID: "m1", NIC: "eth0", Attributes: map[string]string{InterfaceAttribute: "u1"}}

func TestPortFollowsTheView(t *testing.T) {
	dp, view := newFake(), fakeView{}
	n := testNetwork(dp, view)
	if _, err := n.EnsurePort(t.Context(), request); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("unknown interface: got %v, want Unavailable", err)
	}
	view["u1"] = &v1alpha1.HostInterfaceSpec{Uid: "u1", Vni: 100, Mac: "02:00:00:00:00:01", Ips: []string{"10.0.0.5"}}
	port, err := n.EnsurePort(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if port.Device != "tap-m1/eth0" || port.MTU != 1460 || port.Handle != "m1/eth0" {
		t.Errorf("got %+v", port)
	}
	underlay := dp.ports["m1/eth0"].Underlay
	if !netip.MustParsePrefix("fd00:10:0:1::/64").Contains(underlay) {
		t.Errorf("underlay address %s is not the host's", underlay)
	}
	view["u1"].Ingress = &v1alpha1.CompiledRuleSet{Enforced: true}
	if err := n.Refresh(t.Context(), "u1"); err != nil {
		t.Fatal(err)
	}
	want := "port m1/eth0 vni 100 mac 02:00:00:00:00:01 addresses [10.0.0.5] ingress true"
	if diff := cmp.Diff(want, dp.String()); diff != "" {
		t.Errorf("after refresh (-want +got):\n%s", diff)
	}
	if got := dp.ports["m1/eth0"].Underlay; got != underlay {
		t.Errorf("underlay address moved from %s to %s", underlay, got)
	}
}

func TestRestartedAgentKeepsPortsThatTheViewForgot(t *testing.T) {
	dp := newFake()
	view := fakeView{"u1": {Uid: "u1", Vni: 100, Mac: "02:00:00:00:00:01", Ips: []string{"10.0.0.5"}}}
	if _, err := testNetwork(dp, view).EnsurePort(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	before := dp.String()
	if _, err := testNetwork(dp, fakeView{}).EnsurePort(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, dp.String()); diff != "" {
		t.Errorf("port changed (-before +after):\n%s", diff)
	}
}

func TestForeignPolletsInterfaceNeedsNoView(t *testing.T) {
	dp := newFake()
	n := testNetwork(dp, nil)
	r := machine.PortRequest{MachineID: "m1", NIC: "eth0", NetworkID: "ingot://vni/7", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.5")}}
	port, err := n.EnsurePort(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if port.MAC[0]&3 != 2 {
		t.Errorf("MAC %s is not a locally administered unicast address", port.MAC)
	}
	for _, id := range []string{"", "vni/7", "ingot://vni/0", "ingot://vni/16777216"} {
		r.NetworkID = id
		if _, err := n.EnsurePort(t.Context(), r); !errors.Is(err, fault.Invalid) {
			t.Errorf("network id %q: got %v, want Invalid", id, err)
		}
	}
}

func TestSettleRemovesPortsOfDeadMachinesOnly(t *testing.T) {
	dp := newFake()
	for _, id := range []string{"dead/eth0", "alive/eth0"} {
		dp.ports[id] = dataplane.PortSpec{ID: id}
	}
	n := testNetwork(dp, fakeView{"u1": {Uid: "u1", Vni: 1, Mac: "02:00:00:00:00:01"}})
	if _, err := n.EnsurePort(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if err := n.Settle(t.Context(), map[string]bool{"alive": true}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"alive/eth0", "m1/eth0"}, slices.Sorted(maps.Keys(dp.ports))); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
}

func TestNoTwoPortsShareAnUnderlayAddress(t *testing.T) {
	dp := newFake()
	n := New(Config{UnderlayPrefix: netip.MustParsePrefix("fd00:10:0:1::/116")}, dp, fakeView{})
	seen := map[netip.Addr]string{}
	for i := range 1000 {
		r := machine.PortRequest{MachineID: fmt.Sprint("m", i), NIC: "eth0", NetworkID: "ingot://vni/7"}
		if _, err := n.EnsurePort(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		id := PortID(r.MachineID, r.NIC)
		a := dp.ports[id].Underlay
		if seen[a] != "" {
			t.Fatalf("%s and %s share %s", seen[a], id, a)
		}
		if a.As16()[14]&0x0f == 0 {
			t.Fatalf("%s has %s, which is among the host's own", id, a)
		}
		seen[a] = id
	}
}

// fakeSpeaker remembers what it was told.
type fakeSpeaker struct {
	told   chan []routing.Announcement
	synced chan struct{}
	refuse chan error // answered, in turn, instead
}

func (s fakeSpeaker) Announce(ctx context.Context, all []routing.Announcement) error {
	select {
	case err := <-s.refuse:
		return err
	default:
	}
	select {
	case s.told <- all:
	case <-ctx.Done():
	}
	return nil
}
func (fakeSpeaker) Import([]uint32)           {}
func (s fakeSpeaker) Synced() <-chan struct{} { return s.synced }

func route(vni uint32, prefix, hop string) routing.RouteUpdate {
	u := routing.RouteUpdate{Key: routing.RouteKey{VNI: vni, Prefix: netip.MustParsePrefix(prefix)}}
	if hop != "" {
		u.NextHops = []netip.Addr{netip.MustParseAddr(hop)}
	}
	return u
}

func TestStaleRoutesGoOnlyOnceTheTableIsComplete(t *testing.T) {
	dp := newFake()
	stale := dataplane.Route{Key: dataplane.RouteKey{VNI: 7, Prefix: netip.MustParsePrefix("10.0.0.9/32")},
		NextHops: []dataplane.NextHop{{Address: netip.MustParseAddr("fd00:10:0:2::9")}}}
	dp.routes[stale.Key] = stale
	n := testNetwork(dp, nil)
	n.routes.host(t.Context(), []uint32{7})
	n.Learn([]routing.RouteUpdate{route(7, "10.0.0.1/32", "fd00:10:0:2::1"), route(7, "10.0.0.2/32", "fd00:10:0:2::2")})
	n.Learn([]routing.RouteUpdate{route(7, "10.0.0.2/32", "")})
	if _, ok := dp.routes[stale.Key]; !ok {
		t.Fatal("a route was removed before the table was complete")
	}
	dp.broken = fault.Unavailable
	n.routes.settle(t.Context())
	dp.broken = nil
	n.routes.again(t.Context())
	if diff := cmp.Diff("route 7 10.0.0.1/32 via fd00:10:0:2::1", dp.String()); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	n.routes.host(t.Context(), nil)
	if got := dp.String(); got != "" {
		t.Errorf("routes of a network without ports remain:\n%s", got)
	}
}

func TestRefusedRoutesAreTriedAgain(t *testing.T) {
	dp := newFake()
	n := testNetwork(dp, nil)
	dp.broken = fault.Exhausted
	n.Learn([]routing.RouteUpdate{route(7, "10.0.0.1/32", "fd00:10:0:2::1")})
	dp.broken = nil
	n.routes.again(t.Context())
	if diff := cmp.Diff("route 7 10.0.0.1/32 via fd00:10:0:2::1", dp.String()); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

func TestRoutesOfALeftNetworkAreRemovedInTheEnd(t *testing.T) {
	dp := newFake()
	n := testNetwork(dp, nil)
	n.routes.host(t.Context(), []uint32{7})
	n.Learn([]routing.RouteUpdate{route(7, "10.0.0.1/32", "fd00:10:0:2::1")})
	dp.broken = fault.Unavailable
	n.Learn([]routing.RouteUpdate{route(7, "10.0.0.2/32", "fd00:10:0:2::2")})
	n.routes.host(t.Context(), nil)
	dp.broken = nil
	n.routes.again(t.Context())
	if got := dp.String(); got != "" {
		t.Errorf("routes of a network without ports remain:\n%s", got)
	}
}

func TestRefusedAnnouncementIsTriedAgain(t *testing.T) {
	dp := newFake()
	dp.ports["m1/eth0"] = dataplane.PortSpec{ID: "m1/eth0", VNI: 7, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5")}}
	speaker := fakeSpeaker{told: make(chan []routing.Announcement), synced: make(chan struct{}), refuse: make(chan error, 1)}
	speaker.refuse <- fault.Unavailable
	n := testNetwork(dp, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- n.Run(ctx, speaker) }()
	select {
	case <-speaker.told:
	case <-time.After(time.Minute):
		t.Error("ports are not announced again after the speaker refused them")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAdoptedPortsAreAnnouncedAtTheStart(t *testing.T) {
	dp := newFake()
	dp.ports["m1/eth0"] = dataplane.PortSpec{ID: "m1/eth0", VNI: 7, Underlay: netip.MustParseAddr("fd00:10:0:1::1:1"),
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5")}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}
	speaker := fakeSpeaker{told: make(chan []routing.Announcement, 1), synced: make(chan struct{})}
	n := testNetwork(dp, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- n.Run(ctx, speaker) }()
	var got []string
	for _, a := range <-speaker.told {
		got = append(got, fmt.Sprint(a.VNI, " ", a.Prefix, " ", a.NextHop))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	want := []string{"7 10.9.0.0/16 fd00:10:0:1::1:1", "7 10.0.0.5/32 fd00:10:0:1::1:1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
}
