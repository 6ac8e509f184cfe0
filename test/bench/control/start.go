package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/iri/machine/domain"
	"ingot/iri/machine/libvirt"
	"ingot/test/bench/result"
	"ingot/test/lab"
)

// applyToStart measures from the apply of a machine with an interface and a disk until libvirt has
// started its domain, in ms; and what is left of that without libvirt's own define and start of the
// same domain, right after on the same host.
func applyToStart(ctx context.Context) (_ []result.Result, err error) {
	const machines, warm = 12, 2
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	c, err := startCloud(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	watch, cancel := context.WithCancel(ctx)
	started := make(chan time.Time, 64)
	var watchers errgroup.Group
	for _, h := range c.Hosts {
		watchers.Go(func() error { return watchStarts(watch, h.Host, started) })
	}
	defer func() {
		cancel()
		err = errors.Join(err, watchers.Wait())
	}()
	var whole, raw, overhead []float64
	for i := range machines {
		name := fmt.Sprintf("m%d", i)
		drain(started)
		begin := time.Now()
		if err := apply(ctx, c.admin, fmt.Sprintf(realMachine, name)); err != nil {
			return nil, err
		}
		var at time.Time
		select {
		case at = <-started:
		case <-time.After(time.Minute):
			return nil, fmt.Errorf("machine %s did not start", name)
		}
		libvirt, err := c.raw(ctx, name)
		if err != nil {
			return nil, err
		}
		if i >= warm {
			took := float64(at.Sub(begin).Microseconds()) / 1000
			whole, raw, overhead = append(whole, took), append(raw, libvirt), append(overhead, took-libvirt)
		}
	}
	return []result.Result{
		result.New("machine/apply_to_start", "ms", result.Goal{}, whole...).Against("virsh define + start", raw...),
		result.New("machine/apply_to_start_overhead", "ms", result.AtMost(300), overhead...),
	}, nil
}

func drain(c <-chan time.Time) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

// watchStarts tells when a domain was seen to run, once a domain.
func watchStarts(ctx context.Context, host *lab.Host, started chan<- time.Time) error {
	h, err := libvirt.New(libvirt.Config{URI: "qemu+unix:///system?socket=" + host.Path(lab.LibvirtSocket),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return err
	}
	events := make(chan string, 1024)
	h.Watch(ctx, func(e domain.Event) { events <- e.ID })
	var g errgroup.Group
	g.Go(func() error { return h.Run(ctx) })
	seen := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return g.Wait()
		case id := <-events:
			if id == "" || seen[id] {
				continue
			}
			if info, err := h.Get(ctx, id); err == nil && info.State == domain.Running {
				seen[id] = true
				started <- time.Now()
			}
		}
	}
}

// raw removes a machine and times libvirt alone with the same domain: its definition, copies of its
// files, and a tap of the same name.
func (c *realCloud) raw(ctx context.Context, name string) (_ float64, err error) {
	if _, err := c.Ingot(ctx, "wait", "machine/"+name, "-n", "shop", "--for=Running", "--timeout=60s"); err != nil {
		return 0, err
	}
	guest, err := c.Machine(ctx, "shop", name)
	if err != nil {
		return 0, err
	}
	xml, err := guest.Host.Virsh(ctx, "dumpxml", "--inactive", guest.Domain)
	if err != nil {
		return 0, err
	}
	p, err := portOf(guest)
	if err != nil {
		return 0, err
	}
	dir, copied := path.Join("/var/lib/ingot/machines/machines", guest.Domain), path.Join("/var/lib/ingot", "raw-"+guest.Domain)
	on := func(args ...string) error {
		_, err := guest.Host.Exec(ctx, args[0], args[1:]...)
		return err
	}
	if err := on("cp", "-a", "--sparse=always", dir, copied); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, on("rm", "-r", copied)) }()
	if err := c.remove(ctx, name); err != nil {
		return 0, err
	}
	if err := on("ip", "tuntap", "add", p.Device, "mode", "tap", "vnet_hdr"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, on("ip", "link", "delete", p.Device)) }()
	definition := path.Join(copied, "domain.xml")
	if err := os.WriteFile(guest.Host.Path(definition), bytes.ReplaceAll(xml, []byte(dir), []byte(copied)), 0o600); err != nil {
		return 0, err
	}
	out, err := guest.Host.Virsh(ctx, "--timing", fmt.Sprintf("define %s; start %s", definition, guest.Domain))
	if err != nil {
		return 0, err
	}
	_, destroyErr := guest.Host.Virsh(ctx, fmt.Sprintf("destroy %[1]s; undefine %[1]s", guest.Domain))
	if destroyErr != nil {
		return 0, destroyErr
	}
	return sumTimes(out)
}

var timing = regexp.MustCompile(`\(Time: ([0-9.]+) ms\)`)

// sumTimes adds what virsh --timing says of its two commands.
func sumTimes(out []byte) (sum float64, err error) {
	times := timing.FindAllSubmatch(out, -1)
	if len(times) != 2 {
		return 0, fmt.Errorf("read virsh's times: want two in %q", out)
	}
	for _, t := range times {
		ms, err := strconv.ParseFloat(string(t[1]), 64)
		if err != nil {
			return 0, err
		}
		sum += ms
	}
	return sum, nil
}
