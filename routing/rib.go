package routing

import (
	"net/netip"
	"slices"
	"time"
)

// A rib holds the accepted paths of every reflector and what the sink was last told. It does no
// I/O and no locking.
//
// It keeps staleness itself instead of leaving it to the BGP library: paths of a reflector that
// went away stay until sweep, whatever became of the session. Unreachable is not withdrawn.
type rib struct {
	adjacencies []adjacency
	routes      map[uint32]map[netip.Prefix]*route
	imports     map[uint32]bool
	dirty       map[RouteKey]struct{}
	absent      map[netip.Addr]*absence
}

// An adjacency is the table of one reflector. A path of an older epoch is stale.
type adjacency struct {
	paths map[pathKey]held
	epoch uint32
	stale int
}

type held struct {
	path
	epoch uint32
	// orphan: withdrawn while its host was absent.
	orphan bool
}

// A route gathers the paths of one destination over route distinguishers and reflectors.
type route struct {
	origins []origin
	// sent is what the sink has; frozen. Empty when it has nothing.
	sent []netip.Addr
}

type origin struct {
	rd      distinguisher
	nextHop netip.Addr
	from    uint16
	orphan  bool
}

func newRIB(reflectors int) *rib {
	r := &rib{
		adjacencies: make([]adjacency, reflectors),
		routes:      map[uint32]map[netip.Prefix]*route{},
		imports:     map[uint32]bool{},
		dirty:       map[RouteKey]struct{}{},
		absent:      map[netip.Addr]*absence{},
	}
	for i := range r.adjacencies {
		r.adjacencies[i].paths = map[pathKey]held{}
	}
	return r
}

// fresh is how many paths reflector from has told since its session came up.
func (r *rib) fresh(from int) int {
	a := &r.adjacencies[from]
	return len(a.paths) - a.stale
}

// has reports whether reflector from has told of key since its session came up.
func (r *rib) has(from int, key pathKey) bool {
	h, ok := r.adjacencies[from].paths[key]
	return ok && h.epoch == r.adjacencies[from].epoch
}

// upsert notes what reflector from says of key. What another reflector said before it went away is superseded.
func (r *rib) upsert(from int, key pathKey, p path, now time.Time) {
	r.dropStale(from, key)
	a := &r.adjacencies[from]
	old, had := a.paths[key]
	if had && old.epoch != a.epoch {
		a.stale--
	}
	a.paths[key] = held{path: p, epoch: a.epoch}
	if p.isPresence() {
		r.returned(key.rd.host(), now)
		return
	}
	if had && old.path == p && !old.orphan {
		return
	}
	if had {
		r.removeOrigin(from, key, old.path)
	}
	r.addOrigin(from, key, p)
}

// withdraw notes that reflector from has no path for key any more; stale copies of others go
// too. If the host of the path is absent it was not the host that withdrew: the path is kept as an orphan.
func (r *rib) withdraw(from int, key pathKey, now time.Time) {
	r.dropStale(from, key)
	a := &r.adjacencies[from]
	h, ok := a.paths[key]
	switch {
	case !ok:
	case h.isPresence():
		r.drop(from, key)
		r.left(key, now)
	case r.adopt(from, key):
		h.orphan = true
		a.paths[key] = h
	default:
		r.drop(from, key)
	}
}

// down makes every path of reflector from stale.
func (r *rib) down(from int) {
	a := &r.adjacencies[from]
	a.epoch++
	a.stale = len(a.paths)
}

// sweep removes the stale paths of reflector from.
func (r *rib) sweep(from int) {
	a := &r.adjacencies[from]
	if a.stale == 0 {
		return
	}
	for key, h := range a.paths {
		if h.epoch != a.epoch {
			r.drop(from, key)
		}
	}
}

func (r *rib) dropStale(from int, key pathKey) {
	for i := range r.adjacencies {
		if i == from {
			continue
		}
		if h, ok := r.adjacencies[i].paths[key]; ok && h.epoch != r.adjacencies[i].epoch {
			r.drop(i, key)
		}
	}
}

