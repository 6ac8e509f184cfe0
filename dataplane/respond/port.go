// Package respond answers what a machine asks of its network while it configures itself: DHCPv4,
// DHCPv6 and router solicitations. One Server serves all ports of a host through two packet
// sockets that see only what the port's filter let through, so senders are already verified.
//
// It holds no leases: the answer is a function of the port and the packet, lifetimes are infinite,
// and a machine keeps its addresses whether or not the server runs. It must never forward packets
// and never trust a length or an option in one.
package respond

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// The gateway of every port, on the link with each machine. Both are served by the host itself.
var (
	GatewayIPv4 = netip.AddrFrom4([4]byte{169, 254, 0, 1})
	GatewayIPv6 = netip.MustParseAddr("fe80::1")
)

// A Port is what one machine is told.
type Port struct {
	// MAC is the machine's; only clients that name it are answered.
	MAC net.HardwareAddr
	// Addresses are the machine's own. DHCPv4 can carry only the first IPv4 address, DHCPv6 all
	// IPv6 addresses. A family without an address is not answered.
	Addresses []netip.Addr
	// GatewayMAC is the source of answers and, as DUID-LL, the DHCPv6 server's identity. The same
	// on all hosts, or a machine that migrates must ask anew.
	GatewayMAC net.HardwareAddr
	// MTU in bytes of IP; 0 tells none.
	MTU int
	// Hostname is told by DHCPv4 when not empty; at most 253 bytes. Of a name that is longer than
	// Linux takes (64) the first label is told.
	Hostname string
	// DNS resolvers, at most maxDNS of each family are told.
	DNS []netip.Addr
}

// These keep a DHCPv4 answer below the 576 bytes that every client accepts (RFC 2131, section 2).
const (
	maxDNS      = 8 // resolver libraries use three
	maxHostname = 64
)

func (p *Port) ipv4() (netip.Addr, bool) {
	for _, a := range p.Addresses {
		if a.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func (p *Port) ipv6() []netip.Addr {
	var out []netip.Addr
	for _, a := range p.Addresses {
		if a.Is6() {
			out = append(out, a)
		}
	}
	return out
}

// resolvers returns the DNS addresses of one family.
func (p *Port) resolvers(v6 bool) []netip.Addr {
	var out []netip.Addr
	for _, a := range p.DNS {
		if a.Is6() == v6 && len(out) < maxDNS {
			out = append(out, a)
		}
	}
	return out
}

// hostname returns what a machine can be told to be called, "" for nothing.
func (p *Port) hostname() string {
	name := p.Hostname
	if len(name) > maxHostname {
		name, _, _ = strings.Cut(name, ".")
	}
	if len(name) > maxHostname {
		return ""
	}
	return name
}

func netIPs(addrs []netip.Addr) []net.IP {
	out := make([]net.IP, len(addrs))
	for i, a := range addrs {
		out[i] = a.AsSlice()
	}
	return out
}

// outcome is what became of a received packet; each is counted.
type outcome int

const (
	sentDHCPv4 outcome = iota
	sentNak
	sentDHCPv6
	sentAdvertisement
	ignored
	declined
	malformed
	unknownPort
	rateLimited
	sendError
	receiveError
	parserPanic
	outcomes
)

// answer returns the frame that answers frame, nil where none is due. It reads nothing but its
// arguments. A panic in one of the parsers, which are fed by machines, is an outcome.
func (p *Port) answer(frame []byte) (reply []byte, what outcome) {
	defer func() {
		if recover() != nil {
			reply, what = nil, parserPanic
		}
	}()
	pkt, ok := parse(frame)
	switch {
	case !ok:
		return nil, malformed
	case pkt.proto == protoICMPv6:
		return p.answerSolicitation(pkt)
	case pkt.dst.Is4() && pkt.dstPort == dhcpv4ServerPort:
		return p.answerDHCPv4(pkt)
	case pkt.dst.Is6() && pkt.dstPort == dhcpv6ServerPort:
		return p.answerDHCPv6(pkt)
	}
	return nil, ignored
}

// Validate returns all faults of p.
func (p *Port) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(p.MAC) != 6 {
		fault("MAC %q: not 6 bytes", p.MAC)
	}
	if len(p.GatewayMAC) != 6 {
		fault("gateway MAC %q: not 6 bytes", p.GatewayMAC)
	}
	for _, a := range slices.Concat(p.Addresses, p.DNS) {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			fault("address %q: neither plain IPv4 nor plain IPv6", a)
		}
	}
	if p.MTU != 0 && (p.MTU < 576 || p.MTU > 65535) {
		fault("MTU %d: not in 576 to 65535", p.MTU)
	}
	if len(p.Hostname) > 253 {
		fault("hostname of %d bytes: longer than 253", len(p.Hostname))
	}
	return errors.Join(faults...)
}
