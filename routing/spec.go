package routing

import "net/netip"

// An Announcement is one prefix that lives on this host.
type Announcement struct {
	// PortID tells announcements of one prefix by several ports apart (it fixes the route distinguisher).
	PortID string
	VNI    uint32
	Prefix netip.Prefix
	// NextHop is the port's underlay address.
	NextHop netip.Addr
}

// A RouteKey is one destination prefix of one tenant network.
type RouteKey struct {
	VNI    uint32
	Prefix netip.Prefix
}

// A RouteUpdate is the whole truth about one key: the next hops it has now.
// None means withdrawn.
type RouteUpdate struct {
	Key      RouteKey
	NextHops []netip.Addr
}
