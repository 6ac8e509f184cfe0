package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"ingot/dataplane/internal/bpf"
	"ingot/dataplane/internal/netdev"
	"ingot/dataplane/respond"
	"ingot/runtime/fault"
)

// EnsurePort creates the port or brings it to spec. It is durable and filtered when it returns.
// Errors: fault.Invalid, fault.Conflict when another port has an address, fault.Exhausted.
func (m *Manager) EnsurePort(ctx context.Context, spec PortSpec) (PortStatus, error) {
	if err := spec.Validate(m.cfg.UnderlayPrefix); err != nil {
		return PortStatus{}, fmt.Errorf("ensure port %s: %w", spec.ID, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.ensure(spec)
	if err != nil {
		return PortStatus{}, fmt.Errorf("ensure port %s: %w", spec.ID, err)
	}
	return m.status(p), nil
}

func (m *Manager) ensure(spec PortSpec) (*port, error) {
	if err := m.checkOwners(spec); err != nil {
		return nil, err
	}
	p := m.ports[spec.ID]
	if p != nil && p.ready && reflect.DeepEqual(p.Spec, spec) && m.intact(p) {
		return p, nil
	}
	if p != nil && p.Spec.VNI != spec.VNI {
		return nil, fmt.Errorf("%w: a port never changes its network (VNI %d); delete it first", fault.Precondition, p.Spec.VNI)
	}
	if p == nil {
		slot, err := m.freeSlot()
		if err != nil {
			return nil, err
		}
		p = &port{record: record{Slot: slot, Device: m.deviceOf(spec.ID), Spec: spec}}
		if err := m.clearSlot(slot); err != nil {
			return nil, err
		}
	}
	old := p.Spec
	p.Spec = spec
	if err := m.records.save(p.record); err != nil {
		p.Spec = old
		return nil, err
	}
	m.ports[spec.ID] = p
	if err := m.install(p); err != nil {
		p.ready = false
		return nil, err
	}
	return p, nil
}

// install is the order that keeps the port filtered at every instant: maps, program, up. A port
// that is up already goes on by its old program until the new one has what it needs.
func (m *Manager) install(p *port) error {
	before := p.device
	device, err := m.device(p)
	if err != nil {
		return err
	}
	p.device = device
	stale := []uint32{p.value.Ingress, p.value.Egress}
	staleRules := p.rules
	if err := m.writePort(p, before.Index); err != nil {
		return err
	}
	if err := m.kernel.AttachPort(linkName(p.Device), device.Index); err != nil {
		return err
	}
	if before.Index != 0 && before.Index != device.Index {
		if _, err := m.kernel.Ports.Delete(uint32(before.Index)); err != nil {
			return err
		}
	}
	for i, id := range stale {
		if err := m.deleteRules(id, staleRules[i]); err != nil {
			return err
		}
	}
	if before.Index != device.Index {
		m.respond.Remove(before.Index)
	}
	if err := m.respond.Set(device.Index, m.guest(p.Spec)); err != nil {
		return err
	}
	if err := netdev.Up(device); err != nil {
		return err
	}
	p.ready = true
	return nil
}

// deviceOf names the device of a port.
func (m *Manager) deviceOf(id string) string {
	if device := m.cfg.Device(id); device != "" {
		return device
	}
	return deviceName(id)
}

// guest is what the machine is told when it asks.
func (m *Manager) guest(spec PortSpec) respond.Port {
	return respond.Port{
		MAC: spec.MAC, Addresses: spec.Addresses, GatewayMAC: m.cfg.GatewayMAC, MTU: m.mtu,
		Hostname: spec.Guest.Hostname, DNS: spec.Guest.DNS,
	}
}

func (m *Manager) device(p *port) (netdev.Device, error) {
	if m.cfg.Device(p.Spec.ID) == "" {
		return netdev.EnsureTap(p.Device, m.mtu)
	}
	d, err := netdev.Find(p.Device)
	if err != nil {
		return d, err
	}
	return d, netdev.DisableIPv6(p.Device)
}

// writePort writes rule sets, own routes, and then the entry that makes them valid together
// with a new epoch: no flow of that epoch knows what the old spec had and the new has not.
func (m *Manager) writePort(p *port, oldIndex int) error {
	v := p.value
	var err error
	for i, set := range []RuleSet{p.Spec.Policy.Ingress, p.Spec.Policy.Egress} {
		id := []*uint32{&v.Ingress, &v.Egress}[i]
		*id = 0
		p.rules[i] = ruleTables{}
		if !set.Enforced {
			continue
		}
		if *id, err = m.nextRuleset(); err != nil {
			return err
		}
		if p.rules[i], err = m.writeRules(*id, set.Rules); err != nil {
			return err
		}
	}
	for _, prefix := range p.Spec.prefixes() {
		if err := m.setLocal(RouteKey{p.Spec.VNI, prefix}, p.device.Index); err != nil {
			return err
		}
	}
	if err := m.dropLocals(p, oldIndex); err != nil {
		return err
	}
	if v.Epoch, err = m.nextEpoch(); err != nil {
		return err
	}
	if v.Born == 0 {
		v.Born = v.Epoch
	}
	v.Slot, v.Vni = p.Slot, p.Spec.VNI
	v.Mac = [6]uint8(p.Spec.MAC)
	v.Underlay = addr(p.Spec.Underlay)
	v.PeerRedirect = 0
	if p.device.PeerElsewhere {
		v.PeerRedirect = 1
	}
	oldUnderlay := p.value.Underlay
	if err := m.kernel.Ports.Put(uint32(p.device.Index), v); err != nil {
		return err
	}
	if err := m.kernel.Underlays.Put(v.Underlay, uint32(p.device.Index)); err != nil {
		return err
	}
	if oldUnderlay != v.Underlay && oldUnderlay != (bpf.Addr{}) {
		if _, err := m.kernel.Underlays.Delete(oldUnderlay); err != nil {
			return err
		}
	}
	p.value = v // not before: what is half done is done again, and then still knows the old address
	return m.bump(p.Spec.VNI)
}

func (m *Manager) writeRules(id uint32, rules []Rule) (ruleTables, error) {
	t, err := compileRules(id, rules)
	if err != nil {
		return t, err
	}
	return t, errors.Join(m.kernel.Vectors.PutAll(t.vectors), m.kernel.Peers.PutAll(t.peers), m.kernel.Services.PutAll(t.services))
}

// deleteRules removes a rule set that no port uses any more. After a restart its tables are
// not known; Prune collects those.
func (m *Manager) deleteRules(id uint32, t ruleTables) error {
	if id == 0 {
		return nil
	}
	_, err1 := m.kernel.Peers.DeleteAll(slices.Collect(maps.Keys(t.peers)))
	_, err2 := m.kernel.Services.DeleteAll(slices.Collect(maps.Keys(t.services)))
	_, err3 := m.kernel.Vectors.DeleteAll(slices.Collect(maps.Keys(t.vectors)))
	return errors.Join(err1, err2, err3)
}

// dropLocals removes the own routes that p.Spec does not have, whichever earlier spec had them.
func (m *Manager) dropLocals(p *port, oldIndex int) error {
	keep := p.Spec.prefixes()
	for k, ifindex := range m.locals {
		if ifindex != p.device.Index && ifindex != oldIndex || k.VNI == p.Spec.VNI && slices.Contains(keep, k.Prefix) {
			continue
		}
		if err := m.setLocal(k, 0); err != nil {
			return err
		}
	}
	return nil
}

// DeletePort removes the port and all that belongs to it; an unknown port is a success. The
// record goes last, so that a crash leaves a port that can be deleted again.
func (m *Manager) DeletePort(ctx context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.ports[id]
	if p == nil {
		return nil
	}
	p.ready = false
	if err := m.remove(p); err != nil {
		return fmt.Errorf("delete port %s: %w", id, err)
	}
	delete(m.ports, id)
	return nil
}

func (m *Manager) remove(p *port) error {
	if p.device.Index != 0 {
		m.respond.Remove(p.device.Index)
		d, err := netdev.Find(p.Device)
		if err == nil {
			err = netdev.Down(d)
		}
		if err != nil && !errors.Is(err, fault.NotFound) {
			return err // it may be up, so its program stays
		}
		if _, err := m.kernel.Ports.Delete(uint32(p.device.Index)); err != nil {
			return err
		}
		p.value.Slot = 0 // no entry to bump any more
	}
	if _, err := m.kernel.Underlays.Delete(addr(p.Spec.Underlay)); err != nil {
		return err
	}
	for _, prefix := range p.Spec.prefixes() {
		if err := m.setLocal(RouteKey{p.Spec.VNI, prefix}, 0); err != nil {
			return err
		}
	}
	if err := m.bump(p.Spec.VNI); err != nil {
		return err
	}
	if err := m.kernel.Detach(linkName(p.Device)); err != nil {
		return err
	}
	if m.cfg.Device(p.Spec.ID) == "" {
		if err := netdev.DeleteTap(p.Device); err != nil {
			return err
		}
	}
	if err := m.clearSlot(p.Slot); err != nil {
		return err
	}
	err := errors.Join(m.deleteRules(p.value.Ingress, p.rules[0]), m.deleteRules(p.value.Egress, p.rules[1]))
	if err != nil {
		return err
	}
	return m.records.remove(p.Spec.ID)
}

// checkOwners refuses what would take an address away from another port.
func (m *Manager) checkOwners(spec PortSpec) error {
	for id, p := range m.ports {
		if id == spec.ID {
			continue
		}
		if p.Device == m.deviceOf(spec.ID) {
			return fmt.Errorf("%w: device %s is that of port %s", fault.Conflict, p.Device, id)
		}
		if p.Spec.Underlay == spec.Underlay {
			return fmt.Errorf("%w: underlay address %s is that of port %s", fault.Conflict, spec.Underlay, id)
		}
		if p.Spec.VNI != spec.VNI {
			continue
		}
		for _, prefix := range p.Spec.prefixes() {
			if slices.Contains(spec.prefixes(), prefix) {
				return fmt.Errorf("%w: %s of VNI %d is that of port %s", fault.Conflict, prefix, spec.VNI, id)
			}
		}
	}
	return nil
}

func (m *Manager) freeSlot() (uint32, error) {
	used := maps.Clone(m.strays)
	for _, p := range m.ports {
		used[p.Slot] = true
	}
	for slot := uint32(1); slot <= uint32(m.cfg.MaxPorts); slot++ {
		if !used[slot] {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("%w: this host has its %d ports; raise MaxPorts", fault.Exhausted, m.cfg.MaxPorts)
}

// clearSlot forgets the flows and counters of a slot.
func (m *Manager) clearSlot(slot uint32) error {
	keys, err := m.kernel.Flows.Select(func(k bpf.FlowKey, _ bpf.Flow) bool { return k.Slot == slot })
	if err != nil {
		return err
	}
	if _, err := m.kernel.Flows.DeleteAll(keys); err != nil {
		return err
	}
	return errors.Join(m.kernel.FlowsCreated.Put(slot, 0), m.kernel.FlowsRemoved.Put(slot, 0), m.kernel.Counters.Clear(slot))
}

// bump makes every flow of the network be evaluated again.
func (m *Manager) bump(vni uint32) error {
	for _, p := range m.ports {
		if p.Spec.VNI != vni || p.value.Slot == 0 {
			continue
		}
		epoch, err := m.nextEpoch()
		if err != nil {
			return err
		}
		p.value.Epoch = epoch
		if err := m.kernel.Ports.Put(uint32(p.device.Index), p.value); err != nil {
			return err
		}
	}
	return nil
}