func (r *rib) drop(from int, key pathKey) {
	a := &r.adjacencies[from]
	h, ok := a.paths[key]
	if !ok {
		return
	}
	if h.epoch != a.epoch {
		a.stale--
	}
	delete(a.paths, key)
	if !h.isPresence() {
		r.removeOrigin(from, key, h.path)
	}
}

func (r *rib) addOrigin(from int, key pathKey, p path) {
	network := r.routes[p.vni]
	if network == nil {
		network = map[netip.Prefix]*route{}
		r.routes[p.vni] = network
	}
	rt := network[key.prefix]
	if rt == nil {
		rt = &route{}
		network[key.prefix] = rt
	}
	rt.origins = append(rt.origins, origin{rd: key.rd, nextHop: p.nextHop, from: uint16(from)})
	r.touch(RouteKey{VNI: p.vni, Prefix: key.prefix})
}

func (r *rib) removeOrigin(from int, key pathKey, p path) {
	rt := r.routes[p.vni][key.prefix]
	rt.origins = slices.DeleteFunc(rt.origins, func(o origin) bool {
		return o.from == uint16(from) && o.rd == key.rd
	})
	r.touch(RouteKey{VNI: p.vni, Prefix: key.prefix})
}

// touch queues key for the sink, unless neither it nor the sink cares.
func (r *rib) touch(key RouteKey) {
	rt := r.routes[key.VNI][key.Prefix]
	if r.imports[key.VNI] || len(rt.sent) > 0 {
		r.dirty[key] = struct{}{}
	} else if len(rt.origins) == 0 {
		r.forget(key)
	}
}

func (r *rib) forget(key RouteKey) {
	network := r.routes[key.VNI]
	delete(network, key.Prefix)
	if len(network) == 0 {
		delete(r.routes, key.VNI)
	}
}

// setImports replaces the networks that the sink is told of. Routes of those it no longer wants
// are withdrawn from it, routes of new ones told.
func (r *rib) setImports(vnis []uint32) (added, removed []uint32) {
	want := make(map[uint32]bool, len(vnis))
	for _, vni := range vnis {
		want[vni] = true
		if !r.imports[vni] {
			added = append(added, vni)
		}
	}
	for vni := range r.imports {
		if !want[vni] {
			removed = append(removed, vni)
		}
	}
	slices.Sort(added)
	slices.Sort(removed)
	added = slices.Compact(added)
	r.imports = want
	for _, vni := range slices.Concat(added, removed) {
		for prefix := range r.routes[vni] {
			r.dirty[RouteKey{VNI: vni, Prefix: prefix}] = struct{}{}
		}
	}
	return added, removed
}

// take returns at most limit changes that the sink has not been told and counts them as told.
func (r *rib) take(limit int) []RouteUpdate {
	var out []RouteUpdate
	for key := range r.dirty {
		if len(out) == limit {
			return out
		}
		delete(r.dirty, key)
		rt := r.routes[key.VNI][key.Prefix]
		if rt == nil {
			continue
		}
		var hops []netip.Addr
		if r.imports[key.VNI] {
			hops = rt.nextHops()
		}
		if !slices.Equal(hops, rt.sent) {
			rt.sent = hops
			out = append(out, RouteUpdate{Key: key, NextHops: hops})
		}
		if len(rt.origins) == 0 {
			r.forget(key)
		}
	}
	r.dirty = map[RouteKey]struct{}{} // a map never shrinks
	return out
}

// nextHops is the sorted set of next hops of all origins; orphans count only where there is nothing else.
func (rt *route) nextHops() []netip.Addr {
	if len(rt.origins) == 0 {
		return nil
	}
	onlyOrphans := !slices.ContainsFunc(rt.origins, func(o origin) bool { return !o.orphan })
	hops := make([]netip.Addr, 0, len(rt.origins))
	for _, o := range rt.origins {
		if !o.orphan || onlyOrphans {
			hops = append(hops, o.nextHop)
		}
	}
	slices.SortFunc(hops, netip.Addr.Compare)
	return slices.Clip(slices.Compact(hops))
}
