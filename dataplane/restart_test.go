package dataplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ingot/dataplane/internal/bpf"
	"ingot/runtime/fault"
)

func TestRestartsLoseNoPacket(t *testing.T) {
	hosts := newHosts(t)
	a := hosts[0].machine("a", 7, 0xa, "10.0.0.1")
	b := hosts[1].machine("b", 7, 0xb, "10.0.0.2")
	a.spec.Policy = Policy{Egress: RuleSet{Enforced: true, Rules: []Rule{{Protocol: icmp4, ICMPType: 8, ICMPCode: -1}}}, Ingress: RuleSet{Enforced: true}}
	hosts[0].ensure(a.spec)
	hosts[0].knows(b)
	hosts[1].knows(a)
	a.pings("10.0.0.2")
	ping := exec.Command("ip", "netns", "exec", a.ns, "ping", "-i", "0.02", "-c", "200", "-W", "10", "10.0.0.2")
	var out bytes.Buffer
	ping.Stdout, ping.Stderr = &out, &out
	if err := ping.Start(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		for _, h := range hosts {
			h.open() // the previous one is left as a killed process would leave it
		}
	}
	err := ping.Wait()
	if err != nil || !strings.Contains(out.String(), " 0% packet loss") {
		t.Errorf("ping: %v\n%s", err, out.String())
	}
	want := hosts[0].manager.Ports()
	if len(want) != 1 || !want[0].Ready || want[0].MTU != 1460 {
		t.Errorf("ports %+v: want one, ready", want)
	}
}

