package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
)

// Actions of tc; see linux/pkt_cls.h.
const (
	actionPass     = 0
	actionDrop     = 2
	actionRedirect = 7
)

var (
	wireA = net.HardwareAddr{2, 0, 0, 0, 0xff, 1}
	wireB = net.HardwareAddr{2, 0, 0, 0, 0xff, 2}
)

// A workbench is one host whose ports are taps, and whose programs are fed by hand.
type workbench struct {
	*host
	t      *testing.T
	uplink int
	ports  map[string]PortStatus
}

func newWorkbench(t *testing.T) *workbench {
	t.Helper()
	h := newHosts(t)[0]
	w := &workbench{host: h, t: t, ports: map[string]PortStatus{}}
	sh(t, "ip -n %s link set up0 address %s", h.ns, wireA)
	sh(t, "ip -n %s neigh replace fd00::2 lladdr %s dev up0", h.ns, wireB)
	h.do(func() {
		up, err := net.InterfaceByName("up0")
		if err != nil {
			t.Fatal(err)
		}
		w.uplink = up.Index
	})
	return w
}

// port makes the port: machine n has the addresses 10.0.0.n and fd01::n.
func (w *workbench) port(n byte, vni uint32, policy Policy) PortSpec {
	w.t.Helper()
	spec := PortSpec{
		ID: fmt.Sprintf("m%d-%d/eth0", n, vni), VNI: vni, MAC: net.HardwareAddr{2, 0, 0, 0, byte(vni), n},
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, n}), netip.MustParseAddr(fmt.Sprintf("fd01::%d", n))},
		Underlay:  w.underlay(0, uint16(vni)<<8|uint16(n)), Policy: policy,
	}
	w.ports[spec.ID] = w.ensure(spec)
	return spec
}

// underlay is port number n of a host: 0 this one, 1 the other.
func (w *workbench) underlay(host byte, n uint16) netip.Addr {
	a := w.prefix.Addr().As16()
	a[7] += host
	a[14], a[15] = byte(n>>8), byte(n)
	return netip.AddrFrom16(a)
}

func (w *workbench) remote(vni uint32, prefix string, n uint16) {
	w.t.Helper()
	w.routes(Route{Key: RouteKey{vni, netip.MustParsePrefix(prefix)}, NextHops: []NextHop{{Address: w.underlay(1, n)}}})
}

// a result is what a program did with a packet.
type result struct {
	action uint32
	packet []byte
	drops  map[string]uint64 // by "port reason"
}

func (w *workbench) run(program string, ifindex int, packet []byte) result {
	w.t.Helper()
	before := w.drops()
	var r result
	var err error
	w.do(func() { r.action, r.packet, _, err = w.manager.kernel.Run(program, ifindex, packet, 1) })
	if err != nil {
		w.t.Fatalf("run %s: %v", program, err)
	}
	r.drops = w.drops()
	for k, n := range before {
		if r.drops[k] -= n; r.drops[k] == 0 {
			delete(r.drops, k)
		}
	}
	return r
}

func (w *workbench) drops() map[string]uint64 {
	all, err := w.manager.Counters()
	if err != nil {
		w.t.Fatal(err)
	}
	drops := map[string]uint64{}
	for _, c := range all {
		for reason, n := range c.Drops {
			drops[c.PortID+" "+reason] = n
		}
	}
	return drops
}

// sends feeds what the machine sends.
func (w *workbench) sends(s PortSpec, packet []byte, options ...option) result {
	w.t.Helper()
	return w.run("port", w.ports[s.ID].IfIndex, frame(s.MAC, w.manager.cfg.GatewayMAC, packet, options...))
}

// arrives feeds what comes from the other host's port n to the port.
func (w *workbench) arrives(s PortSpec, n uint16, packet []byte, options ...option) result {
	w.t.Helper()
	return w.run("uplink", w.uplink, frame(wireB, wireA, tunnel(w.underlay(1, n), s.Underlay, packet, options...)))
}

