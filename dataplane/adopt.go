package dataplane

import (
	"errors"
	"strings"

	"ingot/dataplane/internal/bpf"
	"ingot/dataplane/internal/netdev"
	"ingot/runtime/fault"
)

// Names of pinned links.
const (
	linkPrefix      = "port-"
	uplinkPrefix    = "uplink-"
	uplinkXDPPrefix = "uplink-xdp-"
)

func linkName(device string) string { return linkPrefix + device }

// adoptPorts brings the recorded ports to what their records say. The maps may hold an older
// state of them, or none.
func (m *Manager) adoptPorts() error {
	all, err := m.records.load()
	if err != nil {
		return err
	}
	bySlot := map[uint32]*port{}
	for _, rec := range all { // all slots are known before one is given away
		p := &port{record: rec}
		m.ports[rec.Spec.ID], bySlot[rec.Slot] = p, p
	}
	err = m.kernel.Ports.Walk(func(keys []uint32, values []bpf.Port) error {
		for i, v := range values {
			if p := bySlot[v.Slot]; p != nil {
				p.value, p.device.Index = v, int(keys[i])
			} else {
				m.strays[v.Slot] = true
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range m.ports {
		if err := m.install(p); err != nil {
			m.cfg.Log.Error("adopt port", "port", p.Spec.ID, "error", err)
		}
	}
	return nil
}

// attachUplinks lets go of other uplinks last: one that was renamed has its program all the time.
func (m *Manager) attachUplinks(uplinks []netdev.Device) error {
	keep := map[string]bool{}
	for _, d := range uplinks {
		if err := m.attachUplink(d); err != nil {
			return err
		}
		keep[uplinkPrefix+d.Name], keep[uplinkXDPPrefix+d.Name] = true, true
	}
	links, err := m.kernel.Links()
	if err != nil {
		return err
	}
	for _, name := range links {
		if strings.HasPrefix(name, uplinkPrefix) && !keep[name] {
			if err := m.kernel.Detach(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// attachUplink puts tc first: it takes packets both in and out of the tunnel.
func (m *Manager) attachUplink(d netdev.Device) error {
	if err := netdev.AllowLookups(d.Name); err != nil {
		return err
	}
	if err := m.kernel.AttachUplink(uplinkPrefix+d.Name, d.Index); err != nil {
		return err
	}
	xdp := uplinkXDPPrefix + d.Name
	if m.cfg.Receive == ReceiveTC || m.cfg.Receive == ReceiveAuto && d.Kind == "veth" {
		return m.kernel.Detach(xdp)
	}
	err := m.kernel.AttachUplinkXDP(xdp, d.Index)
	if m.cfg.Receive == ReceiveAuto && err != nil && !errors.Is(err, fault.Conflict) {
		// drivers refuse XDP for reasons of their own: MTU, queues, offloads
		m.cfg.Log.Info("uplink receives by tc", "uplink", d.Name, "because", err)
		return nil
	}
	return err
}
