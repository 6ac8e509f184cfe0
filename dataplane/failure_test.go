package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"ingot/dataplane/internal/bpf"
	"ingot/runtime/fault"
)

func hops(n ...byte) (all []NextHop) {
	for _, b := range n {
		all = append(all, NextHop{Address: netip.MustParseAddr(fmt.Sprintf("fd00:10:0:2::%x", b))})
	}
	return all
}

// reopen starts the dataplane with another size of its route tables: another schema.
func (w *workbench) reopen(maxRoutes int) {
	w.t.Helper()
	w.cfg.MaxRoutes = maxRoutes
	w.open()
}

func TestUnreadableMapsAreErrorsAndNothingIsDeleted(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	w.remote(7, "10.9.0.2/32", 2)
	before := w.facts()
	m := w.manager
	m.kernel.Close()
	for name, call := range map[string]func() error{
		"Prune":      func() error { return m.Prune(context.Background(), []string{a.ID}) },
		"SyncRoutes": func() error { return m.SyncRoutes(context.Background(), 7, nil) },
		"Flows":      func() error { _, err := m.Flows(a.ID); return err },
	} {
		w.do(func() {
			if err := call(); err == nil {
				t.Errorf("%s: no error", name)
			}
		})
	}
	w.open()
	if got := w.facts(); got != before {
		t.Errorf("facts:\n%s\nwant\n%s", got, before)
	}
}

func TestRoutesThatDoNotFitLeaveWhatTheKernelHas(t *testing.T) {
	w := newWorkbench(t)
	w.reopen(8)
	multi := RouteKey{7, netip.MustParsePrefix("10.9.0.1/32")}
	w.routes(Route{Key: multi, NextHops: hops(1, 2)})
	batch := []Route{{Key: multi, NextHops: hops(3, 4)}}
	for i := range 20 {
		batch = append(batch, Route{Key: RouteKey{7, netip.MustParsePrefix(fmt.Sprintf("10.9.1.%d/32", i))}, NextHops: hops(1)})
	}
	if err := w.manager.ApplyRoutes(context.Background(), batch); !errors.Is(err, fault.Exhausted) {
		t.Errorf("error %v, want exhausted", err)
	}
	v, _, err := w.manager.kernel.Hosts.Get(entryOf(multi).host)
	if err != nil || v.Group != w.manager.groups[multi] {
		t.Errorf("group %d in the kernel, %d in memory, %v", v.Group, w.manager.groups[multi], err)
	}
	if _, ok, err := w.manager.kernel.Multipaths.Get(v.Group); err != nil || !ok {
		t.Errorf("the route's group is gone: %v", err)
	}
	w.do(func() {
		if err := w.manager.SyncRoutes(context.Background(), 7, []Route{{Key: multi, NextHops: hops(1)}}); err != nil {
			t.Error(err)
		}
		if err := w.manager.Prune(context.Background(), nil); err != nil {
			t.Error(err)
		}
	})
	if got := w.facts(); !strings.Contains(got, "groups 0") || strings.Count(got, "remote") != 1 {
		t.Errorf("facts:\n%s", got)
	}
}

func TestAFullRouteTableTakesAReplacement(t *testing.T) {
	w := newWorkbench(t)
	w.reopen(8)
	for generation := range 3 {
		var all []Route
		for i := range 8 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(generation), byte(i)}), 32)
			all = append(all, Route{Key: RouteKey{7, p}, NextHops: hops(1)})
		}
		if err := w.manager.SyncRoutes(context.Background(), 7, all); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.facts(); strings.Count(got, "remote 10.9.2.") != 8 || strings.Count(got, "remote") != 8 {
		t.Errorf("facts:\n%s", got)
	}
}

