package throughput

import (
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// portDevice is the host's end of a machine's interface; every host has one machine.
	portDevice = "port0"
	uplink     = "uplink"
	// underlayMTU is that of every cable.
	underlayMTU = 1500
)

// Addresses of the two machines. The gateway is on the link with each of them.
var (
	addresses  = [2]netip.Addr{netip.MustParseAddr("10.1.0.11"), netip.MustParseAddr("10.1.0.12")}
	macs       = [2]net.HardwareAddr{{0x52, 0x54, 0, 0, 0, 1}, {0x52, 0x54, 0, 0, 0, 2}}
	gateway    = netip.MustParseAddr("169.254.0.1")
	gatewayMAC = net.HardwareAddr{0x02, 0x00, 0x5e, 0x00, 0x00, 0x01}
)

// plugVeth gives machine n an eth0 that ends in portDevice on host. Both ends are down.
func plugVeth(host, machine *space, n int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = portDevice
	return host.Do(func() error {
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: macs[n], PeerNamespace: netlink.NsFd(machine.ns.Fd()),
		})
		if err != nil {
			return fmt.Errorf("add veth: %w", err)
		}
		return nil
	})
}

// plugTap makes portDevice on host a tap and returns its other side, where whole frames behind a
// virtio-net header are written and read, with all offloads that QEMU negotiates. It is down.
func plugTap(host *space) (tap, error) {
	var t tap
	err := host.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open tun device: %w", err)
		}
		request, err := unix.NewIfreq(portDevice)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			unix.Close(fd)
			return fmt.Errorf("add tap: %w", err)
		}
		offloads := unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads); err != nil {
			unix.Close(fd)
			return fmt.Errorf("set offloads of tap: %w", err)
		}
		t = tap(fd)
		return nil
	})
	return t, err
}

// configureMachine addresses eth0 and sets it up. A routed machine is alone on its link.
func configureMachine(machine *space, n, mtu int, routed bool) error {
	return machine.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU: %w", err)
		}
		bits := 24
		if routed {
			bits = 32
		}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addresses[n], bits))}); err != nil {
			return fmt.Errorf("add address: %w", err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("set eth0 up: %w", err)
		}
		if !routed {
			return nil
		}
		index := link.Attrs().Index
		onLink := &netlink.Route{LinkIndex: index, Dst: ipNet(netip.PrefixFrom(gateway, 32)), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(onLink); err != nil {
			return fmt.Errorf("route gateway: %w", err)
		}
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: ipNet(all), Gw: gateway.AsSlice()}); err != nil {
			return fmt.Errorf("route by gateway: %w", err)
		}
		return nil
	})
}

// receiveOffload turns GRO of a device on, as it is for every real NIC; a veth starts without it.
func receiveOffload(name string) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ command, value uint32 }{unix.ETHTOOL_SGRO, 1}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("turn GRO of %s on: %w", name, errno)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
