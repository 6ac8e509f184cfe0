// Package program measures the packet programs alone, by repetition inside the kernel, and how
// fast routes and rules reach them. Nothing leaves the host that it builds.
package program

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"ingot/dataplane"
	"ingot/test/bench/result"
)

const (
	runs   = 5
	repeat = 1_000_000
)

// Benches are those of this package.
func Benches() []result.Bench {
	return []result.Bench{
		{Names: []string{"dataplane/ns_hit_encap"}, Run: onHost(hit("dataplane/ns_hit_encap", 1, 200))},
		{Names: []string{"dataplane/ns_hit_1m"}, Run: onHost(hit("dataplane/ns_hit_1m", 1<<20, 800))},
		{Names: []string{"dataplane/rules_10k_vs_10"}, Run: onHost(rules)},
		{Names: []string{"dataplane/flow_setup"}, Run: onHost(setup)},
		{Names: []string{"dataplane/routes_100k"}, Run: onHost(routes)},
		{Names: []string{"dataplane/policy_replace_100"}, Run: onHost(replace)},
	}
}

const vni = 7

var (
	remotes = netip.MustParsePrefix("11.0.0.0/8")
	nextHop = netip.MustParseAddr("fd00:10:0:2::1")
)

// onHost runs f on a thread with a network and mount namespace of its own, where a dataplane has
// one port and a route to remotes. What it made ends with the thread.
func onHost(f func(m *dataplane.Manager, port dataplane.PortSpec) ([]result.Result, error)) func(context.Context) ([]result.Result, error) {
	return func(ctx context.Context) (results []result.Result, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // never unlocked
			results, err = inHost(ctx, f)
		}()
		<-done
		return results, err
	}
}

func inHost(ctx context.Context, f func(*dataplane.Manager, dataplane.PortSpec) ([]result.Result, error)) ([]result.Result, error) {
	dir, err := os.MkdirTemp("", "ingot-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("unshare namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	for _, command := range []string{
		"ip link add up0 type veth peer name up1", "ip link set up1 up", "ip link set up0 up",
		"ip addr add fd00::1/64 dev up0 nodad", "ip neigh add fd00::2 lladdr 02:00:00:00:00:02 dev up0",
		"ip route add fd00:10:0:2::/64 via fd00::2",
	} {
		words := strings.Fields(command)
		if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", command, err, out)
		}
	}
	bpffs := filepath.Join(dir, "bpf")
	m, err := dataplane.Open(dataplane.Config{
		Dir: bpffs, StateDir: filepath.Join(dir, "state"), Uplinks: []string{"up0"},
		UnderlayPrefix: netip.MustParsePrefix("fd00:10:0:1::/64"), MaxFlows: 1 << 23, FlowsPerPort: 1 << 23,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		return nil, err
	}
	defer unix.Unmount(bpffs, unix.MNT_DETACH)
	defer m.Close()
	port := dataplane.PortSpec{
		ID: "machine/eth0", VNI: vni, MAC: net.HardwareAddr{2, 0, 0, 0, 1, 1},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Underlay: netip.MustParseAddr("fd00:10:0:1::1"),
	}
	if _, err := m.EnsurePort(ctx, port); err != nil {
		return nil, err
	}
	route := dataplane.Route{Key: dataplane.RouteKey{VNI: vni, Prefix: remotes}, NextHops: []dataplane.NextHop{{Address: nextHop}}}
	if err := m.ApplyRoutes(ctx, []dataplane.Route{route}); err != nil {
		return nil, err
	}
	return f(m, port)
}

// measure repeats packets and fails when they do not go where they should.
func measure(m *dataplane.Manager, port dataplane.PortSpec, flows uint32, times int, forwarded bool) (dataplane.Cost, error) {
	c, err := m.MeasurePackets(port.ID, flows, times)
	if err == nil && c.Forwarded != forwarded {
		err = fmt.Errorf("packets forwarded: %v, want %v", c.Forwarded, forwarded)
	}
	return c, err
}

func hit(name string, flows uint32, goal float64) func(*dataplane.Manager, dataplane.PortSpec) ([]result.Result, error) {
	return func(m *dataplane.Manager, port dataplane.PortSpec) ([]result.Result, error) {
		repeat := repeat
		if flows > 1 {
			repeat /= 2
			// 98 of 100 of them exist afterwards
			if _, err := measure(m, port, flows, 4*int(flows), true); err != nil {
				return nil, err
			}
		}
		var packet, empty []float64
		for range runs {
			c, err := measure(m, port, flows, repeat, true)
			if err != nil {
				return nil, err
			}
			packet, empty = append(packet, c.Packet), append(empty, c.Empty)
		}
		return []result.Result{result.New(name, "ns", result.AtMost(goal), packet...).Against("empty program", empty...)}, nil
	}
}

// setup counts new flows: of 2^24 random ones a million are nearly all new.
func setup(m *dataplane.Manager, port dataplane.PortSpec) ([]result.Result, error) {
	var rates []float64
	for range 3 {
		c, err := measure(m, port, 1<<24, repeat, true)
		if err != nil {
			return nil, err
		}
		rates = append(rates, 1e9/c.Packet)
	}
	return []result.Result{result.New("dataplane/flow_setup", "flows/s", result.AtLeast(1_000_000), rates...)}, nil
}

// manyRules deny single addresses and ports, and last of all the measured packets' destination.
func manyRules(n int) dataplane.Policy {
	set := dataplane.RuleSet{Enforced: true}
	for i := range n - 1 {
		peer := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, 1, byte(i >> 8), byte(i)}), 32)
		set.Rules = append(set.Rules, dataplane.Rule{
			Peers: []netip.Prefix{peer}, Protocol: 6, PortFirst: uint16(1 + i%1000), PortLast: uint16(1 + i%1000),
		})
	}
	set.Rules = append(set.Rules, dataplane.Rule{Action: dataplane.Deny, Peers: []netip.Prefix{remotes}})
	return dataplane.Policy{Egress: set}
}