func TestPruneUnpinsMapsOfAnotherSchema(t *testing.T) {
	w := newWorkbench(t)
	pins := func() (names []string) {
		entries, err := os.ReadDir(w.cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	a := w.port(1, 7, Policy{})
	before, facts := pins(), w.facts()
	w.reopen(1 << 15)
	if len(pins()) == len(before) {
		t.Fatal("another size is no other schema")
	}
	w.do(func() {
		if err := w.manager.Prune(context.Background(), []string{a.ID}); err != nil {
			t.Error(err)
		}
	})
	if got := pins(); len(got) != len(before) || slices.Equal(got, before) {
		t.Errorf("pins %v, before %v", got, before)
	}
	if got := w.facts(); got != facts {
		t.Errorf("facts:\n%s\nwant\n%s", got, facts)
	}
}

func TestASecondProcessIsRefused(t *testing.T) {
	w := newWorkbench(t)
	w.do(func() {
		if _, err := Open(w.cfg); !errors.Is(err, fault.Exists) {
			t.Errorf("second Open: %v", err)
		}
		if err := w.manager.Close(); err != nil {
			t.Error(err)
		}
	})
	w.open()
}

// A process that died between the record and the maps leaves the new record and the old maps.
func TestAHalfDoneChangeIsFinished(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	want := w.facts()
	more := a
	more.Addresses = append(slices.Clone(a.Addresses), netip.MustParseAddr("10.0.0.77"))
	more.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16")}
	more.Underlay = w.underlay(0, 0x777)
	w.ensure(more)
	rec := w.manager.ports[a.ID].record
	rec.Spec = a
	if err := w.manager.records.save(rec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.cfg.StateDir+"/.new-1", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	if got := w.facts(); got != want {
		t.Errorf("facts:\n%s\nwant\n%s", got, want)
	}
	if _, err := os.Stat(w.cfg.StateDir + "/.new-1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unfinished file: %v", err)
	}
}

func TestARenamedUplinkKeepsOneProgram(t *testing.T) {
	w := newWorkbench(t)
	sh(t, "ip -n %s link set up0 down", w.ns)
	sh(t, "ip -n %s link set up0 name up1", w.ns)
	w.cfg.Uplinks = []string{"up1"}
	w.open()
	links, err := w.manager.kernel.Links()
	if err != nil || !slices.Equal(links, []string{"uplink-up1"}) {
		t.Errorf("links %v, %v", links, err)
	}
}

func TestPruneLeavesTapsOfOthers(t *testing.T) {
	w := newWorkbench(t)
	sh(t, "ip -n %s tuntap add itadmin-vpn01 mode tap", w.ns)
	w.do(func() {
		if err := w.manager.Prune(context.Background(), nil); err != nil {
			t.Error(err)
		}
	})
	if got := w.facts(); !strings.Contains(got, "tap itadmin-vpn01") {
		t.Errorf("facts:\n%s", got)
	}
}

func TestRuleSetsThatComeRoundStayApart(t *testing.T) {
	w := newWorkbench(t)
	w.remote(7, "10.0.0.0/8", 2)
	a := w.port(1, 7, Policy{Ingress: allow(6, 80, "10.9.0.0/16")})
	w.manager.serials.Ruleset = 1<<24 - 1 // after some years of changes
	b := w.port(2, 7, Policy{Ingress: allow(6, 80, "10.8.0.0/16")})
	w.arrives(a, 2, ip("10.9.0.2", "10.0.0.1", tcp(4000, 80, syn))).wantForwarded(t)
	w.arrives(b, 2, ip("10.8.0.2", "10.0.0.2", tcp(4000, 80, syn))).wantForwarded(t)
	w.arrives(b, 2, ip("10.9.0.2", "10.0.0.2", tcp(4000, 80, syn))).wantDrop(t, b.ID, "policy-ingress")
}

func TestTwoPortsNeverShareADevice(t *testing.T) {
	w := newWorkbench(t)
	w.manager.cfg.Device = func(string) string { return "up0" }
	a := w.port(1, 7, Policy{})
	a.ID, a.Underlay, a.Addresses = "other", w.underlay(0, 99), []netip.Addr{netip.MustParseAddr("10.0.0.9")}
	w.do(func() {
		if _, err := w.manager.EnsurePort(context.Background(), a); !errors.Is(err, fault.Conflict) {
			t.Errorf("error %v, want a conflict", err)
		}
	})
}

// The slots of ports that are in the kernel only are not given away: flows are keyed by them.
func TestSlotsOfPortsWithoutRecordAreNotReused(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	if err := os.Remove(w.manager.records.path(a.ID)); err != nil {
		t.Fatal(err)
	}
	w.open()
	b := w.port(2, 8, Policy{})
	slots := map[uint32]bool{}
	err := w.manager.kernel.Ports.Walk(func(_ []uint32, values []bpf.Port) error {
		for _, v := range values {
			slots[v.Slot] = true
		}
		return nil
	})
	if err != nil || len(slots) != 2 {
		t.Errorf("slots %v, want two: that of %s and that of the lost one; %v", slots, b.ID, err)
	}
}

// One tenant's prefix with many origins must not hold up the routes of others in the same batch.
func TestMoreNextHopsThanFitAreNoError(t *testing.T) {
	w := newWorkbench(t)
	var many []byte
	for n := byte(1); n <= 20; n++ {
		many = append(many, n)
	}
	anycast := RouteKey{7, netip.MustParsePrefix("10.9.0.1/32")}
	w.routes(Route{Key: anycast, NextHops: hops(many...)}, Route{Key: RouteKey{8, netip.MustParsePrefix("10.9.0.2/32")}, NextHops: hops(1)})
	v, ok, err := w.manager.kernel.Hosts.Get(entryOf(anycast).host)
	if err != nil || !ok || v.Count != bpf.MaxNexthops {
		t.Errorf("route %+v, %t, %v; want %d next hops", v, ok, err, bpf.MaxNexthops)
	}
	if got := w.facts(); !strings.Contains(got, "remote 10.9.0.2/32") {
		t.Errorf("facts:\n%s", got)
	}
}
