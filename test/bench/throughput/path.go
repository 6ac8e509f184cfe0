package throughput

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ingot/test/lab"
)

// A network joins portDevice of both hosts.
type network struct {
	name string
	// mtu is what the machines use.
	mtu int
	// routed: the machines' gateway is at the other end of their cable; else they share a link.
	routed bool
	// connect works on host n; the returned function, which may be nil, takes down what needs it.
	connect func(fabric *lab.Fabric, hosts [2]*space, n int) (func() error, error)
}

// A path is a network with two machines on a fabric of its own.
type path struct {
	network
	machines [2]*space // behind veth
	taps     [2]tap    // or these

	closers []func() error
}

// setup is how a path is laid.
type setup struct {
	// taps: the machines are emulators; else they are namespaces behind veth.
	taps bool
	// wire: what leaves a host is as long as on a real cable, and what it gets is merged as by a
	// real NIC. Else a veth moves 64 KiB at once.
	wire bool
	// direct: a cable joins the hosts. Else the spine forwards, which costs processor time that
	// no hypervisor spends.
	direct bool
}

// build lays a path.
func (n network) build(how setup) (_ *path, err error) {
	p := &path{network: n}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("build %s: %w", n.name, err), p.Close())
		}
	}()
	fabric, err := lab.NewFabric(lab.FabricConfig{Hosts: 2, MTU: underlayMTU, WireSized: how.wire})
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, fabric.Close)
	var hosts [2]*space
	for i := range hosts {
		if hosts[i], err = enter(fabric.Hosts[i]); err != nil {
			return nil, err
		}
		p.closers = append(p.closers, func() error { hosts[i].Close(); return nil })
		if err := p.plug(hosts[i], i, how); err != nil {
			return nil, err
		}
	}
	if how.direct {
		if err := layCable(fabric, hosts); err != nil {
			return nil, fmt.Errorf("lay cable: %w", err)
		}
	}
	for i := range hosts {
		release, err := n.connect(fabric, hosts, i)
		if release != nil {
			p.closers = append(p.closers, release)
		}
		if err != nil {
			return nil, fmt.Errorf("connect %s: %w", fabric.Hosts[i].Name, err)
		}
	}
	for i, machine := range p.machines {
		if machine == nil {
			continue
		}
		if err := configureMachine(machine, i, n.mtu, n.routed); err != nil {
			return nil, fmt.Errorf("configure machine %d: %w", i, err)
		}
	}
	return p, nil
}

// plug makes the machine of host i and its port.
func (p *path) plug(host *space, i int, how setup) (err error) {
	if how.wire {
		if err := host.Do(func() error { return receiveOffload(uplink) }); err != nil {
			return err
		}
	}
	if how.taps {
		if p.taps[i], err = plugTap(host); err != nil {
			return err
		}
		p.closers = append(p.closers, p.taps[i].Close)
		return nil
	}
	if p.machines[i], err = newSpace(); err != nil {
		return fmt.Errorf("make machine: %w", err)
	}
	p.closers = append(p.closers, func() error { p.machines[i].Close(); return nil })
	return plugVeth(host, p.machines[i], i)
}

// Close takes everything down, last first.
func (p *path) Close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	p.closers = nil
	return errors.Join(errs...)
}

// nextHop is where machine n sends its frames for the other.
func (p *path) nextHop(n int) net.HardwareAddr {
	if p.routed {
		return gatewayMAC
	}
	return macs[1-n]
}

// layCable replaces the hosts' uplinks to the spine by one veth between them.
func layCable(fabric *lab.Fabric, hosts [2]*space) error {
	for _, host := range hosts {
		err := host.Do(func() error {
			link, err := netlink.LinkByName(uplink)
			if err != nil {
				return err
			}
			return netlink.LinkDel(link)
		})
		if err != nil {
			return fmt.Errorf("cut uplink: %w", err)
		}
	}
	err := hosts[0].Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = uplink, underlayMTU
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: uplink, PeerNamespace: netlink.NsFd(hosts[1].ns.Fd())})
	})
	if err != nil {
		return err
	}
	for i, host := range hosts {
		own, other := fmt.Sprintf("fe80::%d", i+1), fmt.Sprintf("fe80::%d", 2-i)
		err := host.Do(func() error { return configureCable(own, other, fabric.Hosts[1-i].Prefix) })
		if err != nil {
			return err
		}
	}
	return nil
}

func configureCable(own, other string, dst netip.Prefix) error {
	link, err := netlink.LinkByName(uplink)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(netip.MustParseAddr(own), 64)), Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add %s: %w", own, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(dst), Gw: netip.MustParseAddr(other).AsSlice(),
	})
}

func setUp(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", name, err)
	}
	return link, nil
}
