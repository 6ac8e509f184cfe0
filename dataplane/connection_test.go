package dataplane

import (
	"net/netip"
	"slices"
	"testing"
)

// allow makes an enforced rule set of one rule.
func allow(protocol uint8, port uint16, peers ...string) RuleSet {
	r := Rule{Protocol: protocol, PortFirst: port, PortLast: port, ICMPType: -1, ICMPCode: -1}
	for _, p := range peers {
		r.Peers = append(r.Peers, netip.MustParsePrefix(p))
	}
	return RuleSet{Enforced: true, Rules: []Rule{r}}
}

func TestRepliesOfAllowedConnectionsPassAndNothingElse(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{Ingress: allow(6, 80, "10.0.0.0/24"), Egress: allow(17, 53)})
	w.remote(7, "10.0.0.2/32", 2)
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", udp(53, 999, 4))).wantDrop(t, a.ID, "policy-ingress")
	w.sends(a, ip("10.0.0.1", "10.0.0.2", udp(999, 53, 4))).wantForwarded(t)
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", udp(53, 999, 4))).wantForwarded(t)
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", udp(53, 998, 4))).wantDrop(t, a.ID, "policy-ingress")

	w.sends(a, ip("10.0.0.1", "10.0.0.2", tcp(80, 4000, syn|ack))).wantDrop(t, a.ID, "policy-egress")
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", tcp(4000, 80, syn))).wantForwarded(t)
	w.sends(a, ip("10.0.0.1", "10.0.0.2", tcp(80, 4000, syn|ack))).wantForwarded(t)
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", tcp(4000, 81, syn))).wantDrop(t, a.ID, "policy-ingress")
	w.arrives(a, 9, ip("10.0.0.2", "10.0.0.1", tcp(4000, 80, ack))).wantDrop(t, a.ID, "forged-source")

	flows, err := w.manager.Flows(a.ID)
	if err != nil {
		t.Fatal(err)
	}
	for i := range flows {
		flows[i].Idle = 0
	}
	at := netip.MustParseAddrPort
	want := []Flow{
		{6, at("10.0.0.1:80"), at("10.0.0.2:4000"), "remote", "established", w.underlay(1, 2), 0},
		{17, at("10.0.0.1:999"), at("10.0.0.2:53"), "machine", "established", w.underlay(1, 2), 0},
	}
	if !slices.Equal(flows, want) {
		t.Errorf("flows\n got %+v\nwant %+v", flows, want)
	}
}

func TestRevokedRuleCutsALiveConnection(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{Ingress: allow(6, 80)})
	w.remote(7, "10.0.0.2/32", 2)
	request, reply := ip("10.0.0.2", "10.0.0.1", tcp(4000, 80, ack)), ip("10.0.0.1", "10.0.0.2", tcp(80, 4000, ack))
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", tcp(4000, 80, syn))).wantForwarded(t)
	w.sends(a, reply).wantForwarded(t)
	a.Policy.Ingress = allow(6, 443)
	w.ensure(a)
	w.sends(a, reply).wantDrop(t, a.ID, "policy-ingress")
	w.arrives(a, 2, request).wantDrop(t, a.ID, "policy-ingress")
	a.Policy.Ingress = allow(6, 80)
	w.ensure(a)
	w.arrives(a, 2, request).wantForwarded(t)
	w.sends(a, reply).wantForwarded(t)
}

func TestMovedRouteMovesALiveConnection(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	w.remote(7, "10.0.0.2/32", 2)
	packet := ip("10.0.0.1", "10.0.0.2", tcp(4000, 80, ack))
	w.sends(a, packet).wantForwarded(t)
	w.remote(7, "10.0.0.2/32", 5)
	r := w.sends(a, packet)
	r.wantForwarded(t)
	if got, want := netip.AddrFrom16([16]byte(r.packet[38:54])), w.underlay(1, 5); got != want {
		t.Errorf("next hop %s, want %s", got, want)
	}
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", tcp(80, 4000, ack))).wantDrop(t, a.ID, "forged-source")
	w.arrives(a, 5, ip("10.0.0.2", "10.0.0.1", tcp(80, 4000, ack))).wantForwarded(t)
	w.routes(Route{Key: RouteKey{7, netip.MustParsePrefix("10.0.0.2/32")}})
	w.sends(a, packet).wantDrop(t, a.ID, "no-route")
}

