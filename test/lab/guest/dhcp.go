package main

import (
	"context"
	"fmt"
	"math"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// infinite is the lease time 0xffffffff of RFC 2131 and RFC 8415.
const infinite = time.Duration(math.MaxUint32) * time.Second

// leaseIPv4 gets an address by DHCPv4 (RFC 2131) and applies it with routes, MTU, host name and
// name servers. Masks of 32 bits and classless routes (RFC 3442) are honoured.
func leaseIPv4(ctx context.Context, link netlink.Link) (time.Duration, error) {
	client, err := nclient4.New(link.Attrs().Name, nclient4.WithTimeout(500*time.Millisecond), nclient4.WithRetry(3))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	lease, err := client.Request(ctx, dhcpv4.WithRequestedOptions(dhcpv4.OptionClasslessStaticRoute,
		dhcpv4.OptionRouter, dhcpv4.OptionSubnetMask, dhcpv4.OptionInterfaceMTU,
		dhcpv4.OptionHostName, dhcpv4.OptionDomainNameServer))
	if err != nil {
		return 0, err
	}
	ack := lease.ACK
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil {
		if err := netlink.LinkSetMTU(link, int(mtu)); err != nil {
			return 0, fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = net.CIDRMask(32, 32)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: ack.YourIPAddr, Mask: mask}}
	if err := netlink.AddrReplace(link, address); err != nil {
		return 0, fmt.Errorf("set address %s: %w", address, err)
	}
	if err := routeIPv4(link, ack); err != nil {
		return 0, err
	}
	if name := ack.HostName(); name != "" {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return 0, fmt.Errorf("set host name %q: %w", name, err)
		}
	}
	if servers := ack.DNS(); len(servers) > 0 {
		if err := addResolvers(servers); err != nil {
			return 0, err
		}
	}
	return ack.IPAddressLeaseTime(infinite), nil
}

// routeIPv4 sets the routes of a lease. Option 121 replaces the router option (RFC 3442).
func routeIPv4(link netlink.Link, ack *dhcpv4.DHCPv4) error {
	routes := ack.ClasslessStaticRoute()
	if len(routes) == 0 {
		for _, router := range ack.Router() {
			routes = append(routes, &dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Router: router})
		}
	}
	for _, r := range routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: r.Dest, Src: ack.YourIPAddr}
		if r.Router.IsUnspecified() {
			route.Scope = netlink.SCOPE_LINK
		} else {
			route.Gw, route.Flags = r.Router, int(netlink.FLAG_ONLINK)
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("set route %s: %w", r, err)
		}
	}
	return nil
}

// leaseIPv6 gets addresses by DHCPv6 (RFC 8415). Routes and MTU come from router advertisements.
func leaseIPv6(ctx context.Context, link netlink.Link) (time.Duration, error) {
	client, err := nclient6.New(link.Attrs().Name, nclient6.WithTimeout(time.Second), nclient6.WithRetry(3))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	advertise, err := client.Solicit(ctx)
	if err != nil {
		return 0, err
	}
	reply, err := client.Request(ctx, advertise)
	if err != nil {
		return 0, err
	}
	assigned := reply.Options.OneIANA()
	if assigned == nil || len(assigned.Options.Addresses()) == 0 {
		return 0, fmt.Errorf("no address in %s", reply.Summary())
	}
	life := infinite
	for _, a := range assigned.Options.Addresses() {
		if err := setIPv6(link, a); err != nil {
			return 0, err
		}
		life = min(life, a.ValidLifetime)
	}
	if servers := reply.Options.DNS(); len(servers) > 0 {
		if err := addResolvers(servers); err != nil {
			return 0, err
		}
	}
	return life, nil
}

func setIPv6(link netlink.Link, a *dhcpv6.OptIAAddress) error {
	address := &netlink.Addr{IPNet: &net.IPNet{IP: a.IPv6Addr, Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrReplace(link, address); err != nil {
		return fmt.Errorf("set address %s: %w", a.IPv6Addr, err)
	}
	return nil
}