// rules measures packets that the last rule refuses: each is a first packet.
func rules(m *dataplane.Manager, port dataplane.PortSpec) ([]result.Result, error) {
	costs := map[int][]float64{}
	for range runs {
		for _, n := range []int{10, 10_000} {
			port.Policy = manyRules(n)
			if _, err := m.EnsurePort(context.Background(), port); err != nil {
				return nil, err
			}
			c, err := measure(m, port, 1, repeat, false)
			if err != nil {
				return nil, err
			}
			costs[n] = append(costs[n], c.Packet)
		}
	}
	return []result.Result{result.New("dataplane/rules_10k_vs_10", "ns", result.RatioAtMost(2), costs[10_000]...).Against("10 rules", costs[10]...)}, nil
}

func replace(m *dataplane.Manager, port dataplane.PortSpec) ([]result.Result, error) {
	var times []float64
	for i := range 2 * runs {
		port.Policy = manyRules(100)
		port.Policy.Egress.Rules[0].Priority = uint32(i)
		begin := time.Now()
		if _, err := m.EnsurePort(context.Background(), port); err != nil {
			return nil, err
		}
		times = append(times, float64(time.Since(begin).Microseconds())/1e3)
	}
	return []result.Result{result.New("dataplane/policy_replace_100", "ms", result.AtMost(20), times...)}, nil
}

func routes(m *dataplane.Manager, _ dataplane.PortSpec) ([]result.Result, error) {
	const n = 100_000
	all := make([]dataplane.Route, n)
	for i := range all {
		a := netip.AddrFrom4([4]byte{12, byte(i >> 16), byte(i >> 8), byte(i)})
		all[i] = dataplane.Route{
			Key: dataplane.RouteKey{VNI: vni, Prefix: netip.PrefixFrom(a, 32)}, NextHops: []dataplane.NextHop{{Address: nextHop}},
		}
	}
	var times, baseline []float64
	for range runs {
		begin := time.Now()
		if err := m.ApplyRoutes(context.Background(), all); err != nil {
			return nil, err
		}
		times = append(times, time.Since(begin).Seconds())
		raw, err := rawUpdate(n)
		if err != nil {
			return nil, err
		}
		baseline = append(baseline, raw.Seconds())
	}
	return []result.Result{result.New("dataplane/routes_100k", "s", result.AtMost(1), times...).Against("raw batch update", baseline...)}, nil
}

// rawUpdate writes as many entries of the same size into a map of its own.
func rawUpdate(n int) (time.Duration, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 20, ValueSize: 28, MaxEntries: uint32(n), Flags: unix.BPF_F_NO_PREALLOC})
	if err != nil {
		return 0, fmt.Errorf("create map: %w", err)
	}
	defer m.Close()
	keys, values := make([][20]byte, n), make([][28]byte, n)
	for i := range keys {
		keys[i] = [20]byte{byte(i), byte(i >> 8), byte(i >> 16)}
	}
	begin := time.Now()
	if _, err := m.BatchUpdate(keys, values, nil); err != nil {
		return 0, fmt.Errorf("update map: %w", err)
	}
	return time.Since(begin), nil
}
