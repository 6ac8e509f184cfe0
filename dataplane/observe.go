package dataplane

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ingot/dataplane/internal/bpf"
	"ingot/dataplane/internal/netdev"
	"ingot/runtime/fault"
)

// Ports lists the ports in order of their ID.
func (m *Manager) Ports() []PortStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []PortStatus
	for _, p := range m.ports {
		all = append(all, m.status(p))
	}
	slices.SortFunc(all, func(a, b PortStatus) int { return strings.Compare(a.ID, b.ID) })
	return all
}

func (m *Manager) status(p *port) PortStatus {
	return PortStatus{ID: p.Spec.ID, Device: p.Device, IfIndex: p.device.Index, MTU: m.mtu, Ready: p.ready, Spec: p.Spec}
}

// intact tells whether the port's device is still the one that was filtered, and up.
func (m *Manager) intact(p *port) bool {
	d, err := netdev.Find(p.Device)
	return err == nil && d.Index == p.device.Index && d.Up && d.PeerElsewhere == p.device.PeerElsewhere &&
		m.kernel.Attached(linkName(p.Device), d.Index)
}

// Counters reports every port, and first one entry with PortID "" for what belongs to none.
func (m *Manager) Counters() ([]PortCounters, error) {
	slots := map[uint32]string{0: ""}
	m.mu.Lock()
	for id, p := range m.ports {
		slots[p.Slot] = id
	}
	m.mu.Unlock()
	var all []PortCounters
	for slot, id := range slots {
		perCPU, err := m.kernel.Counters.Get(slot)
		if err != nil {
			return nil, fmt.Errorf("read counters of port %q: %w", id, err)
		}
		c := PortCounters{PortID: id, Drops: map[string]uint64{}}
		for _, v := range perCPU {
			c.FromMachine.Packets += v.FromPackets
			c.FromMachine.Bytes += v.FromBytes
			c.ToMachine.Packets += v.ToPackets
			c.ToMachine.Bytes += v.ToBytes
			for i, name := range bpf.Reasons {
				if v.Drops[i] > 0 {
					c.Drops[name] += v.Drops[i]
				}
			}
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b PortCounters) int { return strings.Compare(a.PortID, b.PortID) })
	return all, nil
}

// Flows lists the connections of one port, in order of protocol and addresses. An unknown port
// is an error of class fault.NotFound.
func (m *Manager) Flows(portID string) ([]Flow, error) {
	m.mu.Lock()
	p := m.ports[portID]
	m.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("list flows of port %s: %w", portID, fault.NotFound)
	}
	now := clock()
	var all []Flow
	err := m.kernel.Flows.Walk(func(keys []bpf.FlowKey, values []bpf.Flow) error {
		for i, k := range keys {
			if k.Slot == p.Slot && !expired(values[i], now) {
				all = append(all, flow(k, values[i], now))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list flows of port %s: %w", portID, err)
	}
	slices.SortFunc(all, func(a, b Flow) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Local.Compare(b.Local), a.Remote.Compare(b.Remote))
	})
	return all, nil
}

func flow(k bpf.FlowKey, v bpf.Flow, now uint32) Flow {
	f := Flow{
		Protocol:  k.Protocol,
		Local:     netip.AddrPortFrom(address(k.Family, k.Local), bits.ReverseBytes16(k.Lport)),
		Remote:    netip.AddrPortFrom(address(k.Family, k.Remote), bits.ReverseBytes16(k.Rport)),
		Initiator: "machine",
		State:     []string{"new", "established", "closing", "closed"}[v.State&3],
		Idle:      time.Duration(max(int32(now-v.Last), 0)) << 30,
	}
	if v.Flags&bpf.FlowFromRemote != 0 {
		f.Initiator = "remote"
	}
	if v.Flags&bpf.FlowRouted != 0 && v.LocalIfindex == 0 {
		f.NextHop = netip.AddrFrom16(v.Nexthop.B)
	}
	return f
}
