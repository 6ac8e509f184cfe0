package routing

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"ingot/runtime/fault"
)

// An announcementKey is what makes announcements distinct on the wire.
type announcementKey struct {
	port   string
	vni    uint32
	prefix netip.Prefix
}

func (a Announcement) key() announcementKey { return announcementKey{a.PortID, a.VNI, a.Prefix} }

// index checks announcements and keys them. Repetitions of one are allowed, contradictions are not.
func (c Config) index(all []Announcement) (map[announcementKey]Announcement, error) {
	var f fault.Fields
	out := make(map[announcementKey]Announcement, len(all))
	for i, a := range all {
		at := func(name string) string { return "announcements[" + strconv.Itoa(i) + "]." + name }
		if a.PortID == "" {
			f.Add(at("portID"), "is empty")
		}
		if a.VNI < 1 || a.VNI > maxVNI {
			f.Add(at("vni"), "%d is not in 1 to %d", a.VNI, maxVNI)
		}
		if !a.Prefix.IsValid() || a.Prefix.Masked() != a.Prefix || a.Prefix.Addr().Is4In6() {
			f.Add(at("prefix"), "%v is not a masked prefix", a.Prefix)
		}
		if !c.NextHopPrefix.Contains(a.NextHop) {
			f.Add(at("nextHop"), "%v is not inside %v", a.NextHop, c.NextHopPrefix)
		}
		if have, ok := out[a.key()]; ok && have != a {
			f.Add(at("nextHop"), "%v contradicts %v of the same port and prefix", a.NextHop, have.NextHop)
		}
		out[a.key()] = a
	}
	return out, f.Err()
}

// difference says what to announce and what to withdraw to get from have to want, in a fixed order.
func difference(want, have map[announcementKey]Announcement) (announce, withdraw []Announcement) {
	for k, a := range want {
		if have[k] != a {
			announce = append(announce, a)
		}
	}
	for k, a := range have {
		if _, ok := want[k]; !ok {
			withdraw = append(withdraw, a)
		}
	}
	slices.SortFunc(announce, compareAnnouncements)
	slices.SortFunc(withdraw, compareAnnouncements)
	return announce, withdraw
}

func compareAnnouncements(a, b Announcement) int {
	return cmp.Or(cmp.Compare(a.PortID, b.PortID), cmp.Compare(a.VNI, b.VNI), a.Prefix.Compare(b.Prefix))
}

// A portNetwork is what has a route distinguisher of its own.
type portNetwork struct {
	port string
	vni  uint32
}

// distinguishers hands out the 16-bit half of route distinguishers. An index starts at the low
// bits of the port's underlay address, which the agent keeps across restarts, and moves on past
// those in use: never two ports with one, and after a restart mostly the same ones. (A changed one
// loses nothing: the new path is announced before End-of-RIB removes the old.)
type distinguishers struct {
	byPort map[portNetwork]uint16
	used   map[uint16]bool
}

func newDistinguishers() *distinguishers {
	return &distinguishers{byPort: map[portNetwork]uint16{}, used: map[uint16]bool{presenceIndex: true}}
}

// get returns the index of a's port, and takes one for a new port.
func (d *distinguishers) get(a Announcement) (uint16, error) {
	id := portNetwork{a.PortID, a.VNI}
	if index, ok := d.byPort[id]; ok {
		return index, nil
	}
	if len(d.used) == 1<<16 {
		return 0, fmt.Errorf("number port %s: all 65535 route distinguishers are in use: %w", a.PortID, fault.Exhausted)
	}
	low := a.NextHop.As16()
	index := uint16(low[14])<<8 | uint16(low[15])
	for d.used[index] {
		index++
	}
	d.byPort[id], d.used[index] = index, true
	return index, nil
}

// keep frees the indexes of ports that announce nothing any more.
func (d *distinguishers) keep(announced map[announcementKey]Announcement) {
	live := make(map[portNetwork]bool, len(announced))
	for k := range announced {
		live[portNetwork{k.port, k.vni}] = true
	}
	for id, index := range d.byPort {
		if !live[id] {
			delete(d.byPort, id)
			delete(d.used, index)
		}
	}
}
