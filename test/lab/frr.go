package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
)

// frrDir is where Debian's frr package puts the daemons.
const frrDir = "/usr/lib/frr/"

// FRRPrograms are what StartReflector needs, for need.Commands.
var FRRPrograms = []string{frrDir + "bgpd", "vtysh"}

// ReflectorConfig describes a route reflector.
type ReflectorConfig struct {
	// ASN of the reflector and of its clients.
	ASN uint32
	// Clients are the addresses they connect from. They are neighbours by name: what FRR accepts
	// from a listen range it forgets with the connection, in spite of graceful restart.
	Clients []netip.Addr
	// Password is the TCP MD5 key of every client; "" for none.
	Password string
	// MaxHops turns on GTSM (RFC 5082) towards every client; 0: off.
	MaxHops int
}

// A Reflector is FRR's bgpd reflecting EVPN on a host, at port 179 of its Address. It runs without
// zebra and so takes every next hop for reachable: it forwards nothing, and to have zebra resolve
// the address of each port costs most of the time of a burst.
type Reflector struct {
	BGP  *Process
	host *Host
}

// StartReflector starts a route reflector on the host and returns when it listens.
func (h *Host) StartReflector(ctx context.Context, cfg ReflectorConfig) (*Reflector, error) {
	for _, dir := range []string{"/run/frr", "/etc/frr"} {
		if _, err := h.Exec(ctx, "install", "-d", "-m", "755", "-o", "frr", "-g", "frr", dir); err != nil {
			return nil, err
		}
	}
	if _, err := h.Exec(ctx, "touch", "/etc/frr/vtysh.conf"); err != nil {
		return nil, err
	}
	const path = "/etc/frr/bgpd.conf" // the user frr cannot enter the lab's own folder
	if err := os.WriteFile(h.Path(path), []byte(h.reflectorConfig(cfg)), 0o644); err != nil {
		return nil, err
	}
	r := &Reflector{host: h}
	args := []string{frrDir + "bgpd", "-A", "127.0.0.1", "-i", "/run/frr/bgpd.pid",
		"-f", path, "-l", h.Address.String(), "-p", "179", "--no_zebra"}
	var err error
	if r.BGP, err = h.Start(Program{Name: "bgpd", Args: args}); err != nil {
		return nil, err
	}
	if err := r.waitVTY(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// RestartBGP starts bgpd again, after Kill of BGP or instead of it, and returns when it answers.
func (r *Reflector) RestartBGP(ctx context.Context) error {
	if err := r.BGP.Restart(); err != nil {
		return err
	}
	return r.waitVTY(ctx)
}

// Ask runs a command of FRR's shell.
func (r *Reflector) Ask(ctx context.Context, command string) (string, error) {
	out, err := r.host.Exec(ctx, "vtysh", "-c", command)
	return string(out), err
}

// waitVTY waits until bgpd answers on its socket.
func (r *Reflector) waitVTY(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, err := r.host.Exec(ctx, "vtysh", "-d", "bgpd", "-c", "show version")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for bgpd on %s (logs: %s): %w", r.host.Name, r.host.logDir(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// reflectorConfig is bgpd's configuration. There is no advertisement interval: a host waits for the route.
func (h *Host) reflectorConfig(cfg ReflectorConfig) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("log stdout")
	line("router bgp %d", cfg.ASN)
	line(" bgp router-id 10.255.255.1")
	line(" no bgp default ipv4-unicast")
	line(" bgp graceful-restart")
	line(" bgp graceful-restart preserve-fw-state")
	line(" coalesce-time 0")
	line(" timers bgp 3 9")
	line(" neighbor HOSTS peer-group")
	line(" neighbor HOSTS remote-as %d", cfg.ASN)
	line(" neighbor HOSTS passive")
	line(" neighbor HOSTS advertisement-interval 0")
	if cfg.Password != "" {
		line(" neighbor HOSTS password %s", cfg.Password)
	}
	if cfg.MaxHops > 0 {
		line(" neighbor HOSTS ttl-security hops %d", cfg.MaxHops)
	}
	for _, address := range cfg.Clients {
		line(" neighbor %s peer-group HOSTS", address)
	}
	line(" address-family l2vpn evpn")
	line("  neighbor HOSTS activate")
	line("  neighbor HOSTS route-reflector-client")
	line(" exit-address-family")
	return b.String()
}
