package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Uplink is the name of a host's link to the spine, seen on the host.
const Uplink = "uplink"

// Link-local addresses are the same on each link, so routes need no address plan of their own.
var (
	spineLinkLocal = netip.MustParseAddr("fe80::1")
	hostLinkLocal  = netip.MustParseAddr("fe80::2")
)

// configureSpine runs on the spine.
func (h *Host) configureSpine() error {
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0); err != nil {
		return err
	}
	return h.configureLoopback()
}

// configureLoopback gives lo the host's underlay address.
func (h *Host) configureLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	return addAddress(lo, h.Address, 128)
}

// join lays a cable between spine and host, addresses it and routes over it.
func join(spine, host *Host, cfg FabricConfig) error {
	ns, err := host.netns()
	if err != nil {
		return err
	}
	defer ns.Close()
	err = spine.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = host.Name, cfg.MTU
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: Uplink, PeerNamespace: netlink.NsFd(ns.Fd())}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth: %w", err)
		}
		return configureEnd(host.Name, spineLinkLocal, hostLinkLocal, host.Prefix, cfg)
	})
	if err != nil {
		return err
	}
	return host.Do(func() error {
		if err := host.configureLoopback(); err != nil {
			return err
		}
		return configureEnd(Uplink, hostLinkLocal, spineLinkLocal, netip.MustParsePrefix("::/0"), cfg)
	})
}

// configureEnd sets up one end of a cable and routes dst to the other end.
func configureEnd(name string, own, other netip.Addr, dst netip.Prefix, cfg FabricConfig) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetMTU(link, cfg.MTU); err != nil {
		return fmt.Errorf("set MTU of %s: %w", name, err)
	}
	if cfg.WireSized {
		if err := segmentInSoftware(name); err != nil {
			return err
		}
	}
	if err := addAddress(link, own, 64); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst), Gw: other.AsSlice()}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("route %s via %s: %w", dst, other, err)
	}
	return nil
}

// addAddress adds addr without duplicate address detection, which would delay its use by a second.
func addAddress(link netlink.Link, addr netip.Addr, bits int) error {
	a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, bits)), Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrAdd(link, a); err != nil {
		return fmt.Errorf("add %s to %s: %w", addr, link.Attrs().Name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// segmentInSoftware is `ethtool -K name tso off gso off`. (On 6.18 ethtool goes on to sum TSO up as
// "on", because of AccECN segmentation, which nothing here asks for.)
func segmentInSoftware(name string) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, command := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO} {
		value := struct{ command, value uint32 }{command: command}
		request := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(request.name[:unix.IFNAMSIZ-1], name)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return fmt.Errorf("turn segmentation offload of %s off: %w", name, errno)
		}
	}
	return nil
}
