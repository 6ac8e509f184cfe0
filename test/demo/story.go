package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ingot/test/lab"
	"ingot/test/lab/cloud"
)

// limit bounds the whole story; a working one ends well within.
const limit = 5 * time.Minute

// Names in examples/two-machines.
const (
	project    = "demo"
	openPort   = "5201"
	closedPort = "8080"
)

type config struct {
	bin, examples, dir string
	keep               bool
}

// A story is the running demo.
type story struct {
	*progress
	cfg   config
	cloud *cloud.Cloud
	// left and right are the machines, with the addresses they got.
	left, right machine
}

type machine struct {
	lab.Guest
	name      string
	addresses []string
}

// run tells the story and cleans up after it.
func run(ctx context.Context, cfg config, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if cfg.dir, err = filepath.Abs(cfg.dir); err != nil {
		return err
	}
	if err := claim(cfg.dir); err != nil {
		return err
	}
	s := &story{progress: newProgress(out), cfg: cfg, left: machine{name: "left"}, right: machine{name: "right"}}
	err = s.tell(ctx)
	if err == nil && cfg.keep {
		return s.leave(ctx, out)
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		err = fmt.Errorf("interrupted in step %d", s.number)
	case err != nil:
		err = fmt.Errorf("%w\nlogs are in %s/*/log", err, cfg.dir)
	}
	if s.cloud != nil {
		err = errors.Join(err, s.step("remove everything", s.cloud.Close))
	}
	if err == nil {
		fmt.Fprintf(out, "\nDone in %.0f s.\n", time.Since(s.started).Seconds())
	}
	if err == nil || errors.Is(ctx.Err(), context.Canceled) {
		err = errors.Join(err, os.RemoveAll(cfg.dir))
	}
	return err
}

