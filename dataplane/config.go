package dataplane

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
)

// ReceiveMode says where packets from the fabric are decapsulated.
type ReceiveMode string

const (
	// ReceiveAuto takes XDP where the uplink's driver has native XDP, except on veth, where XDP
	// makes the peer segment in software; elsewhere TC.
	ReceiveAuto ReceiveMode = ""
	// ReceiveTC decapsulates in tcx, after GRO has merged the outer packets.
	ReceiveTC ReceiveMode = "tc"
	// ReceiveXDP decapsulates in native XDP, so that GRO merges the inner flow.
	ReceiveXDP ReceiveMode = "xdp"
)

// Config is what a host's dataplane is made of. The zero value of a field is its default
// where one is named.
type Config struct {
	// Dir holds maps, links and nothing else; a bpffs is mounted there if it is not one.
	Dir string
	// StateDir holds one durable file per port (mode 0600), so that a restart needs nobody.
	StateDir string
	// Uplinks are the devices towards the fabric.
	Uplinks []string
	// UnderlayPrefix is this host's part of the underlay; every port's address is in it.
	UnderlayPrefix netip.Prefix
	// Receive defaults to ReceiveAuto.
	Receive ReceiveMode
	// GatewayMAC is the source of every frame a machine receives; default 02:00:5e:00:00:01.
	GatewayMAC net.HardwareAddr
	// MaxPorts bounds the machine interfaces of this host; default 1024.
	MaxPorts int
	// MaxFlows bounds the flow table; default 1<<20.
	MaxFlows int
	// FlowsPerPort is one port's share of the flow table; default 1<<17.
	FlowsPerPort int
	// MaxRoutes bounds the host routes, and likewise the prefixes; default 1<<20.
	MaxRoutes int
	// Device names an existing device to use for the port instead of a new tap; nil or ""
	// means a tap. The device is attached and raised, never created or deleted.
	Device func(portID string) string
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !filepath.IsAbs(c.Dir) {
		fault("Dir %q: want an absolute path, such as /run/ingot/bpf", c.Dir)
	}
	if !filepath.IsAbs(c.StateDir) {
		fault("StateDir %q: want an absolute path, such as /var/lib/ingot/dataplane", c.StateDir)
	}
	if len(c.Uplinks) == 0 || len(c.Uplinks) > maxUplinks {
		fault("Uplinks: want 1 to %d devices, have %d", maxUplinks, len(c.Uplinks))
	}
	if p := c.UnderlayPrefix; !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() || p.Masked() != p {
		fault("UnderlayPrefix %s: want an IPv6 prefix without host bits", p)
	}
	switch c.Receive {
	case ReceiveAuto, ReceiveTC, ReceiveXDP:
	default:
		fault("Receive %q: want auto (empty), tc or xdp", c.Receive)
	}
	if n := len(c.GatewayMAC); n != 0 && (n != 6 || c.GatewayMAC[0]&1 != 0) {
		fault("GatewayMAC %s: want a unicast Ethernet address", c.GatewayMAC)
	}
	if c.MaxPorts < 0 || c.MaxFlows < 0 || c.FlowsPerPort < 0 || c.MaxRoutes < 0 {
		fault("MaxPorts, MaxFlows, FlowsPerPort, MaxRoutes: want positive numbers")
	}
	return errors.Join(faults...)
}

const maxUplinks = 8

// withDefaults fills the zero values.
func (c Config) withDefaults() Config {
	if len(c.GatewayMAC) == 0 {
		c.GatewayMAC = net.HardwareAddr{0x02, 0x00, 0x5e, 0x00, 0x00, 0x01}
	}
	set := func(v *int, n int) {
		if *v == 0 {
			*v = n
		}
	}
	set(&c.MaxPorts, 1024)
	set(&c.MaxFlows, 1<<20)
	set(&c.FlowsPerPort, 1<<17)
	set(&c.MaxRoutes, 1<<20)
	if c.Device == nil {
		c.Device = func(string) string { return "" }
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}
