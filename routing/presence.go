package routing

import (
	"encoding/binary"
	"net/netip"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// Graceful restart of a host needs the reflector's help, and FRR before 10.5 gives none for EVPN:
// it withdraws a host's routes with the host's connection, and a restart of the agent would cut
// its machines off. So hosts help each other. Each announces its own presence, as one more route,
// that goes when its session goes. Routes that are withdrawn while their host is absent were
// not withdrawn by the host; they are kept, as a reflector would, for Config.RestartTime, and
// after the host's return for Config.StaleTime.
//
// A presence has the first route distinguisher of its host, so that FRR, which works in that
// order, withdraws it before the routes it speaks for. Where a reflector does restart sessions
// gracefully nothing is ever absent.

const (
	// presenceIndex is the route distinguisher of presences; ports have the others.
	presenceIndex = 0
	// presenceVNI is their network in route targets; no tenant has it. The label is another one,
	// because routers take a route with label 0 for a broken one.
	presenceVNI   = 0
	presenceLabel = maxVNI
)

// An absence is a host whose presence was withdrawn.
type absence struct {
	since time.Time
	// back is when the presence was told again; zero while it is not.
	back time.Time
	// orphans are kept for the host.
	orphans map[orphan]struct{}
}

type orphan struct {
	from int
	key  pathKey
}

func (p path) isPresence() bool { return p.vni == presenceVNI }

func (d distinguisher) isPresence() bool {
	return d.host().IsValid() && binary.BigEndian.Uint16(d[6:]) == presenceIndex
}

// host is the router ID in a route distinguisher; invalid in one of another type.
func (d distinguisher) host() netip.Addr {
	if d[0] != 0 || d[1] != byte(bgp.BGP_RD_IPV4_ADDRESS) {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(d[2:6]))
}

// encodePresence announces this host itself.
func encodePresence(cfg Config) (*api.Path, error) {
	prefix := cfg.NextHopPrefix
	return encodeRoute(cfg, presenceIndex, prefix, prefix.Addr(), presenceLabel, presenceVNI)
}

// left notes that a presence was withdrawn. The host is absent when no other reflector sees it.
func (r *rib) left(key pathKey, now time.Time) {
	host := key.rd.host()
	for i := range r.adjacencies {
		if _, ok := r.adjacencies[i].paths[key]; ok {
			return
		}
	}
	if a := r.absent[host]; a != nil {
		a.since, a.back = now, time.Time{}
		return
	}
	r.absent[host] = &absence{since: now, orphans: map[orphan]struct{}{}}
}

// returned notes that a host is present.
func (r *rib) returned(host netip.Addr, now time.Time) {
	if a := r.absent[host]; a != nil && a.back.IsZero() {
		a.back = now
	}
}

// adopt keeps a path whose host is absent, and reports whether it is.
func (r *rib) adopt(from int, key pathKey) bool {
	a := r.absent[key.rd.host()]
	if a == nil || !a.back.IsZero() {
		return false
	}
	a.orphans[orphan{from, key}] = struct{}{}
	p := r.adjacencies[from].paths[key].path
	for i, o := range r.routes[p.vni][key.prefix].origins {
		if o.from == uint16(from) && o.rd == key.rd {
			r.routes[p.vni][key.prefix].origins[i].orphan = true
		}
	}
	r.touch(RouteKey{VNI: p.vni, Prefix: key.prefix})
	return true
}

// expireOrphans drops what was kept long enough: restart for a host that is away, stale for one that is back.
func (r *rib) expireOrphans(now time.Time, restart, stale time.Duration) {
	for host, a := range r.absent {
		away := a.back.IsZero()
		if away && now.Sub(a.since) < restart || !away && now.Sub(a.back) < stale {
			continue
		}
		delete(r.absent, host)
		for o := range a.orphans {
			if h, ok := r.adjacencies[o.from].paths[o.key]; ok && h.orphan {
				r.drop(o.from, o.key)
			}
		}
	}
}

// orphans counts what is kept for absent hosts.
func (r *rib) orphans() (n int) {
	for _, a := range r.absent {
		for o := range a.orphans {
			if r.adjacencies[o.from].paths[o.key].orphan {
				n++
			}
		}
	}
	return n
}
