// Package dataplane turns desired ports, routes and policies into the state of the packet
// programs in bpf/ and reports what they count. It owns taps, BPF objects and port files; it
// knows neither the agent nor the API, and never removes a port it was not told to remove.
package dataplane

import (
	"net"
	"net/netip"
	"time"
)

// A PortSpec is the desired state of one machine interface on this host.
// The dataplane keeps specs of its own on disk; a caller may repeat any of them at any time.
type PortSpec struct {
	// ID names the port for its whole life: "<machine id>/<nic name>", at most 128 bytes.
	ID string
	// VNI is the tenant network, 1 to 1<<24-1.
	VNI uint32
	// MAC is the address the machine is given and the only source it may use.
	MAC net.HardwareAddr
	// Addresses are the machine's own, announced by DHCP and RA, and allowed as sources.
	Addresses []netip.Addr
	// Prefixes are routed to the machine as well and allowed as sources.
	Prefixes []netip.Prefix
	// Underlay is the IPv6 address, within this host's underlay prefix, that stands for
	// this port in an outer header. No two ports share one.
	Underlay netip.Addr
	// Guest is what the machine is told by DHCP and RA.
	Guest GuestConfig
	// Policy is enforced from the first packet. The zero value lets everything pass.
	Policy Policy
}

// GuestConfig is answered to a machine by DHCPv4, DHCPv6 and router advertisements.
type GuestConfig struct {
	Hostname string
	DNS      []netip.Addr
}

// A Policy filters the connections of one port. A direction that is not Enforced lets
// everything pass; an enforced one drops what no rule allows (default deny).
// Replies of a connection that was allowed always pass.
type Policy struct {
	Ingress, Egress RuleSet
}

// A RuleSet is evaluated in order of Priority (lowest first, then position); first match decides.
type RuleSet struct {
	Enforced bool
	Rules    []Rule
}

// Action is what a matching rule does.
type Action uint8

const (
	Allow Action = iota
	Deny
)

// A Rule matches new connections. Zero fields match anything.
type Rule struct {
	// ID names the API object and position that the rule came from, for counters and traces.
	ID       string
	Action   Action
	Priority uint32
	// Peers are the remote prefixes: sources for ingress, destinations for egress. Empty: any.
	Peers []netip.Prefix
	// Protocol is an IP protocol number; 0 is any.
	Protocol uint8
	// PortFirst and PortLast bound the destination port, in both directions. 0, 0: any.
	PortFirst, PortLast uint16
	// ICMPType and ICMPCode are compared when Protocol is ICMP or ICMPv6; -1 is any.
	ICMPType, ICMPCode int16
}

// A RouteKey is one destination prefix of one tenant network.
type RouteKey struct {
	VNI    uint32
	Prefix netip.Prefix
}

// A Route sends what matches Key to one of NextHops; of more than 16 the lowest addresses are used.
type Route struct {
	Key      RouteKey
	NextHops []NextHop
}

// A NextHop is the remote end of a tunnel.
type NextHop struct {
	// Address is the outer IPv6 destination: the remote port's underlay address.
	Address netip.Addr
	Encap   Encap
	// Weight is relative to the other next hops of the route; 0 counts as 1.
	Weight uint16
}

// Encap is an encapsulation.
type Encap uint8

const (
	// IPIP6 carries the inner IP packet directly in IPv6 (RFC 2473); the outer destination is the object.
	IPIP6 Encap = iota
)

// PortStatus is what the dataplane reports of a port.
type PortStatus struct {
	ID string
	// Device is the tap to hand to the machine's emulator. It is up and filtered.
	Device  string
	IfIndex int
	// MTU is what the guest must use: underlay MTU minus the encapsulation's overhead.
	MTU int
	// Ready is false while the port is only known, not attached.
	Ready bool
	Spec  PortSpec
}

// PortCounters is the traffic of one port since it was created.
type PortCounters struct {
	// PortID is "" for what could not be attributed to a port.
	PortID string
	// FromMachine and ToMachine count what was forwarded.
	FromMachine, ToMachine Traffic
	// Drops counts packets by the name of the reason; see docs/drop-reasons.md.
	Drops map[string]uint64
}

// Traffic is packets (a GSO packet is one) and bytes of the machine's own frames.
type Traffic struct {
	Packets, Bytes uint64
}

// A Flow is one connection of a port.
type Flow struct {
	Protocol      uint8
	Local, Remote netip.AddrPort
	// Initiator is "machine" or "remote".
	Initiator string
	// State is "new", "established", "closing" or "closed".
	State string
	// NextHop is the tunnel's remote end; invalid until the machine has sent a packet, or
	// when the remote is on this host.
	NextHop netip.Addr
	// Idle is the age of the last packet, about a second exact.
	Idle time.Duration
}
