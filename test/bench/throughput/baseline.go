package throughput

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"ingot/test/lab"
)

// bridgeMTU leaves room for inner Ethernet 14, VXLAN 8, UDP 8 and IPv6 40.
const bridgeMTU = underlayMTU - 70

// bridge is what Linux offers for the same task, with neither policy nor flow tracking: the machines
// on a bridge each, the bridges joined by the kernel's VXLAN over the same underlay.
var bridge = network{
	name: "Linux bridge + kernel VXLAN",
	mtu:  bridgeMTU,
	connect: func(fabric *lab.Fabric, hosts [2]*space, n int) (func() error, error) {
		return nil, hosts[n].Do(func() error {
			return connectBridge(fabric.Hosts[n].Address, fabric.Hosts[1-n].Address)
		})
	},
}

func connectBridge(own, other netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	br, err := setUp("br0")
	if err != nil {
		return err
	}
	attrs = netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "vxlan0", bridgeMTU
	err = netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: 7, Port: 4789, SrcAddr: own.AsSlice(), Group: other.AsSlice(), Learning: true,
	})
	if err != nil {
		return fmt.Errorf("add vxlan: %w", err)
	}
	for _, name := range []string{portDevice, "vxlan0"} {
		link, err := setUp(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(link, br); err != nil {
			return fmt.Errorf("put %s on the bridge: %w", name, err)
		}
	}
	return nil
}

// plain routes the machines' addresses over the fabric: no overlay, so no isolation either.
var plain = network{
	name:   "plain veth routing",
	mtu:    underlayMTU,
	routed: true,
	connect: func(fabric *lab.Fabric, hosts [2]*space, n int) (func() error, error) {
		if err := hosts[n].Do(func() error { return connectPlain(n) }); err != nil {
			return nil, err
		}
		return nil, fabric.Spine.Do(func() error {
			if err := forwardIPv4(); err != nil {
				return err
			}
			return routeIPv4(addresses[n], fabric.Hosts[n].Name, "fe80::2")
		})
	},
}

func connectPlain(n int) error {
	port, err := setUp(portDevice)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(port, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(gateway, 32))}); err != nil {
		return fmt.Errorf("add gateway address: %w", err)
	}
	own := &netlink.Route{LinkIndex: port.Attrs().Index, Dst: ipNet(netip.PrefixFrom(addresses[n], 32)), Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteAdd(own); err != nil {
		return fmt.Errorf("route machine: %w", err)
	}
	if err := forwardIPv4(); err != nil {
		return err
	}
	return routeIPv4(addresses[1-n], uplink, "fe80::1")
}

func forwardIPv4() error {
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// routeIPv4 routes dst by an IPv6 neighbour, so that the underlay needs no IPv4 addresses.
func routeIPv4(dst netip.Addr, device, via string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(dst, 32)),
		Via: &netlink.Via{AddrFamily: netlink.FAMILY_V6, Addr: netip.MustParseAddr(via).AsSlice()},
	}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("route %s by %s: %w", dst, device, err)
	}
	return nil
}