func (r result) wantDrop(t *testing.T, port, reason string) {
	t.Helper()
	want := map[string]uint64{port + " " + reason: 1}
	if r.action != actionDrop || !maps.Equal(r.drops, want) {
		t.Errorf("action %d, drops %v; want dropped, %v", r.action, r.drops, want)
	}
}

func (r result) wantForwarded(t *testing.T) {
	t.Helper()
	if r.action != actionRedirect || len(r.drops) > 0 {
		t.Errorf("action %d, drops %v; want redirected", r.action, r.drops)
	}
}

func (r result) wantPacket(t *testing.T, want []byte) {
	t.Helper()
	r.wantForwarded(t)
	if !bytes.Equal(r.packet, want) {
		t.Errorf("packet\n got %x\nwant %x", r.packet, want)
	}
}

func TestPacketsOfAMachineThatAreDropped(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	closed := w.port(3, 7, Policy{Egress: RuleSet{Enforced: true}})
	w.remote(7, "10.0.0.2/32", 2)
	w.remote(7, "fd01::2/128", 2)
	ok := ip("10.0.0.1", "10.0.0.2", udp(1, 2, 8))
	for _, c := range []struct {
		name, reason string
		port         PortSpec
		packet       []byte
	}{
		{"a UDP header that is missing", "malformed", a, frame(a.MAC, wireB, ok[:20])},
		{"a wrong version", "malformed", a, frame(a.MAC, wireB, ok, set(14, 0x55))},
		{"a TCP header that ends early", "malformed", a, frame(a.MAC, wireB, ip("10.0.0.1", "10.0.0.2", raw(6, 1, 2, 3)))},
		{"a tag", "vlan", a, frame(a.MAC, wireB, ok, set(12, 0x81, 0))},
		{"another's MAC", "spoofed-mac", a, frame(closed.MAC, wireB, ok)},
		{"another's IPv4 address", "spoofed-ip", a, frame(a.MAC, wireB, ip("10.0.0.3", "10.0.0.2", udp(1, 2, 8)))},
		{"another's IPv6 address", "spoofed-ip", a, frame(a.MAC, wireB, ip("fd01::3", "fd01::2", udp(1, 2, 8)))},
		{"LLDP", "unsupported-ethertype", a, frame(a.MAC, wireB, make([]byte, 46), set(12, 0x88, 0xcc))},
		{"a DHCP server's answer", "rogue-server", a, frame(a.MAC, wireB, ip("10.0.0.1", "255.255.255.255", udp(67, 68, 8)))},
		{"a DHCPv6 server's answer", "rogue-server", a, frame(a.MAC, wireB, ip("fd01::1", "fe80::2", udp(547, 546, 8)))},
		{"a router advertisement", "rogue-server", a, frame(a.MAC, wireB, ip("fe80::5", "ff02::1", icmpv6(134, 0, 0)))},
		{"an ICMPv6 redirect", "rogue-server", a, frame(a.MAC, wireB, ip("fe80::5", "fd01::2", icmpv6(137, 0, 0)))},
		{"IPv4 multicast", "multicast", a, frame(a.MAC, wireB, ip("10.0.0.1", "224.0.0.1", udp(1, 2, 8)))},
		{"IPv6 multicast", "multicast", a, frame(a.MAC, wireB, ip("fd01::1", "ff02::fb", udp(1, 2, 8)))},
		{"an ARP probe", "unanswered-arp", a, arpRequest(a.MAC, "0.0.0.0", "10.0.0.1")},
		{"an ARP announcement", "unanswered-arp", a, arpRequest(a.MAC, "10.0.0.1", "10.0.0.1")},
		{"ARP with another's address", "spoofed-ip", a, arpRequest(a.MAC, "10.0.0.3", "10.0.0.2")},
		{"detection of a duplicate", "unanswered-arp", a, frame(a.MAC, wireB, solicitation("::", "fd01::1"))},
		{"a solicitation from another's address", "spoofed-ip", a, frame(a.MAC, wireB, solicitation("fd01::3", "fd01::2"))},
		{"a later fragment alone", "fragment-unknown", a, frame(a.MAC, wireB, ip("10.0.0.1", "10.0.0.2", udp(1, 2, 8), set(6, 0, 5)))},
		{"an unknown destination", "no-route", a, frame(a.MAC, wireB, ip("10.0.0.1", "10.9.9.9", udp(1, 2, 8)))},
		{"what no rule allows", "policy-egress", closed, frame(closed.MAC, wireB, ip("10.0.0.3", "10.0.0.2", udp(1, 2, 8)))},
		{"IPv4 link-local", "link-local", a, frame(a.MAC, wireB, ip("10.0.0.1", "169.254.1.1", udp(1, 2, 8)))},
		{"IPv6 link-local", "link-local", a, frame(a.MAC, wireB, ip("fd01::1", "fe80::9", udp(1, 2, 8)))},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.run("port", w.ports[c.port.ID].IfIndex, c.packet).wantDrop(t, c.port.ID, c.reason)
		})
	}
	t.Run("a device that is no port", func(t *testing.T) {
		w.run("port", w.uplink, frame(a.MAC, wireB, ok)).wantDrop(t, "", "unknown-device")
	})
	t.Run("a route whose underlay leads nowhere", func(t *testing.T) {
		w.routes(Route{Key: RouteKey{7, netip.MustParsePrefix("10.0.0.66/32")}, NextHops: []NextHop{{Address: netip.MustParseAddr("fd99::1")}}})
		w.sends(a, ip("10.0.0.1", "10.0.0.66", udp(1, 2, 8))).wantDrop(t, a.ID, "no-underlay-route")
	})
}