func TestPingIsOneConnectionAndItsErrorsBelongToIt(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{Ingress: RuleSet{Enforced: true}, Egress: allow(icmp4, 0)})
	w.remote(7, "10.0.0.0/24", 2)
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", icmp(0, 0, 77))).wantDrop(t, a.ID, "policy-ingress")
	request := ip("10.0.0.1", "10.0.0.2", icmp(8, 0, 77))
	w.sends(a, request).wantForwarded(t)
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", icmp(0, 0, 77))).wantForwarded(t)
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", icmp(8, 0, 77))).wantDrop(t, a.ID, "policy-ingress")
	w.arrives(a, 2, ip("10.0.0.9", "10.0.0.1", icmp(11, 0, 0, request...))).wantForwarded(t)
	other := ip("10.0.0.1", "10.0.0.2", icmp(8, 0, 78))
	w.arrives(a, 2, ip("10.0.0.9", "10.0.0.1", icmp(11, 0, 0, other...))).wantDrop(t, a.ID, "policy-ingress")
}

func TestSynAfterTheEndIsANewConnection(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{Ingress: RuleSet{Enforced: true}})
	w.remote(7, "10.0.0.2/32", 2)
	w.sends(a, ip("10.0.0.1", "10.0.0.2", tcp(4000, 80, syn))).wantForwarded(t)
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", tcp(80, 4000, syn|ack))).wantForwarded(t)
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", tcp(80, 4000, fin|ack))).wantForwarded(t)
	w.sends(a, ip("10.0.0.1", "10.0.0.2", tcp(4000, 80, fin|ack))).wantForwarded(t)
	w.arrives(a, 2, ip("10.0.0.2", "10.0.0.1", tcp(80, 4000, syn))).wantDrop(t, a.ID, "policy-ingress")
}

func TestLaterFragmentsFollowTheFirst(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{Egress: allow(17, 53)})
	w.remote(7, "10.0.0.2/32", 2)
	first, later := set(6, 0x20, 0), set(6, 0, 100)
	w.sends(a, ip("10.0.0.1", "10.0.0.2", udp(9, 53, 8), set(4, 0, 1), first)).wantForwarded(t)
	w.sends(a, ip("10.0.0.1", "10.0.0.2", raw(17, make([]byte, 8)...), set(4, 0, 1), later)).wantForwarded(t)
	w.sends(a, ip("10.0.0.1", "10.0.0.2", udp(9, 54, 8), set(4, 0, 2), first)).wantDrop(t, a.ID, "policy-egress")
	w.sends(a, ip("10.0.0.1", "10.0.0.2", raw(17, make([]byte, 8)...), set(4, 0, 2), later)).wantDrop(t, a.ID, "policy-egress")
}

func TestFullTablesDropAndCount(t *testing.T) {
	w := newWorkbench(t)
	w.cfg.FlowsPerPort = 2
	w.open()
	a := w.port(1, 7, Policy{})
	w.remote(7, "10.0.0.2/32", 2)
	w.sends(a, ip("10.0.0.1", "10.0.0.2", udp(1, 1, 0))).wantForwarded(t)
	w.sends(a, ip("10.0.0.1", "10.0.0.2", udp(1, 2, 0))).wantForwarded(t)
	w.sends(a, ip("10.0.0.1", "10.0.0.2", udp(1, 3, 0))).wantDrop(t, a.ID, "flow-quota")

	w.cfg.FlowsPerPort, w.cfg.MaxFlows = 1<<16, 4
	w.open()
	for port := range uint16(64) { // per-CPU reserves make the limit a soft one
		if r := w.sends(a, ip("10.0.0.1", "10.0.0.2", udp(2, port+1, 0))); r.action == actionDrop {
			r.wantDrop(t, a.ID, "flow-table-full")
			return
		}
	}
	t.Error("64 flows fit into a table of 4")
}

func TestSeveralNextHopsShareFlowsByWeight(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	w.routes(Route{Key: RouteKey{7, netip.MustParsePrefix("10.5.0.0/16")}, NextHops: []NextHop{
		{Address: w.underlay(1, 1), Weight: 3}, {Address: w.underlay(1, 2)},
	}})
	share := map[netip.Addr]int{}
	for port := range uint16(200) {
		r := w.sends(a, ip("10.0.0.1", "10.5.0.2", udp(port+1, 9, 0)))
		r.wantForwarded(t)
		share[netip.AddrFrom16([16]byte(r.packet[38:54]))]++
	}
	if n := share[w.underlay(1, 1)]; n < 110 || n > 190 || len(share) != 2 {
		t.Errorf("shares %v of 200, want about 150 and 50", share)
	}
	for n := range uint16(2) {
		w.arrives(a, n+1, ip("10.5.0.2", "10.0.0.1", udp(9, 1, 0))).wantForwarded(t)
	}
}
