package dataplane

import (
	"fmt"
	"net/netip"

	"ingot/dataplane/internal/bpf"
	"ingot/runtime/fault"
)

// Cost is what a packet costs in nanoseconds, measured by repetition inside the kernel.
type Cost struct {
	// Packet is one that the port program tunnels or drops.
	Packet float64
	// Forwarded tells which.
	Forwarded bool
	// Empty is a program that does nothing.
	Empty float64
}

// MeasurePackets runs a UDP packet from the port to a random one of flows destinations and
// source ports (a power of two, in 11.0.0.0/8, which must be routed) through the port program,
// repeat times. It is for benchmarks: it fills the flow table.
func (m *Manager) MeasurePackets(portID string, flows uint32, repeat int) (Cost, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.ports[portID]
	if p == nil || !p.ready {
		return Cost{}, fmt.Errorf("measure packets of port %s: %w", portID, fault.NotFound)
	}
	b, err := m.kernel.Bench(m.loaded, m.sizes(), flows)
	if err != nil {
		return Cost{}, fmt.Errorf("measure packets: %w", err)
	}
	defer b.Close()
	frame := measuredFrame(p)
	times := map[string]float64{}
	var action uint32
	for _, program := range []string{"bench_empty", "bench_restore", "bench_resize", "bench_port"} {
		var ns int64
		if action, ns, err = b.Run(program, p.device.Index, frame, repeat); err != nil {
			return Cost{}, fmt.Errorf("measure packets: %w", err)
		}
		times[program] = float64(ns)
	}
	c := Cost{Packet: times["bench_port"], Empty: times["bench_empty"], Forwarded: action == redirected}
	if c.Forwarded {
		// resize goes both ways, of which bench_port needs one for itself
		c.Packet -= times["bench_restore"] - times["bench_empty"] + (times["bench_resize"]-times["bench_empty"])/2
	}
	return c, nil
}

// redirected is TC_ACT_REDIRECT; see linux/pkt_cls.h.
const redirected = 7

func (m *Manager) sizes() bpf.Sizes {
	return bpf.Sizes{Ports: m.cfg.MaxPorts, Flows: m.cfg.MaxFlows, Routes: m.cfg.MaxRoutes}
}

// measuredFrame is 64 bytes of UDP from the port's first IPv4 address to 11.0.0.1.
func measuredFrame(p *port) []byte {
	f := make([]byte, 64)
	copy(f[6:], p.Spec.MAC)
	f[12] = 0x08
	ip := f[14:]
	ip[0], ip[3], ip[8], ip[9] = 0x45, 50, 64, 17
	for _, a := range p.Spec.Addresses {
		if a.Is4() {
			copy(ip[12:], a.AsSlice())
			break
		}
	}
	copy(ip[16:], netip.AddrFrom4([4]byte{11, 0, 0, 1}).AsSlice())
	ip[21], ip[23], ip[25] = 9, 9, 30
	return f
}
