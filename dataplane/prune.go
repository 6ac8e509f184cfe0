package dataplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ingot/dataplane/internal/bpf"
	"ingot/dataplane/internal/netdev"
)

// Prune removes every port, tap, pin and map entry that belongs to none of keep, and the maps of
// earlier versions of the programs. Call it only with the full desired state at hand.
func (m *Manager) Prune(ctx context.Context, keep []string) error {
	for _, p := range m.Ports() {
		if !slices.Contains(keep, p.ID) {
			if err := m.DeletePort(ctx, p.ID); err != nil {
				return fmt.Errorf("prune: %w", err)
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	devices := map[string]bool{}
	for _, p := range m.ports {
		devices[p.Device] = true
	}
	if err := m.pruneDevices(devices); err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	if err := errors.Join(m.pruneMaps(), m.kernel.UnpinOthers()); err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	clear(m.strays)
	return nil
}

func (m *Manager) pruneDevices(keep map[string]bool) error {
	links, err := m.kernel.Links()
	if err != nil {
		return err
	}
	for _, name := range links {
		if device, ok := strings.CutPrefix(name, linkPrefix); ok && !keep[device] {
			if err := m.kernel.Detach(name); err != nil {
				return err
			}
		}
	}
	taps, err := netdev.Taps(tapPrefix)
	if err != nil {
		return err
	}
	for _, tap := range taps {
		if isDeviceName(tap) && !keep[tap] {
			if err := netdev.DeleteTap(tap); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Manager) pruneMaps() error {
	indexes, underlays := map[uint32]bool{}, map[bpf.Addr]uint32{}
	rulesets, groups := map[uint32]bool{}, map[uint32]bool{}
	for _, p := range m.ports {
		index := uint32(p.device.Index)
		indexes[index], underlays[addr(p.Spec.Underlay)] = true, index
		rulesets[p.value.Ingress], rulesets[p.value.Egress] = true, true
	}
	for _, g := range m.groups {
		groups[g] = true
	}
	return errors.Join(
		prune(m.kernel.Ports, func(k uint32, _ bpf.Port) bool { return indexes[k] }),
		prune(m.kernel.Underlays, func(k bpf.Addr, v uint32) bool { return underlays[k] == v }),
		prune(m.kernel.Peers, func(k bpf.PrefixKey, _ bpf.Bitvector) bool { return rulesets[k.Scope>>8] }),
		prune(m.kernel.Services, func(k bpf.ServiceKey, _ bpf.Bitvector) bool { return rulesets[k.Ruleset] }),
		prune(m.kernel.Vectors, func(k bpf.VectorKey, _ uint64) bool { return rulesets[k.Ruleset] }),
		prune(m.kernel.Multipaths, func(k uint32, _ bpf.Multipath) bool { return groups[k] }),
		m.pruneLocals(indexes),
	)
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

// prune deletes only once everything was seen.
func prune[K comparable, V any](t bpf.Table[K, V], keep func(K, V) bool) error {
	gone, err := t.Select(func(k K, v V) bool { return !keep(k, v) })
	if err != nil {
		return err
	}
	_, err = t.DeleteAll(gone)
	return err
}