func TestPacketsFromTheFabricThatAreDropped(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	closed := w.port(3, 7, Policy{Ingress: RuleSet{Enforced: true}})
	w.remote(7, "10.0.0.2/32", 2)
	for _, c := range []struct {
		name, port, reason string
		packet             []byte
	}{
		{"to nobody", "", "unknown-endpoint", tunnel(w.underlay(1, 2), w.underlay(0, 99), ip("10.0.0.2", "10.0.0.1", udp(1, 2, 8)))},
		{"for another machine", a.ID, "foreign-destination", tunnel(w.underlay(1, 2), a.Underlay, ip("10.0.0.2", "10.0.0.3", udp(1, 2, 8)))},
		{"from an outer source that has not the inner one", a.ID, "forged-source", tunnel(w.underlay(1, 9), a.Underlay, ip("10.0.0.2", "10.0.0.1", udp(1, 2, 8)))},
		{"with a local machine's source", a.ID, "forged-source", tunnel(w.underlay(1, 2), a.Underlay, ip("10.0.0.3", "10.0.0.1", udp(1, 2, 8)))},
		{"that no rule allows", closed.ID, "policy-ingress", tunnel(w.underlay(1, 2), closed.Underlay, ip("10.0.0.2", "10.0.0.3", udp(1, 2, 8)))},
		{"marked congested without ECN inside", a.ID, "ecn", tunnel(w.underlay(1, 2), a.Underlay, ip("10.0.0.2", "10.0.0.1", udp(1, 2, 8)), set(1, 0x30))},
		{"truncated", a.ID, "malformed", tunnel(w.underlay(1, 2), a.Underlay, ip("10.0.0.2", "10.0.0.1", udp(1, 2, 8))[:10])},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.run("uplink", w.uplink, frame(wireB, wireA, c.packet)).wantDrop(t, c.port, c.reason)
		})
	}
	for name, packet := range map[string][]byte{
		"neighbour discovery": frame(wireB, wireA, solicitation("fd00::2", "fd00::1")),
		"TCP to the host":     frame(wireB, wireA, ip("fd00::2", "fd00::1", tcp(1, 179, syn))),
		"a tunnel elsewhere":  frame(wireB, wireA, tunnel(w.underlay(1, 2), netip.MustParseAddr("fd55::1"), ip("10.0.0.2", "10.0.0.1", udp(1, 2, 8)))),
	} {
		t.Run(name+" is the host's", func(t *testing.T) {
			if r := w.run("uplink", w.uplink, packet); r.action != actionPass || !bytes.Equal(r.packet, packet) {
				t.Errorf("action %d, packet %x; want passed unchanged", r.action, r.packet)
			}
		})
	}
}

