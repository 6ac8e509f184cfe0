package routing

import (
	"net/netip"
	"time"
)

// A SessionState is where a BGP session stands (RFC 4271, 8.2.2), with the two states that
// matter here split off Established.
type SessionState string

const (
	Idle        SessionState = "Idle"
	Connect     SessionState = "Connect"
	Active      SessionState = "Active"
	OpenSent    SessionState = "OpenSent"
	OpenConfirm SessionState = "OpenConfirm"
	// Established: the reflector has not finished its table yet.
	Established SessionState = "Established"
	// Synced: Established, and End-of-RIB was received.
	Synced SessionState = "Synced"
)

// Status is a snapshot of a Speaker.
type Status struct {
	Sessions []SessionStatus
	// Announced is how many prefixes this host announces now.
	Announced int
	// Orphans is how many paths are kept for hosts that are away.
	Orphans int
	// Started is false until the first Announce: no session is opened before.
	Started bool
	// Synced is true once a full table was received; see Speaker.Synced.
	Synced   bool
	Counters Counters
}

// SessionStatus is a snapshot of one session.
type SessionStatus struct {
	Reflector netip.Addr
	State     SessionState
	// Since is when State was entered.
	Since time.Time
	// RoutesIn is how many paths of this reflector are held (with one per host for its presence), Stale how many of them are kept
	// from before its session went down.
	RoutesIn, Stale int
	// RoutesOut is how many paths were announced to it; 0 while the session is down.
	RoutesOut int
	// Flaps is how often an established session went down.
	Flaps uint64
	// LastError is why the session is not up, or why it last went down; "" when it never failed.
	LastError string
}

// Counters only grow.
type Counters struct {
	// Received and Withdrawn count paths told by reflectors.
	Received, Withdrawn uint64
	// RefusedMalformed, RefusedNextHop, RefusedTarget and RefusedOwn count paths that the import
	// filter dropped: not decodable, next hop outside the underlay, route target and label
	// disagree, our own reflected back.
	RefusedMalformed, RefusedNextHop, RefusedTarget, RefusedOwn uint64
	// MaxPrefixes counts sessions closed for exceeding Config.MaxPrefixes.
	MaxPrefixes uint64
	// Batches and Updates count calls of the sink and what they carried.
	Batches, Updates uint64
	// Announcements and Withdrawals count what was sent.
	Announcements, Withdrawals uint64
}
