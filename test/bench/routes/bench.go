// Package routes measures package routing between two hosts of a lab and FRR as their reflector.
package routes

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ingot/routing"
	"ingot/test/bench/result"
	"ingot/test/lab"
)

const (
	asn   = 64512
	vni   = 100
	many  = 100_000
	hops  = 1000 // ports per host, so routes share their attributes as machines' addresses do
	pings = 200
)

// Benches are the benchmarks of this package.
func Benches() []result.Bench {
	return []result.Bench{
		{Names: []string{"routing/import_100k", "routing/import_100k_rss"}, Run: importMany},
		{Names: []string{"routing/propagate_p50", "routing/propagate_p99"}, Run: propagate},
	}
}

// A site is two hosts and a reflector between them.
type site struct {
	fabric *lab.Fabric
	from   *lab.Speaker
}

func build(ctx context.Context) (*site, error) {
	fabric, err := lab.NewFabric(lab.FabricConfig{Hosts: 2})
	if err != nil {
		return nil, err
	}
	s := &site{fabric: fabric}
	var clients []netip.Addr
	for _, host := range fabric.Hosts {
		clients = append(clients, host.Address)
	}
	if _, err = fabric.Spine.StartReflector(ctx, lab.ReflectorConfig{ASN: asn, Clients: clients}); err == nil {
		s.from, err = s.speaker(ctx, 0)
	}
	if err != nil {
		fabric.Close()
		return nil, err
	}
	return s, nil
}

func (s *site) speaker(ctx context.Context, i int) (*lab.Speaker, error) {
	host := s.fabric.Hosts[i]
	return host.StartSpeaker(ctx, "speaker", routing.Config{
		ASN: asn, RouterID: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}),
		LocalAddress: host.Address, NextHopPrefix: host.Prefix, UnderlaySupernet: s.fabric.Range(),
		Reflectors: []routing.Reflector{{Address: s.fabric.Spine.Address}},
	})
}

// announcement is route n of the first host.
func (s *site) announcement(n int) routing.Announcement {
	raw := s.fabric.Hosts[0].Prefix.Addr().As16()
	port := n % hops
	raw[14], raw[15] = byte((port+1)>>8), byte(port+1)
	return routing.Announcement{
		PortID: fmt.Sprintf("port-%d", port), VNI: vni, NextHop: netip.AddrFrom16(raw),
		Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32),
	}
}

func count(want int) func(map[routing.RouteKey][]netip.Addr) bool {
	return func(have map[routing.RouteKey][]netip.Addr) bool { return len(have) == want }
}

// importMany fills the reflector and measures, thrice, a fresh speaker from its first attempt to connect to the
// last route told to its sink. About 1.5 s of it are the pause before the first attempt.
func importMany(ctx context.Context) ([]result.Result, error) {
	s, err := build(ctx)
	if err != nil {
		return nil, err
	}
	defer s.fabric.Close()
	all := make([]routing.Announcement, many)
	for n := range all {
		all[n] = s.announcement(n)
	}
	if err := s.from.Announce(all...); err != nil {
		return nil, err
	}
	var seconds, mebibytes []float64
	for run := range 4 { // the first waits for the reflector to be filled
		to, err := s.speaker(ctx, 1)
		if err != nil {
			return nil, err
		}
		if err := to.Import(vni); err != nil {
			return nil, err
		}
		started := time.Now()
		if err := to.Announce(); err != nil {
			return nil, err
		}
		if err := to.WaitRoutes(ctx, count(many)); err != nil {
			return nil, err
		}
		if run > 0 {
			seconds = append(seconds, time.Since(started).Seconds())
			rss, err := residentMiB(to.Process.Pid())
			if err != nil {
				return nil, err
			}
			mebibytes = append(mebibytes, rss)
		}
		to.Kill()
	}
	return []result.Result{
		result.New("routing/import_100k", "s", result.AtMost(4), seconds...),
		result.New("routing/import_100k_rss", "MiB", result.Goal{}, mebibytes...),
	}, nil
}

// propagate announces routes one by one and measures from before Announce to the sink of the other host.
func propagate(ctx context.Context) ([]result.Result, error) {
	s, err := build(ctx)
	if err != nil {
		return nil, err
	}
	defer s.fabric.Close()
	to, err := s.speaker(ctx, 1)
	if err != nil {
		return nil, err
	}
	if err := to.Import(vni); err != nil {
		return nil, err
	}
	if err := to.Announce(); err != nil {
		return nil, err
	}
	var all []routing.Announcement
	var ms []float64
	for n := range pings + 1 {
		all = append(all, s.announcement(n))
		started := time.Now()
		if err := s.from.Announce(all...); err != nil {
			return nil, err
		}
		if err := to.WaitRoutes(ctx, count(n+1)); err != nil {
			return nil, err
		}
		if n > 0 { // the first waits for the sessions
			ms = append(ms, to.Learned(routing.RouteKey{VNI: vni, Prefix: all[n].Prefix}).Sub(started).Seconds()*1000)
		}
	}
	slices.Sort(ms)
	return []result.Result{
		result.New("routing/propagate_p50", "ms", result.AtMost(5), ms[len(ms)/2]),
		result.New("routing/propagate_p99", "ms", result.AtMost(50), ms[len(ms)*99/100]),
	}, nil
}