func TestTunnelKeepsTheInnerPacketButForItsTTL(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	w.remote(7, "10.0.0.2/32", 2)
	w.remote(7, "fd01:0:0:5::/64", 2)
	gateway := w.manager.cfg.GatewayMAC
	for _, c := range []struct {
		name     string
		src, dst string
		ttl, tos int // offsets
	}{{"IPv4", "10.0.0.1", "10.0.0.2", 8, 1}, {"IPv6", "fd01::1", "fd01:0:0:5::2", 7, 1}} {
		t.Run(c.name, func(t *testing.T) {
			marked := set(c.tos, 2) // ECT(0)
			if c.name == "IPv6" {
				marked = set(c.tos, 0x20)
			}
			for _, path := range []string{"slow", "fast"} {
				r := w.sends(a, ip(c.src, c.dst, udp(1000, 53, 11), marked))
				r.wantForwarded(t)
				if len(r.packet) < 54 {
					t.Fatalf("packet %x", r.packet)
				}
				label := r.packet[15:18]
				want := tunnel(a.Underlay, w.underlay(1, 2), ip(c.src, c.dst, udp(1000, 53, 11), marked, set(c.ttl, 63)),
					set(1, label...))
				if !bytes.Equal(r.packet, frame(wireA, wireB, want)) {
					t.Errorf("%s path:\n got %x\nwant %x", path, r.packet, frame(wireA, wireB, want))
				}
				if class := binary.BigEndian.Uint16(r.packet[14:]) >> 4 & 0xff; class != 2 {
					t.Errorf("%s path: outer traffic class %#x, want the inner one, 2", path, class)
				}
			}
			urgent := set(c.tos, 0xe2) // CS7, the fabric's own class, and ECT(0)
			if c.name == "IPv6" {
				urgent = set(0, 0x6e, 0x20)
			}
			r := w.sends(a, ip(c.src, c.dst, udp(1000, 53, 11), urgent))
			r.wantForwarded(t)
			if class := binary.BigEndian.Uint16(r.packet[14:]) >> 4 & 0xff; class != 2 {
				t.Errorf("outer traffic class %#x of a machine's %#x, want its ECN alone, 2", class, 0xe2)
			}
			congested := set(c.tos, 3)
			if c.name == "IPv6" {
				congested = set(c.tos, 0x30)
			}
			r = w.arrives(a, 2, ip(c.dst, c.src, udp(53, 1000, 11), marked), set(1, 0x30))
			r.wantPacket(t, frame(gateway, a.MAC, ip(c.dst, c.src, udp(53, 1000, 11), congested)))
		})
	}
}

func TestGatewayAnswersForEverybodyElse(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{Egress: RuleSet{Enforced: true}})
	gateway := w.manager.cfg.GatewayMAC
	t.Run("ARP", func(t *testing.T) {
		r := w.run("port", w.ports[a.ID].IfIndex, arpRequest(a.MAC, "10.0.0.1", "169.254.0.1"))
		r.wantPacket(t, slices.Concat(a.MAC, gateway, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}, gateway,
			[]byte{169, 254, 0, 1}, a.MAC, []byte{10, 0, 0, 1}))
	})
	t.Run("neighbour discovery", func(t *testing.T) {
		r := w.sends(a, solicitation("fd01::1", "fe80::1"))
		body := slices.Concat([]byte{136, 0, 0, 0, 0xe0, 0, 0, 0}, netip.MustParseAddr("fe80::1").AsSlice(), []byte{2, 1}, gateway)
		want := ip("fe80::1", "fd01::1", payload{icmp6, body}, set(7, 255))
		binary.BigEndian.PutUint16(want[42:], ^sum(slices.Concat(want[8:40], []byte{0, 0, 0, 32, 0, 0, 0, 58}, body)))
		r.wantPacket(t, frame(gateway, a.MAC, want))
	})
	for name, packet := range map[string][]byte{
		"DHCP":                ip("0.0.0.0", "255.255.255.255", udp(68, 67, 240)),
		"DHCPv6":              ip("fe80::5", "ff02::1:2", udp(546, 547, 40)),
		"router solicitation": ip("fe80::5", "ff02::2", icmpv6(133, 0, 0), set(7, 255)),
	} {
		t.Run(name+" goes to the agent", func(t *testing.T) {
			if r := w.sends(a, packet); r.action != actionPass || len(r.drops) > 0 {
				t.Errorf("action %d, drops %v; want passed", r.action, r.drops)
			}
		})
	}
}