// tell goes through the steps. The first that fails ends it.
func (s *story) tell(ctx context.Context) error {
	type step struct {
		what string
		do   func(context.Context) error
	}
	steps := []step{
		{"build the guest image from Debian's kernel and busybox", s.buildImage},
		{"lay the fabric: a spine and two hosts, IPv6 underlay", s.layFabric},
		{"start FRR's bgpd as route reflector", func(ctx context.Context) error { return s.cloud.StartReflector(ctx) }},
		{"make the certificate authority, start ingot-control", func(ctx context.Context) error { return s.cloud.StartControl(ctx) }},
		{"on each host start libvirtd and ingot-agent, join by a token", func(ctx context.Context) error { return s.cloud.StartHosts(ctx) }},
		{"wait until both hosts offer themselves to the scheduler", s.waitPools},
		{"ingot apply -f examples/two-machines", s.apply},
		{"wait until both machines run, on different hosts", s.waitMachines},
		{"wait until the guests booted and got addresses by DHCP", s.waitGuests},
		{"guests ping each other, IPv4 and IPv6", s.ping},
		{"TCP across the fabric, port " + openPort, s.stream},
		{"port " + closedPort + " is closed by the policy; the drop is counted", s.closedPort},
		{"ingot apply -f examples/open-port: it opens", s.openPort},
	}
	if !s.cfg.keep {
		steps = append(steps, step{"ingot delete -f examples/two-machines: hosts let go of all", s.deleteAll})
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.step(step.what, func() error { return step.do(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) buildImage(context.Context) error {
	ref, err := lab.BuildGuestImage(s.images())
	if err == nil {
		s.show("%s", ref)
	}
	return err
}

// images is where the guest image is built; it is kept from one demo to the next.
func (s *story) images() string {
	bin, err := filepath.Abs(s.cfg.bin)
	if err != nil {
		bin = s.cfg.bin
	}
	return filepath.Join(bin, "images")
}

func (s *story) layFabric(context.Context) (err error) {
	s.cloud, err = cloud.New(cloud.Config{
		Bin: s.cfg.bin, Images: s.images(), Fabric: lab.FabricConfig{Hosts: 2, Dir: s.cfg.dir},
	})
	if err != nil {
		return err
	}
	return s.hold()
}

func (s *story) waitPools(ctx context.Context) error {
	if _, err := s.cloud.Ingot(ctx, "wait", "machinepool/host-1", "machinepool/host-2", "--for=Ready", "--timeout=60s"); err != nil {
		return err
	}
	out, err := s.cloud.Ingot(ctx, "get", "machinepools")
	s.showLines(out)
	return err
}

func (s *story) apply(ctx context.Context) error {
	out, err := s.cloud.Ingot(ctx, "apply", "-f", s.example("two-machines"))
	s.showLines(out)
	return err
}

func (s *story) waitMachines(ctx context.Context) error {
	_, err := s.cloud.Ingot(ctx, "wait", "machine/left", "machine/right", "--for=Running", "-n", project, "--timeout=120s")
	if err != nil {
		return err
	}
	for _, m := range []*machine{&s.left, &s.right} {
		if m.Guest, err = s.cloud.Machine(ctx, project, m.name); err != nil {
			return err
		}
		definition, err := m.Host.Virsh(ctx, "dumpxml", m.Domain)
		if err != nil {
			return err
		}
		accelerator := "TCG"
		if bytes.Contains(definition, []byte("<domain type='kvm'")) {
			accelerator = "KVM"
		}
		s.show("%-5s runs on %s (%s)", m.name, m.Host.Name, accelerator)
	}
	if s.left.Host == s.right.Host {
		return fmt.Errorf("both machines run on %s", s.left.Host.Name)
	}
	return nil
}

// waitGuests waits for the guest agents and for an address of each family.
func (s *story) waitGuests(ctx context.Context) error {
	for _, m := range []*machine{&s.left, &s.right} {
		if err := m.WaitReady(ctx); err != nil {
			return err
		}
		if err := s.waitAddresses(ctx, m); err != nil {
			return err
		}
		s.show("%-5s has %s", m.name, strings.Join(m.addresses, " and "))
	}
	motd, err := s.left.Exec(ctx, "/bin/cat", "/etc/motd")
	if err != nil {
		return err
	}
	s.show("ignition wrote /etc/motd: %s", strings.TrimSpace(string(motd.Stdout)))
	return nil
}

func (s *story) waitAddresses(ctx context.Context, m *machine) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		found, err := m.Addresses(ctx)
		if err != nil {
			return err
		}
		m.addresses = nil
		for _, prefixes := range found {
			for _, prefix := range prefixes {
				m.addresses = append(m.addresses, prefix.Addr().String())
			}
		}
		if len(m.addresses) >= 2 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for an IPv4 and an IPv6 address of %s: it has %v: %w", m.name, m.addresses, ctx.Err())
		case <-ticker.C:
		}
	}
}

// deleteAll deletes what was applied and looks at what is left on the hosts.
func (s *story) deleteAll(ctx context.Context) error {
	out, err := s.cloud.Ingot(ctx, "delete", "-f", s.example("two-machines"))
	if err != nil {
		return err
	}
	s.show("%d objects deleted", strings.Count(out, "\n"))
	for _, host := range s.cloud.Hosts {
		domains, err := host.Virsh(ctx, "list", "--all", "--name")
		if err != nil {
			return err
		}
		taps, err := host.Exec(ctx, "ip", "-brief", "link", "show", "type", "tun")
		if err != nil {
			return err
		}
		disks, err := filepath.Glob(host.Path("/var/lib/ingot/machines/machines/*"))
		if err != nil {
			return err
		}
		left := strings.Fields(string(domains) + string(taps))
		if left = append(left, disks...); len(left) > 0 {
			return fmt.Errorf("%s still has %v", host.Name, left)
		}
		s.show("%s has no domain, no tap and no disk left", host.Name)
	}
	return nil
}

func (s *story) example(name string) string {
	path, err := filepath.Abs(filepath.Join(s.cfg.examples, name))
	if err != nil {
		return name
	}
	return path
}

func (s *story) showLines(text string) {
	for line := range strings.Lines(text) {
		s.show("%s", strings.TrimRight(line, "\n"))
	}
}

// decode reads the JSON that traffic prints.
func decode(result lab.GuestResult, into any) error {
	if err := json.Unmarshal(result.Stdout, into); err != nil {
		return fmt.Errorf("traffic said %q, %q: %w", result.Stdout, result.Stderr, err)
	}
	return nil
}
