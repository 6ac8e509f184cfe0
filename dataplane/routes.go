package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"ingot/dataplane/internal/bpf"
	"ingot/runtime/fault"
)

// ApplyRoutes upserts the routes; one without next hops is deleted. A packet sees the old or
// the new value of a route, never a mixture. Errors: fault.Invalid before anything is changed,
// fault.Exhausted.
func (m *Manager) ApplyRoutes(ctx context.Context, routes []Route) error {
	for _, r := range routes {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("apply routes: %w", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.applyRoutes(routes); err != nil {
		return fmt.Errorf("apply routes: %w", err)
	}
	return nil
}

func (m *Manager) applyRoutes(routes []Route) error {
	last := make(map[RouteKey]int, len(routes)) // of several changes of one key the last counts
	for i, r := range routes {
		last[r.Key] = i
	}
	w := newRouteWriter()
	groups := map[uint32]bpf.Multipath{}
	owners := map[RouteKey]uint32{}
	for i, r := range routes {
		if last[r.Key] != i {
			continue
		}
		hops := distinct(r.NextHops)
		v := bpf.Route{LocalIfindex: uint32(m.locals[r.Key]), Count: uint32(len(hops))}
		switch {
		case len(hops) == 1:
			v.Nexthop = addr(hops[0].Address)
		case len(hops) > 1:
			m.serials.Group++
			v.Group = m.serials.Group
			groups[v.Group] = spread(hops)
		}
		owners[r.Key] = v.Group
		w.add(r.Key, v)
	}
	if len(groups) > 0 {
		if err := m.kernel.Serials.Put(0, m.serials); err != nil {
			return err
		}
	}
	if err := m.kernel.Multipaths.PutAll(groups); err != nil {
		_, err2 := m.kernel.Multipaths.DeleteAll(slices.Collect(maps.Keys(groups))) // nothing refers to them yet
		return errors.Join(err, err2)
	}
	var errs []error
	if err := w.write(m.kernel); err != nil { // only the kernel knows how much of it was done
		errs = append(errs, err, m.adoptRoutes())
	} else {
		errs = append(errs, m.setGroups(owners))
	}
	for vni := range w.vnis {
		errs = append(errs, m.bump(vni))
	}
	return errors.Join(errs...)
}

// setGroups notes the multipath groups of routes that were written, 0 is none, and removes those
// they had before.
func (m *Manager) setGroups(owners map[RouteKey]uint32) error {
	var old []uint32
	for k, group := range owners {
		if g, ok := m.groups[k]; ok {
			old = append(old, g)
			delete(m.groups, k)
		}
		if group != 0 {
			m.groups[k] = group
		}
	}
	_, err := m.kernel.Multipaths.DeleteAll(old)
	return err
}

// A routeWriter collects changes of routes by map.
type routeWriter struct {
	hosts        map[bpf.HostKey]bpf.Route
	prefixes     map[bpf.PrefixKey]bpf.Route
	goneHosts    []bpf.HostKey
	gonePrefixes []bpf.PrefixKey
	vnis         map[uint32]bool
}

func newRouteWriter() *routeWriter {
	return &routeWriter{hosts: map[bpf.HostKey]bpf.Route{}, prefixes: map[bpf.PrefixKey]bpf.Route{}, vnis: map[uint32]bool{}}
}

// add notes the value of a key; one that leads nowhere is removed.
func (w *routeWriter) add(k RouteKey, v bpf.Route) {
	w.vnis[k.VNI] = true
	e := entryOf(k)
	gone := v.LocalIfindex == 0 && v.Count == 0
	switch {
	case e.isHost && gone:
		w.goneHosts = append(w.goneHosts, e.host)
	case e.isHost:
		w.hosts[e.host] = v
	case gone:
		w.gonePrefixes = append(w.gonePrefixes, e.prefix)
	default:
		w.prefixes[e.prefix] = v
	}
}

// write puts what is new before it removes what is gone, so that a packet that has both finds one;
// in a full table what is gone has to make room first.
func (w *routeWriter) write(k *bpf.Objects) error {
	put := func() error { return errors.Join(k.Hosts.PutAll(w.hosts), k.Prefixes.PutAll(w.prefixes)) }
	err := put()
	if err != nil && !errors.Is(err, fault.Exhausted) {
		return err
	}
	hosts, err1 := k.Hosts.DeleteAll(w.goneHosts)
	prefixes, err2 := k.Prefixes.DeleteAll(w.gonePrefixes)
	if err != nil && hosts+prefixes > 0 {
		err = put()
	}
	return errors.Join(err, err1, err2)
}

// SyncRoutes makes all the whole set of the VNI's routes.
func (m *Manager) SyncRoutes(ctx context.Context, vni uint32, all []Route) error {
	want := make(map[RouteKey]bool, len(all))
	for _, r := range all {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("sync routes: %w", err)
		}
		if r.Key.VNI != vni {
			return fmt.Errorf("sync routes of VNI %d: %w: route %s is of VNI %d", vni, fault.Invalid, r.Key.Prefix, r.Key.VNI)
		}
		want[r.Key] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	changes := slices.Clone(all)
	err := m.walkRoutes(func(k RouteKey, v bpf.Route) {
		if k.VNI == vni && v.Count > 0 && !want[k] {
			changes = append(changes, Route{Key: k})
		}
	})
	if err == nil {
		err = m.applyRoutes(changes)
	}
	if err != nil {
		return fmt.Errorf("sync routes of VNI %d: %w", vni, err)
	}
	return nil
}

// setLocal makes the port behind ifindex the owner of a prefix; 0 is nobody. What routing says
// of the prefix stays.
func (m *Manager) setLocal(k RouteKey, ifindex int) error {
	var v bpf.Route
	var err error
	if e := entryOf(k); e.isHost {
		v, _, err = m.kernel.Hosts.Get(e.host)
	} else {
		v, err = m.exactPrefix(e.prefix)
	}
	if err != nil {
		return err
	}
	v.LocalIfindex = uint32(ifindex)
	w := newRouteWriter()
	w.add(k, v)
	if err := w.write(m.kernel); err != nil {
		return err
	}
	if ifindex == 0 {
		delete(m.locals, k)
	} else {
		m.locals[k] = ifindex
	}
	return nil
}

// exactPrefix reads the entry of exactly this prefix: a look-up in a trie returns the longest
// match, which may be another one. Only where there is one must all be looked at.
func (m *Manager) exactPrefix(want bpf.PrefixKey) (found bpf.Route, err error) {
	if _, ok, err := m.kernel.Prefixes.Get(want); err != nil || !ok {
		return found, err
	}
	err = m.kernel.Prefixes.Walk(func(keys []bpf.PrefixKey, values []bpf.Route) error {
		if i := slices.Index(keys, want); i >= 0 {
			found = values[i]
		}
		return nil
	})
	return found, err
}

// walkRoutes visits the routes in the kernel. After an error some were not seen.
func (m *Manager) walkRoutes(visit func(RouteKey, bpf.Route)) error {
	err := m.kernel.Hosts.Walk(func(keys []bpf.HostKey, values []bpf.Route) error {
		for i, k := range keys {
			visit(hostRouteKey(k), values[i])
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.kernel.Prefixes.Walk(func(keys []bpf.PrefixKey, values []bpf.Route) error {
		for i, k := range keys {
			visit(prefixRouteKey(k), values[i])
		}
		return nil
	})
}

// adoptRoutes learns what of the routes is kept outside of their own entries.
func (m *Manager) adoptRoutes() error {
	groups, locals := map[RouteKey]uint32{}, map[RouteKey]int{}
	err := m.walkRoutes(func(k RouteKey, v bpf.Route) {
		if v.Count > 1 {
			groups[k] = v.Group
		}
		if v.LocalIfindex != 0 {
			locals[k] = int(v.LocalIfindex)
		}
	})
	if err == nil {
		m.groups, m.locals = groups, locals
	}
	return err
}
