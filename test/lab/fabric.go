package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"ingot/test/need"
)

// FabricConfig describes the underlay.
type FabricConfig struct {
	// Hosts is the number of hypervisors; 0 means 2.
	Hosts int
	// MTU of every link in bytes; 0 means 1500.
	MTU int
	// WireSized turns segmentation offload off on every uplink, so that frames cross it in the
	// size that a cable carries. Without it a veth moves 64 KiB at once.
	WireSized bool
	// Shared are folders of this machine that every host sees, by their path on the host.
	Shared map[string]string
	// Dir receives one folder per host with its logs and private files. "" means a new folder
	// that Close removes.
	Dir string
}

// A Fabric is a spine and the hosts joined to it. The spine routes fd00:10:0:N::/64 to host N.
type Fabric struct {
	// Dir holds a folder per host.
	Dir string
	// Spine forwards between hosts; the route reflector and the control plane live on it.
	Spine *Host
	// Hosts are the hypervisors, Hosts[0] is "host-1".
	Hosts []*Host

	ownsDir bool
}

// NewFabric builds the fabric. The caller closes it.
func NewFabric(cfg FabricConfig) (_ *Fabric, err error) {
	if cfg.Hosts == 0 {
		cfg.Hosts = 2
	}
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	f := &Fabric{Dir: cfg.Dir}
	if f.Dir == "" {
		if f.Dir, err = os.MkdirTemp("", "ingot-lab-"); err != nil {
			return nil, err
		}
		f.ownsDir = true
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	supervisor := filepath.Join(f.Dir, "supervisor")
	if err := buildTool(supervisor, "ingot/test/lab/supervisor"); err != nil {
		return nil, err
	}
	if f.Spine, err = startHost(supervisor, f.Dir, "spine", 0, nil); err != nil {
		return nil, err
	}
	if err := f.Spine.Do(f.Spine.configureSpine); err != nil {
		return nil, fmt.Errorf("configure spine: %w", err)
	}
	for n := 1; n <= cfg.Hosts; n++ {
		host, err := startHost(supervisor, f.Dir, fmt.Sprintf("host-%d", n), n, cfg.Shared)
		if err != nil {
			return nil, err
		}
		f.Hosts = append(f.Hosts, host)
		if err := join(f.Spine, host, cfg); err != nil {
			return nil, fmt.Errorf("join %s to the spine: %w", host.Name, err)
		}
	}
	return f, nil
}

// ForTest builds a fabric that lives as long as t, and skips t where the machine cannot hold one.
// When t fails the folder with the logs stays and t names it.
func ForTest(t testing.TB, cfg FabricConfig) *Fabric {
	t.Helper()
	need.Root(t)
	need.Commands(t, "go")
	f, err := NewFabric(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			f.ownsDir = false
			t.Logf("logs of the lab: %s", f.Dir)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// Close ends every process of the lab and, unless FabricConfig named it, removes its folder.
func (f *Fabric) Close() error {
	var errs []error
	for _, host := range f.all() {
		errs = append(errs, host.close())
	}
	if f.ownsDir {
		errs = append(errs, os.RemoveAll(f.Dir))
	}
	return errors.Join(errs...)
}

// Detach lets the lab outlive this process. It ends when the processes Pids are sent SIGTERM.
func (f *Fabric) Detach() error {
	var errs []error
	for _, host := range f.all() {
		errs = append(errs, host.detach())
	}
	f.ownsDir = false
	return errors.Join(errs...)
}

// Pids are the processes that hold the hosts, the spine first.
func (f *Fabric) Pids() []int {
	var pids []int
	for _, host := range f.all() {
		pids = append(pids, host.Pid())
	}
	return pids
}

func (f *Fabric) all() []*Host {
	if f.Spine == nil {
		return nil
	}
	return append([]*Host{f.Spine}, f.Hosts...)
}

// Range covers the underlay prefixes of every host.
func (f *Fabric) Range() netip.Prefix { return netip.MustParsePrefix("fd00:10::/48") }

// underlay is the prefix routed to host n; 0 is the spine.
func underlay(n int) netip.Prefix {
	return netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd00:10:0:%x::", n)), 64)
}
