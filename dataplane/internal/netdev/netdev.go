// Package netdev is the dataplane's only door to the host's network devices: taps, link state
// and the few sysctls that go with them. Devices are looked up by name once and used by index.
package netdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ingot/runtime/fault"
)

// A Device is what the dataplane needs to know of one.
type Device struct {
	Name  string
	Index int
	MTU   int
	Up    bool
	Kind  string // "tuntap", "veth", "device", ...
	// PeerElsewhere is set for a veth whose other end is in another network namespace.
	PeerElsewhere bool
}

// Find returns the named device, or an error of class fault.NotFound.
func Find(name string) (Device, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return Device{}, fmt.Errorf("find device %s: %w", name, fault.NotFound)
		}
		return Device{}, fmt.Errorf("find device %s: %w", name, err)
	}
	a := l.Attrs()
	return Device{
		Name: a.Name, Index: a.Index, MTU: a.MTU,
		Up:            a.Flags&unix.IFF_UP != 0,
		Kind:          l.Type(),
		PeerElsewhere: l.Type() == "veth" && a.NetNsID >= 0,
	}, nil
}

// EnsureTap creates the persistent tap, down, or adopts the one of that name. The kernel's own
// IPv6 is switched off on it before it can ever go up.
func EnsureTap(name string, mtu int) (Device, error) {
	if _, err := Find(name); errors.Is(err, fault.NotFound) {
		if err := createTap(name); err != nil {
			return Device{}, err
		}
	} else if err != nil {
		return Device{}, err
	}
	if err := DisableIPv6(name); err != nil {
		return Device{}, err
	}
	d, err := Find(name)
	if err != nil {
		return Device{}, err
	}
	if d.Kind != "tuntap" {
		return Device{}, fmt.Errorf("adopt tap %s: %w: the device is a %s", name, fault.Conflict, d.Kind)
	}
	if d.MTU != mtu {
		if err := netlink.LinkSetMTU(link(d), mtu); err != nil {
			return Device{}, fmt.Errorf("set MTU of %s to %d: %w", name, mtu, err)
		}
		d.MTU = mtu
	}
	return d, nil
}

func createTap(name string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun (is the tun module loaded?): %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("name tap %s: %w", name, err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("create tap %s: %w", name, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("make tap %s persistent: %w", name, err)
	}
	return nil
}

// DisableIPv6 keeps the host from taking part in the machine's network.
func DisableIPv6(name string) error { return sysctl("disable_ipv6", name, "1") }

// AllowLookups makes the uplink one for which the kernel answers bpf_fib_lookup: its own
// forwarding flag is set. The host does not become a router by that (conf/all/forwarding
// stays), and it goes on accepting router advertisements if it did before.
func AllowLookups(name string) error {
	if accept, err := os.ReadFile(conf(name, "accept_ra")); err == nil && strings.TrimSpace(string(accept)) == "1" {
		if err := sysctl("accept_ra", name, "2"); err != nil {
			return err
		}
	}
	return sysctl("forwarding", name, "1")
}

func conf(name, key string) string { return filepath.Join("/proc/sys/net/ipv6/conf", name, key) }

func sysctl(key, name, value string) error {
	err := os.WriteFile(conf(name, key), []byte(value), 0o644)
	if err != nil {
		return fmt.Errorf("set %s of %s to %s: %w", key, name, value, err)
	}
	return nil
}

// Up raises the device.
func Up(d Device) error {
	if err := netlink.LinkSetUp(link(d)); err != nil {
		return fmt.Errorf("raise %s: %w", d.Name, err)
	}
	return nil
}

// Down lowers the device.
func Down(d Device) error {
	if err := netlink.LinkSetDown(link(d)); err != nil {
		return fmt.Errorf("lower %s: %w", d.Name, err)
	}
	return nil
}

// DeleteTap removes the tap; a missing one is a success.
func DeleteTap(name string) error {
	d, err := Find(name)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.Kind != "tuntap" {
		return fmt.Errorf("delete tap %s: %w: the device is a %s", name, fault.Conflict, d.Kind)
	}
	if err := netlink.LinkDel(link(d)); err != nil {
		return fmt.Errorf("delete tap %s: %w", name, err)
	}
	return nil
}

// Taps names the taps whose name begins with prefix.
func Taps(prefix string) ([]string, error) {
	var links []netlink.Link
	var err error
	for range 5 { // a dump that the kernel interrupted says so; a fresh one will do
		if links, err = netlink.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var names []string
	for _, l := range links {
		if l.Type() == "tuntap" && strings.HasPrefix(l.Attrs().Name, prefix) {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

func link(d Device) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: d.Name, Index: d.Index}}
}
