package dataplane

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"ingot/dataplane/internal/bpf"
	"ingot/dataplane/internal/netdev"
	"ingot/dataplane/respond"
	"ingot/runtime/fault"
)

// overhead is the outer IPv6 header.
const overhead = 40

// A Manager is this host's dataplane. Its methods may be called from several goroutines.
type Manager struct {
	cfg     Config
	kernel  *bpf.Objects
	respond *respond.Server
	records records
	loaded  bpf.Conf // what the programs were loaded with
	mtu     int      // of machines

	mu      sync.Mutex // guards what follows, and the order of writes to the kernel
	ports   map[string]*port
	locals  map[RouteKey]int // ifindex of the port that owns the prefix
	groups  map[RouteKey]uint32
	strays  map[uint32]bool // slots in the kernel that have no record; until Prune
	serials bpf.Serials
}

// A port is one that is recorded; it is ready when all of it is in place.
type port struct {
	record
	device netdev.Device
	value  bpf.Port
	rules  [2]ruleTables // what the rule sets of value are made of: ingress, egress
	ready  bool
}

// Open adopts what an earlier process left under cfg.Dir and cfg.StateDir, or starts afresh.
// Forwarding goes on while it works. Errors: fault.Invalid for cfg, fault.Unsupported where
// the kernel lacks something. A recorded port that cannot be brought up is logged and stays
// not ready; EnsurePort tries again.
func Open(cfg Config) (*Manager, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("open dataplane: %w: %w", fault.Invalid, err)
	}
	m := &Manager{
		cfg:     cfg.withDefaults(),
		records: records{dir: cfg.StateDir},
		ports:   map[string]*port{},
		locals:  map[RouteKey]int{},
		groups:  map[RouteKey]uint32{},
		strays:  map[uint32]bool{},
	}
	if err := m.open(); err != nil {
		m.Close()
		return nil, fmt.Errorf("open dataplane: %w", err)
	}
	return m, nil
}

// open goes maps, programs, ports, uplinks: an uplink's program delivers from its first packet.
func (m *Manager) open() error {
	uplinks := make([]netdev.Device, len(m.cfg.Uplinks))
	for i, name := range m.cfg.Uplinks {
		d, err := netdev.Find(name)
		if err != nil {
			return fmt.Errorf("open uplink: %w", err)
		}
		if mtu := d.MTU - overhead; i == 0 || mtu < m.mtu {
			m.mtu = mtu
		}
		uplinks[i] = d
	}
	err := m.records.open()
	if err != nil {
		return err
	}
	m.loaded = m.conf(uplinks[0])
	m.kernel, err = bpf.Open(m.cfg.Dir, m.loaded, m.sizes())
	if err != nil {
		return err
	}
	if m.kernel.Private {
		m.cfg.Log.Warn("pins end with this process' mount namespace: mount a bpffs beforehand, outside of it", "dir", m.cfg.Dir)
	}
	if m.respond, err = respond.New(respond.Config{Log: m.cfg.Log}); err != nil {
		return err
	}
	if m.serials, _, err = m.kernel.Serials.Get(0); err != nil {
		return err
	}
	if err := m.adoptRoutes(); err != nil {
		return err
	}
	if err := m.adoptPorts(); err != nil {
		return err
	}
	return m.attachUplinks(uplinks)
}

func (m *Manager) conf(uplink netdev.Device) bpf.Conf {
	c := bpf.Conf{
		UnderlayLen:  uint32(m.cfg.UnderlayPrefix.Bits()),
		Mtu:          uint32(m.mtu),
		FlowsPerPort: uint32(m.cfg.FlowsPerPort),
		Uplink:       uint32(uplink.Index),
		GatewayMac:   [6]uint8(m.cfg.GatewayMAC),
		Gateway4:     respond.GatewayIPv4.As4(),
	}
	c.Underlay.B = m.cfg.UnderlayPrefix.Addr().As16()
	c.Gateway6.B = respond.GatewayIPv6.As16()
	return c
}

// Run answers DHCP and router solicitations and expires flows until ctx ends; then it returns nil.
// It must be called at most once.
func (m *Manager) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.respond.Run(ctx) })
	group.Go(func() error { m.expire(ctx); return nil })
	return group.Wait()
}

// Close releases this process' handles; everything stays pinned and forwarding.
func (m *Manager) Close() error {
	var err error
	if m.respond != nil {
		err = m.respond.Close()
	}
	if m.kernel != nil {
		m.kernel.Close()
	}
	return errors.Join(err, m.records.close())
}

// nextEpoch is written down before it is used, so that none is ever used twice.
func (m *Manager) nextEpoch() (uint32, error) {
	m.serials.Epoch++
	return m.serials.Epoch, m.kernel.Serials.Put(0, m.serials)
}

// nextRuleset is a number that no port has: scopes hold 24 bits of it, so they come round.
func (m *Manager) nextRuleset() (uint32, error) {
	used := map[uint32]bool{0: true}
	for _, p := range m.ports {
		used[p.value.Ingress], used[p.value.Egress] = true, true
	}
	for again := true; again; again = used[m.serials.Ruleset] {
		m.serials.Ruleset = (m.serials.Ruleset + 1) & (1<<24 - 1)
	}
	return m.serials.Ruleset, m.kernel.Serials.Put(0, m.serials)
}
