package dataplane

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"ingot/test/need"
)

// A host is a network namespace with a dataplane, joined to the others by a bridge-less fabric:
// hosts are pairs, wired back to back.
type host struct {
	t       *testing.T
	ns      string
	tag     string
	prefix  netip.Prefix
	cfg     Config
	manager *Manager
	work    chan func()
}

// sh runs a command and fails the test with its output.
func sh(t *testing.T, command string, args ...any) string {
	t.Helper()
	words := strings.Fields(fmt.Sprintf(command, args...))
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return string(out)
}

func newNamespace(t *testing.T, name string) {
	t.Helper()
	sh(t, "ip netns add %s", name)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	sh(t, "ip -n %s link set lo up", name)
}

// newHosts makes two hosts whose uplinks are the ends of one veth pair.
func newHosts(t *testing.T) [2]*host {
	t.Helper()
	need.Root(t)
	need.Commands(t, "ip", "ping")
	tag := fmt.Sprintf("%06x", rand.Uint32()&0xffffff)
	var hosts [2]*host
	for i := range hosts {
		hosts[i] = newHost(t, fmt.Sprintf("%s%c", tag, 'a'+i), i)
	}
	a, b := hosts[0], hosts[1]
	sh(t, "ip -n %s link add up0 type veth peer name up0 netns %s", a.ns, b.ns)
	for i, h := range hosts {
		sh(t, "ip netns exec %s sysctl -qw net.ipv6.conf.up0.accept_dad=0", h.ns)
		sh(t, "ip -n %s link set up0 mtu 1500 up", h.ns)
		sh(t, "ip -n %s addr add fd00::%d/64 dev up0 nodad", h.ns, i+1)
		sh(t, "ip -n %s route add %s via fd00::%d", h.ns, hosts[1-i].prefix, 2-i)
	}
	for _, h := range hosts {
		h.open()
	}
	return hosts
}

func newHost(t *testing.T, tag string, number int) *host {
	t.Helper()
	h := &host{
		t: t, ns: "dp-" + tag, tag: tag,
		prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:10:0:%d::/64", number+1)),
		work:   make(chan func()),
	}
	newNamespace(t, h.ns)
	dir := t.TempDir()
	h.cfg = Config{
		Dir: filepath.Join(dir, "bpf"), StateDir: filepath.Join(dir, "state"),
		Uplinks: []string{"up0"}, UnderlayPrefix: h.prefix,
		MaxFlows: 1 << 16, MaxRoutes: 1 << 16,
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		ns, err := netns.GetFromName(h.ns)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		started <- err
		for f := range h.work {
			f()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.do(func() {
			if h.manager != nil {
				h.manager.Close()
			}
		})
		close(h.work)
		exec.Command("umount", h.cfg.Dir).Run()
	})
	return h
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// do runs f inside the host's namespace.
func (h *host) do(f func()) {
	done := make(chan struct{})
	h.work <- func() { defer close(done); f() }
	<-done
}

// open starts, or restarts, the host's dataplane.
func (h *host) open() {
	h.t.Helper()
	var err error
	if h.manager != nil {
		h.manager.records.close() // as the kernel does for a killed process
	}
	h.do(func() { h.manager, err = Open(h.cfg) })
	if err != nil {
		h.t.Fatalf("open host %s: %+v", h.tag, err)
	}
}

func (h *host) ensure(spec PortSpec) PortStatus {
	h.t.Helper()
	var status PortStatus
	var err error
	h.do(func() { status, err = h.manager.EnsurePort(context.Background(), spec) })
	if err != nil {
		h.t.Fatalf("ensure port: %v", err)
	}
	return status
}

func (h *host) routes(routes ...Route) {
	h.t.Helper()
	if err := h.manager.ApplyRoutes(context.Background(), routes); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) counters(id string) PortCounters {
	h.t.Helper()
	all, err := h.manager.Counters()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, c := range all {
		if c.PortID == id {
			return c
		}
	}
	h.t.Fatalf("no counters of %q", id)
	return PortCounters{}
}

// A machine is a namespace behind a veth that is a port.
type machine struct {
	*host
	ns   string
	spec PortSpec
}

var machines int

// machine makes a machine with a port on the host.
func (h *host) machine(name string, vni uint32, underlay uint16, addresses ...string) *machine {
	h.t.Helper()
	machines++
	m := &machine{host: h, ns: fmt.Sprintf("dp-%s-%s", h.tag, name)}
	newNamespace(h.t, m.ns)
	device := "p" + name
	sh(h.t, "ip -n %s link add %s type veth peer name eth0 netns %s", h.ns, device, m.ns)
	mac := net.HardwareAddr{2, 0x11, 0, 0, byte(machines >> 8), byte(machines)}
	sh(h.t, "ip netns exec %s sysctl -qw net.ipv6.conf.eth0.accept_dad=0", m.ns)
	sh(h.t, "ip -n %s link set eth0 address %s mtu 1460 up", m.ns, mac)
	a := h.prefix.Addr().As16()
	a[14], a[15] = byte(underlay>>8), byte(underlay)
	m.spec = PortSpec{ID: name, VNI: vni, MAC: mac, Underlay: netip.AddrFrom16(a)}
	for _, s := range addresses {
		addr := netip.MustParseAddr(s)
		m.spec.Addresses = append(m.spec.Addresses, addr)
		sh(h.t, "ip -n %s addr add %s dev eth0 nodad", m.ns, netip.PrefixFrom(addr, addr.BitLen()))
		if addr.Is4() {
			sh(h.t, "ip -n %s route add 169.254.0.1 dev eth0", m.ns)
			sh(h.t, "ip -n %s route add default via 169.254.0.1", m.ns)
		} else {
			sh(h.t, "ip -n %s -6 route add default via fe80::1 dev eth0", m.ns)
		}
	}
	before := h.cfg.Device
	h.cfg.Device = func(id string) string {
		if id == name {
			return device
		}
		if before != nil {
			return before(id)
		}
		return ""
	}
	h.manager.cfg.Device = h.cfg.Device
	h.ensure(m.spec)
	return m
}

// knows gives the host routes to the machines of others.
func (h *host) knows(others ...*machine) {
	h.t.Helper()
	for _, m := range others {
		for _, p := range m.spec.prefixes() {
			h.routes(Route{Key: RouteKey{m.spec.VNI, p}, NextHops: []NextHop{{Address: m.spec.Underlay}}})
		}
	}
}

// exec runs a command in the machine.
func (m *machine) exec(command string, args ...any) (string, error) {
	words := append([]string{"netns", "exec", m.ns}, strings.Fields(fmt.Sprintf(command, args...))...)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", words...).CombinedOutput()
	return string(out), err
}

func (m *machine) pings(to string) {
	m.t.Helper()
	if out, err := m.exec("ping -c 2 -W 5 %s", to); err != nil {
		m.t.Fatalf("ping %s from %s: %v\n%s\nhost: %+v\nport: %+v", to, m.spec.ID, err, out,
			m.host.counters(""), m.host.counters(m.spec.ID))
	}
}
