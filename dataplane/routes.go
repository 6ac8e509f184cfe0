package dataplane

import (
	"context"
	"errors"
	"fmt"

	"ingot/dataplane/internal/bpf"
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
	w := routeWriter{hosts: map[bpf.HostKey]bpf.Route{}, prefixes: map[bpf.PrefixKey]bpf.Route{}, vnis: map[uint32]bool{}}
	groups := map[uint32]bpf.Multipath{}
	var oldGroups []uint32
	for i, r := range routes {
		if last[r.Key] != i {
			continue
		}
		if g, ok := m.groups[r.Key]; ok {
			oldGroups = append(oldGroups, g)
			delete(m.groups, r.Key)
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
			m.groups[r.Key] = v.Group
		}
		w.add(r.Key, v)
	}
	if len(groups) > 0 {
		if err := m.kernel.Serials.Put(0, m.serials); err != nil {
			return err
		}
	}
	if err := errors.Join(m.kernel.Multipaths.PutAll(groups), w.write(m.kernel)); err != nil {
		return err
	}
	if _, err := m.kernel.Multipaths.DeleteAll(oldGroups); err != nil {
		return err
	}
	for vni := range w.vnis {
		if err := m.bump(vni); err != nil {
			return err
		}
	}
	return nil
}

// A routeWriter collects changes of routes by map.
type routeWriter struct {
	hosts        map[bpf.HostKey]bpf.Route
	prefixes     map[bpf.PrefixKey]bpf.Route
	goneHosts    []bpf.HostKey
	gonePrefixes []bpf.PrefixKey
	vnis         map[uint32]bool
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

func (w *routeWriter) write(k *bpf.Objects) error {
	if err := errors.Join(k.Hosts.PutAll(w.hosts), k.Prefixes.PutAll(w.prefixes)); err != nil {
		return err
	}
	_, err1 := k.Hosts.DeleteAll(w.goneHosts)
	_, err2 := k.Prefixes.DeleteAll(w.gonePrefixes)
	return errors.Join(err1, err2)
}

// SyncRoutes makes all the whole set of the VNI's routes.
func (m *Manager) SyncRoutes(ctx context.Context, vni uint32, all []Route) error {
	want := make(map[RouteKey]bool, len(all))
	for _, r := range all {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("sync routes: %w", err)
		}
		if r.Key.VNI != vni {
			return fmt.Errorf("sync routes of VNI %d: route %s is of VNI %d", vni, r.Key.Prefix, r.Key.VNI)
		}
		want[r.Key] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	changes := all
	for k, v := range m.allRoutes() {
		if k.VNI == vni && v.Count > 0 && !want[k] {
			changes = append(changes[:len(changes):len(changes)], Route{Key: k})
		}
	}
	if err := m.applyRoutes(changes); err != nil {
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
	if ifindex == 0 {
		delete(m.locals, k)
	} else {
		m.locals[k] = ifindex
	}
	w := routeWriter{hosts: map[bpf.HostKey]bpf.Route{}, prefixes: map[bpf.PrefixKey]bpf.Route{}, vnis: map[uint32]bool{}}
	w.add(k, v)
	return w.write(m.kernel)
}

// exactPrefix reads the entry of exactly this prefix: a look-up in a trie returns the longest
// match, which may be another one.
func (m *Manager) exactPrefix(want bpf.PrefixKey) (bpf.Route, error) {
	for keys, values := range m.kernel.Prefixes.All() {
		for i, k := range keys {
			if k == want {
				return values[i], nil
			}
		}
	}
	return bpf.Route{}, nil
}

// allRoutes walks the routes in the kernel.
func (m *Manager) allRoutes() func(yield func(RouteKey, bpf.Route) bool) {
	return func(yield func(RouteKey, bpf.Route) bool) {
		for keys, values := range m.kernel.Hosts.All() {
			for i, k := range keys {
				if !yield(hostRouteKey(k), values[i]) {
					return
				}
			}
		}
		for keys, values := range m.kernel.Prefixes.All() {
			for i, k := range keys {
				if !yield(prefixRouteKey(k), values[i]) {
					return
				}
			}
		}
	}
}

// adoptRoutes learns what of the routes is kept outside of their own entries.
func (m *Manager) adoptRoutes() {
	for k, v := range m.allRoutes() {
		if v.Count > 1 {
			m.groups[k] = v.Group
		}
		if v.LocalIfindex != 0 {
			m.locals[k] = int(v.LocalIfindex)
		}
	}
}

// pruneLocals removes ownership by devices that are no port's.
func (m *Manager) pruneLocals(ports map[uint32]bool) error {
	for k, ifindex := range m.locals {
		if !ports[uint32(ifindex)] {
			if err := m.setLocal(k, 0); err != nil {
				return err
			}
		}
	}
	return nil
}
