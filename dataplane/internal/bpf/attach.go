package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"ingot/runtime/fault"
)

// AttachPort puts the port program on the device's ingress, under a name of its own.
func (o *Objects) AttachPort(name string, ifindex int) error {
	return o.attachTCX(name, ifindex, o.fromPort)
}

// AttachUplink puts the uplink program on the device's ingress.
func (o *Objects) AttachUplink(name string, ifindex int) error {
	return o.attachTCX(name, ifindex, o.fromFabric)
}

// attachTCX swaps the program of a pinned link, or makes the link and pins it. The pin goes
// last: a crash before it detaches, and the caller attaches again before the device goes up.
func (o *Objects) attachTCX(name string, ifindex int, program *ebpf.Program) error {
	return o.attach(name, ifindex, program, func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: program, Attach: ebpf.AttachTCXIngress})
	})
}

// AttachUplinkXDP puts the decapsulation in front of GRO. It needs native XDP.
func (o *Objects) AttachUplinkXDP(name string, ifindex int) error {
	return o.attach(name, ifindex, o.fromWire, func() (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Interface: ifindex, Program: o.fromWire, Flags: link.XDPDriverMode})
	})
}

func (o *Objects) attach(name string, ifindex int, program *ebpf.Program, create func() (link.Link, error)) error {
	path := o.linkPath(name)
	old, err := link.LoadPinnedLink(path, nil)
	if err == nil {
		defer old.Close()
		if attachedTo(old) == ifindex {
			if err := old.Update(program); err != nil {
				return fmt.Errorf("swap program of %s: %w", path, explain(err))
			}
			return nil
		}
		// the device it was on is gone, and the name belongs to another one now
		if err := old.Unpin(); err != nil {
			return fmt.Errorf("unpin stale link %s: %w", path, err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open pinned link %s: %w", path, err)
	}
	l, err := create()
	if err != nil {
		return fmt.Errorf("attach %s to device %d: %w", program, ifindex, attachHint(err))
	}
	defer l.Close()
	if err := l.Pin(path); err != nil {
		return fmt.Errorf("pin link %s: %w", path, err)
	}
	return nil
}

func attachHint(err error) error {
	switch {
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: tcx needs kernel 6.6 (there is no fallback to clsact), "+
			"receive mode xdp needs native XDP in the driver: %w", fault.Unsupported, err)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: another program holds the device; remove it: %w", fault.Conflict, err)
	}
	return explain(err)
}

// attachedTo returns the device of a link, 0 when it is gone.
func attachedTo(l link.Link) int {
	info, err := l.Info()
	if err != nil {
		return 0
	}
	if tcx := info.TCX(); tcx != nil {
		return int(tcx.Ifindex)
	}
	if xdp := info.XDP(); xdp != nil {
		return int(xdp.Ifindex)
	}
	return 0
}

// Attached tells whether the named link is pinned and on the device.
func (o *Objects) Attached(name string, ifindex int) bool {
	l, err := link.LoadPinnedLink(o.linkPath(name), nil)
	if err != nil {
		return false
	}
	defer l.Close()
	return attachedTo(l) == ifindex
}

// Detach removes the named link; a missing one is a success.
func (o *Objects) Detach(name string) error {
	err := os.Remove(o.linkPath(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin link %s: %w", o.linkPath(name), err)
	}
	return nil
}

// Links names all pinned links.
func (o *Objects) Links() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(o.dir, "links"))
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (o *Objects) linkPath(name string) string { return filepath.Join(o.dir, "links", name) }

// Run feeds one packet to a program, as if it had come in on the device, repeat times in one go.
// It returns the action, the packet as it left, and the nanoseconds of one repetition. It is for
// tests and benchmarks.
func (o *Objects) Run(program string, ifindex int, packet []byte, repeat int) (uint32, []byte, int64, error) {
	p := map[string]*ebpf.Program{"port": o.fromPort, "uplink": o.fromFabric, "uplink-xdp": o.fromWire}[program]
	return run(p, ifindex, packet, repeat)
}