// facts renders what a host has, one a line.
func (h *host) facts() string {
	var lines []string
	m := h.manager
	err := m.kernel.Ports.Walk(func(_ []uint32, values []bpf.Port) error {
		for _, v := range values {
			lines = append(lines, "port of MAC "+net.HardwareAddr(v.Mac[:]).String())
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	err = m.walkRoutes(func(k RouteKey, v bpf.Route) {
		if v.LocalIfindex != 0 {
			lines = append(lines, "local "+k.Prefix.String())
		}
		if v.Count != 0 {
			lines = append(lines, "remote "+k.Prefix.String())
		}
	})
	if err != nil {
		h.t.Fatal(err)
	}
	lines = append(lines, count(h.t, "rules", m.kernel.Peers), count(h.t, "vectors", m.kernel.Vectors),
		count(h.t, "underlays", m.kernel.Underlays), count(h.t, "groups", m.kernel.Multipaths))
	links, err := m.kernel.Links()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, l := range links {
		lines = append(lines, "link "+l)
	}
	files, _ := filepath.Glob(filepath.Join(h.cfg.StateDir, "*"))
	for _, f := range files {
		lines = append(lines, "file "+filepath.Base(f))
	}
	h.do(func() {
		all, _ := net.Interfaces()
		for _, d := range all {
			if strings.HasPrefix(d.Name, tapPrefix) {
				lines = append(lines, "tap "+d.Name)
			}
		}
	})
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func count[K comparable, V any](t *testing.T, name string, table bpf.Table[K, V]) string {
	t.Helper()
	all, err := table.Select(func(K, V) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(name, " ", len(all))
}

func TestDeletedPortLeavesNothing(t *testing.T) {
	w := newWorkbench(t)
	empty := w.facts()
	a := w.port(1, 7, Policy{Ingress: allow(6, 80), Egress: allow(6, 80, "10.0.0.0/8")})
	w.arrives(a, 2, ip("10.9.0.2", "10.0.0.1", tcp(4000, 80, syn))).wantForwarded(t)
	full := w.facts()
	a.Addresses = append(a.Addresses, netip.MustParseAddr("10.0.0.77"))
	w.ensure(a)
	a.Addresses = a.Addresses[:2]
	w.ensure(a)
	if got := w.facts(); got != full {
		t.Errorf("after a change and back:\n%s\nwant\n%s", got, full)
	}
	for range 2 {
		w.do(func() {
			if err := w.manager.DeletePort(context.Background(), a.ID); err != nil {
				t.Fatal(err)
			}
		})
	}
	if got := w.facts(); got != empty {
		t.Errorf("after deletion:\n%s\nwant\n%s", got, empty)
	}
	if _, err := w.manager.Flows(a.ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("flows of a deleted port: %v", err)
	}
}

func TestPruneRemovesWhatACrashLeft(t *testing.T) {
	w := newWorkbench(t)
	empty := w.facts()
	a := w.port(1, 7, Policy{Ingress: allow(6, 80)})
	kept := w.facts()
	b := w.port(2, 7, Policy{Ingress: allow(6, 80)})
	if err := os.Remove(w.manager.records.path(b.ID)); err != nil { // as if it died while deleting
		t.Fatal(err)
	}
	w.open()
	w.do(func() {
		if err := w.manager.Prune(context.Background(), []string{a.ID}); err != nil {
			t.Fatal(err)
		}
	})
	if got := w.facts(); got != kept {
		t.Errorf("after pruning:\n%s\nwant\n%s", got, kept)
	}
	w.do(func() {
		if err := w.manager.Prune(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
	})
	if got := w.facts(); got != empty {
		t.Errorf("after pruning all:\n%s\nwant\n%s", got, empty)
	}
}

func TestHostThatLostItsDevicesAndPinsComesBackFromItsFiles(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{Ingress: allow(6, 80)})
	full := w.facts()
	w.do(func() { w.manager.Close() })
	sh(t, "ip -n %s link del %s", w.ns, w.ports[a.ID].Device)
	w.do(func() { sh(t, "umount %s", w.cfg.Dir) })
	w.open()
	if got := w.facts(); got != full {
		t.Errorf("after a reboot:\n%s\nwant\n%s", got, full)
	}
	ports := w.manager.Ports()
	if len(ports) != 1 || !ports[0].Ready {
		t.Errorf("ports %+v", ports)
	}
}

func TestBadInputIsRefusedAndLeavesNothing(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	before := w.facts()
	change := func(f func(*PortSpec)) PortSpec {
		s := a
		s.ID, s.Underlay = "other", w.underlay(0, 99)
		s.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.9")}
		f(&s)
		return s
	}
	for _, c := range []struct {
		name string
		spec PortSpec
		want error
	}{
		{"no ID", change(func(s *PortSpec) { s.ID = "" }), fault.Invalid},
		{"no VNI", change(func(s *PortSpec) { s.VNI = 0 }), fault.Invalid},
		{"a VNI of more than 24 bits", change(func(s *PortSpec) { s.VNI = 1 << 24 }), fault.Invalid},
		{"a multicast MAC", change(func(s *PortSpec) { s.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 0} }), fault.Invalid},
		{"no address", change(func(s *PortSpec) { s.Addresses = nil }), fault.Invalid},
		{"a multicast address", change(func(s *PortSpec) { s.Addresses[0] = netip.MustParseAddr("224.0.0.1") }), fault.Invalid},
		{"a foreign underlay", change(func(s *PortSpec) { s.Underlay = netip.MustParseAddr("fd99::1") }), fault.Invalid},
		{"another's underlay", change(func(s *PortSpec) { s.Underlay = a.Underlay }), fault.Conflict},
		{"another's address", change(func(s *PortSpec) { s.Addresses[0] = a.Addresses[0] }), fault.Conflict},
		{"ports upside down", change(func(s *PortSpec) {
			s.Policy.Ingress = RuleSet{Rules: []Rule{{Protocol: 6, PortFirst: 9, PortLast: 8}}}
		}), fault.Invalid},
		{"too many rules", change(func(s *PortSpec) { s.Policy.Ingress.Rules = make([]Rule, maxRules+1) }), fault.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.do(func() {
				if _, err := w.manager.EnsurePort(context.Background(), c.spec); !errors.Is(err, c.want) {
					t.Errorf("error %v, want %v", err, c.want)
				}
			})
			if got := w.facts(); got != before {
				t.Errorf("facts:\n%s\nwant\n%s", got, before)
			}
		})
	}
	err := w.manager.ApplyRoutes(context.Background(), []Route{
		{Key: RouteKey{7, netip.MustParsePrefix("10.7.0.0/16")}, NextHops: []NextHop{{Address: netip.MustParseAddr("10.0.0.1")}}}})
	if !errors.Is(err, fault.Invalid) || w.facts() != before {
		t.Errorf("route with an IPv4 next hop: %v", err)
	}
	if _, err := Open(Config{}); !errors.Is(err, fault.Invalid) {
		t.Errorf("empty configuration: %v", err)
	}
}
