package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A network configures every interface of the guest and tells when it is done.
type network struct {
	links []netlink.Link

	mu    sync.Mutex // guards ready
	ready map[string]bool
}

// newNetwork brings lo and every Ethernet interface up. The kernel takes routes, MTU and
// prefixes from router advertisements by itself.
func newNetwork() (*network, error) {
	// A duplicate address cannot be: the dataplane answers for the whole network.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0); err != nil {
		return nil, err
	}
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	n := &network{ready: map[string]bool{}}
	for _, link := range all {
		loopback := link.Attrs().Flags&net.FlagLoopback != 0
		if !loopback && len(link.Attrs().HardwareAddr) != 6 {
			continue
		}
		if !loopback {
			n.links = append(n.links, link)
			path := "/proc/sys/net/ipv6/conf/" + link.Attrs().Name + "/accept_dad"
			if err := os.WriteFile(path, []byte("0"), 0); err != nil {
				return nil, err
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("set %s up: %w", link.Attrs().Name, err)
		}
	}
	return n, nil
}

// run keeps leases for all interfaces until ctx ends. It prints the ready line when every
// interface has an address, or at once if there is none.
func (n *network) run(ctx context.Context) {
	if len(n.links) == 0 {
		fmt.Println("ingot-guest ready")
	}
	var group sync.WaitGroup
	for _, link := range n.links {
		group.Go(func() { n.keep(ctx, link, "DHCPv4", leaseIPv4) })
		group.Go(func() { n.keep(ctx, link, "DHCPv6", leaseIPv6) })
	}
	group.Wait()
	<-ctx.Done()
}

// A lease function asks once, applies the answer and returns how long it may be used.
type leaseFunc func(context.Context, netlink.Link) (time.Duration, error)

// keep asks for a lease until it has one and again at half of its life.
func (n *network) keep(ctx context.Context, link netlink.Link, protocol string, lease leaseFunc) {
	name, said := link.Attrs().Name, ""
	for pause := 200 * time.Millisecond; ctx.Err() == nil; {
		life, err := lease(ctx, link)
		if err != nil {
			if said != err.Error() {
				said = err.Error()
				fmt.Printf("ingot-guest %s %s: %s\n", name, protocol, said)
			}
			time.Sleep(pause)
			pause = min(2*pause, 10*time.Second)
			continue
		}
		pause = 200 * time.Millisecond
		fmt.Printf("ingot-guest %s %s %s\n", name, protocol, strings.Join(globalAddresses(link), " "))
		n.markReady(name)
		select {
		case <-ctx.Done():
		case <-time.After(life / 2):
		}
	}
}

// markReady prints the ready line when the last interface got its first address.
func (n *network) markReady(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ready[name] {
		return
	}
	n.ready[name] = true
	if len(n.ready) == len(n.links) {
		hostname, _ := os.Hostname() // only shown
		fmt.Println("ingot-guest ready", hostname)
	}
}

func globalAddresses(link netlink.Link) []string {
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil
	}
	var texts []string
	for _, a := range addresses {
		if a.Scope == unix.RT_SCOPE_UNIVERSE {
			texts = append(texts, a.IPNet.String())
		}
	}
	return texts
}

// addResolvers adds name servers to the guest's list.
func addResolvers(servers []net.IP) error {
	const path = "/etc/resolv.conf"
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	text := string(old)
	for _, server := range servers {
		if line := fmt.Sprintf("nameserver %s\n", server); !strings.Contains(text, line) {
			text += line
		}
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
