package routing_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ingot/routing"
	"ingot/test/lab"
	"ingot/test/need"
)

const asn = 64512

// A site is a fabric with a reflector on its spine and a speaker on each host.
type site struct {
	t         *testing.T
	ctx       context.Context
	fabric    *lab.Fabric
	reflector *lab.Reflector
	speakers  []*lab.Speaker
}

func newSite(t *testing.T, hosts int, tune func(*routing.Config)) *site {
	t.Helper()
	t.Parallel()
	s := bareSite(t, hosts)
	var err error
	s.reflector, err = s.fabric.Spine.StartReflector(s.ctx, lab.ReflectorConfig{
		ASN: asn, Clients: s.clients(),
	})
	s.must(err)
	for i := range hosts {
		s.speakers = append(s.speakers, s.start(i, tune))
	}
	return s
}

// bareSite has neither reflector nor speakers yet.
func bareSite(t *testing.T, hosts int) *site {
	t.Helper()
	need.Commands(t, lab.FRRPrograms...)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return &site{t: t, ctx: ctx, fabric: lab.ForTest(t, lab.FabricConfig{Hosts: hosts})}
}

func (s *site) clients() (out []netip.Addr) {
	for _, host := range s.fabric.Hosts {
		out = append(out, host.Address)
	}
	return out
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) config(i int) routing.Config {
	host := s.fabric.Hosts[i]
	return routing.Config{
		ASN: asn, RouterID: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}),
		LocalAddress: host.Address, NextHopPrefix: host.Prefix, UnderlaySupernet: s.fabric.Range(),
		Reflectors: []routing.Reflector{{Address: s.fabric.Spine.Address}},
		StaleTime:  5 * time.Second,
	}
}

func (s *site) start(i int, tune func(*routing.Config)) *lab.Speaker {
	s.t.Helper()
	cfg := s.config(i)
	if tune != nil {
		tune(&cfg)
	}
	speaker, err := s.fabric.Hosts[i].StartSpeaker(s.ctx, "speaker", cfg)
	s.must(err)
	return speaker
}

// port is the underlay address of port p of host i.
func (s *site) port(i, p int) netip.Addr {
	raw := s.fabric.Hosts[i].Prefix.Addr().As16()
	raw[12], raw[13], raw[14], raw[15] = byte(p>>24), byte(p>>16)+1, byte(p>>8), byte(p)
	return netip.AddrFrom16(raw)
}

func (s *site) announcement(i, p int, vni uint32, prefix string) routing.Announcement {
	return routing.Announcement{
		PortID: fmt.Sprintf("port-%d", p), VNI: vni, Prefix: netip.MustParsePrefix(prefix), NextHop: s.port(i, p),
	}
}

type routes map[routing.RouteKey][]netip.Addr

func key(vni uint32, prefix string) routing.RouteKey {
	return routing.RouteKey{VNI: vni, Prefix: netip.MustParsePrefix(prefix)}
}

// wait waits until the sink of speaker i has exactly want.
func (s *site) wait(i int, want routes) {
	s.t.Helper()
	var diff string
	err := s.speakers[i].WaitRoutes(s.ctx, func(have map[routing.RouteKey][]netip.Addr) bool {
		diff = cmp.Diff(want, routes(have), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty())
		return diff == ""
	})
	if err != nil {
		s.t.Fatalf("%v (-want +got):\n%s\n%s", err, diff, s.describe())
	}
}

// waitStatus waits until the status of speaker i satisfies ok.
func (s *site) waitStatus(i int, what string, ok func(*routing.Status) bool) {
	s.t.Helper()
	for {
		st, err := s.speakers[i].Status()
		s.must(err)
		if ok(st) {
			return
		}
		select {
		case <-s.ctx.Done():
			s.t.Fatalf("speaker %d: %s: not in time; status %+v\n%s", i, what, st, s.describe())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *site) describe() string {
	out, err := s.reflector.Ask(context.Background(), "show bgp l2vpn evpn summary")
	if err != nil {
		return err.Error()
	}
	return out
}

func TestRoutesReachOtherHostsAndGoAgain(t *testing.T) {
	s := newSite(t, 2, nil)
	a, b := s.speakers[0], s.speakers[1]
	s.must(a.Import(100, 1<<24-1))
	s.must(b.Import(100))
	s.must(a.Announce(
		s.announcement(0, 1, 100, "10.1.0.1/32"),
		s.announcement(0, 1, 100, "2001:db8::1/128"),
		s.announcement(0, 2, 200, "10.1.0.1/32"), // same address, a network that b does not host
	))
	s.must(b.Announce(s.announcement(1, 1, 1<<24-1, "192.168.0.0/24")))
	s.wait(0, routes{key(1<<24-1, "192.168.0.0/24"): {s.port(1, 1)}})
	s.wait(1, routes{
		key(100, "10.1.0.1/32"):     {s.port(0, 1)},
		key(100, "2001:db8::1/128"): {s.port(0, 1)},
	})

	t.Log("a network imported later is told of what is known already")
	s.must(b.Import(100, 200))
	s.wait(1, routes{
		key(100, "10.1.0.1/32"):     {s.port(0, 1)},
		key(100, "2001:db8::1/128"): {s.port(0, 1)},
		key(200, "10.1.0.1/32"):     {s.port(0, 2)},
	})

	t.Log("what is missing from the next set is withdrawn")
	s.must(a.Announce(s.announcement(0, 2, 200, "10.1.0.1/32")))
	s.wait(1, routes{key(200, "10.1.0.1/32"): {s.port(0, 2)}})
	s.must(b.Import(100))
	s.wait(1, routes{})
}