func TestGatewayTellsWhyAPacketCannotGoOn(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	w.remote(7, "10.0.0.2/32", 2)
	w.remote(7, "fd01::2/128", 2)
	for _, c := range []struct {
		name, reason     string
		packet           []byte
		kind, code, rest byte
		mtu              uint32
	}{
		{"IPv4 TTL", "ttl-exceeded", ip("10.0.0.1", "10.0.0.2", udp(1, 33434, 9), set(8, 1)), 11, 0, 0, 0},
		{"IPv4 size", "too-big", ip("10.0.0.1", "10.0.0.2", udp(1, 2, 1440)), 3, 4, 0, 1460},
		{"IPv6 hop limit", "ttl-exceeded", ip("fd01::1", "fd01::2", udp(1, 33434, 9), set(7, 1)), 3, 0, 0, 0},
		{"IPv6 size", "too-big", ip("fd01::1", "fd01::2", udp(1, 2, 1440)), 2, 0, 0, 1460},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.sends(a, c.packet)
			if r.action != actionRedirect || r.drops[a.ID+" "+c.reason] != 1 {
				t.Fatalf("action %d, drops %v; want an answer and %s counted", r.action, r.drops, c.reason)
			}
			quote := c.packet[:min(len(c.packet), 128)]
			body := append([]byte{c.kind, c.code, 0, 0, 0, 0, byte(c.mtu >> 8), byte(c.mtu)}, quote...)
			var want []byte
			if c.packet[0]>>4 == 4 {
				binary.BigEndian.PutUint16(body[2:], ^sum(body))
				want = ip("169.254.0.1", "10.0.0.1", payload{icmp4, body}, set(4, 0, 0))
			} else {
				want = ip("fe80::1", "fd01::1", payload{icmp6, body})
				pseudo := []byte{0, 0, byte(len(body) >> 8), byte(len(body)), 0, 0, 0, 58}
				binary.BigEndian.PutUint16(want[42:], ^sum(slices.Concat(want[8:40], pseudo, body)))
			}
			if got := frame(w.manager.cfg.GatewayMAC, a.MAC, want); !bytes.Equal(r.packet, got) {
				t.Errorf("packet\n got %x\nwant %x", r.packet, got)
			}
		})
	}
}

func TestNetworksWithTheSameAddressesNeverMeet(t *testing.T) {
	w := newWorkbench(t)
	red, blue := w.port(1, 7, Policy{}), w.port(1, 8, Policy{})
	redPeer := w.port(2, 7, Policy{})
	w.remote(8, "10.0.0.2/32", 0x82)
	packet := ip("10.0.0.1", "10.0.0.2", udp(1, 2, 8))
	aged := ip("10.0.0.1", "10.0.0.2", udp(1, 2, 8), set(8, 63))
	w.sends(red, packet).wantPacket(t, frame(w.manager.cfg.GatewayMAC, redPeer.MAC, aged))
	r := w.sends(blue, packet)
	r.wantForwarded(t)
	if want := w.underlay(1, 0x82).AsSlice(); !bytes.Equal(r.packet[38:54], want) {
		t.Errorf("outer destination %x, want %x", r.packet[38:54], want)
	}
}
