package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ingot/dataplane/internal/bpf"
	"ingot/runtime/fault"
)

// Limits of a spec.
const (
	maxIDLength = 128
	maxVNI      = 1<<24 - 1
)

// Validate reports all faults at once; the error is of class fault.Invalid.
func (s PortSpec) Validate(underlay netip.Prefix) error {
	var f fault.Fields
	if s.ID == "" || len(s.ID) > maxIDLength {
		f.Add("ID", "want 1 to %d bytes, have %d", maxIDLength, len(s.ID))
	}
	if s.VNI == 0 || s.VNI > maxVNI {
		f.Add("VNI", "want 1 to %d, have %d", maxVNI, s.VNI)
	}
	if len(s.MAC) != 6 || s.MAC[0]&1 != 0 {
		f.Add("MAC", "want a unicast Ethernet address, have %q", s.MAC)
	}
	if len(s.Addresses) == 0 {
		f.Add("Addresses", "want at least one")
	}
	for i, a := range s.Addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsMulticast() || a.IsUnspecified() || a.IsLinkLocalUnicast() {
			f.Add(fmt.Sprintf("Addresses[%d]", i), "want a unicast address, have %s", a)
		}
	}
	for i, p := range s.Prefixes {
		if !p.IsValid() || p.Addr().Is4In6() || p.Masked() != p {
			f.Add(fmt.Sprintf("Prefixes[%d]", i), "want a prefix without host bits, have %s", p)
		}
	}
	if !underlay.Contains(s.Underlay) {
		f.Add("Underlay", "want an address in %s, have %s", underlay, s.Underlay)
	}
	validateRules(&f, "Policy.Ingress", s.Policy.Ingress)
	validateRules(&f, "Policy.Egress", s.Policy.Egress)
	return f.Err()
}

func validateRules(f *fault.Fields, path string, set RuleSet) {
	if len(set.Rules) > maxRules {
		f.Add(path+".Rules", "want at most %d, have %d", maxRules, len(set.Rules))
	}
	for i, r := range set.Rules {
		at := fmt.Sprintf("%s.Rules[%d]", path, i)
		if r.PortFirst > r.PortLast {
			f.Add(at, "first port %d is above the last, %d", r.PortFirst, r.PortLast)
		}
		if r.ICMPType > 255 || r.ICMPCode > 255 {
			f.Add(at, "ICMP type and code are at most 255")
		}
		for j, p := range r.Peers {
			if !p.IsValid() || p.Addr().Is4In6() {
				f.Add(fmt.Sprintf("%s.Peers[%d]", at, j), "want a prefix, have %s", p)
			}
		}
	}
}

// prefixes lists what lives at the port.
func (s PortSpec) prefixes() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range s.Addresses {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return append(all, s.Prefixes...)
}

// deviceName is the tap of a port: the same for the same ID, and short enough for the kernel.
func deviceName(id string) string {
	h := fnv.New64a()
	h.Write([]byte(id))
	return fmt.Sprintf("%s%011x", tapPrefix, h.Sum64()&(1<<44-1))
}

const tapPrefix = "it"

// isDeviceName tells whether deviceName can have made it.
func isDeviceName(name string) bool {
	hash, ok := strings.CutPrefix(name, tapPrefix)
	_, err := strconv.ParseUint(hash, 16, 44)
	return ok && len(hash) == 11 && err == nil
}

func addr(a netip.Addr) bpf.Addr {
	var out bpf.Addr
	copy(out.B[:], a.AsSlice())
	return out
}

func scope(owner uint32, a netip.Addr) uint32 { return owner<<8 | uint32(family(a)) }

// A routeEntry is where a route's value is kept: host routes by hash, the others in the trie.
type routeEntry struct {
	host   bpf.HostKey
	prefix bpf.PrefixKey
	isHost bool
}

func entryOf(k RouteKey) routeEntry {
	a := k.Prefix.Addr()
	if k.Prefix.IsSingleIP() {
		return routeEntry{isHost: true, host: bpf.HostKey{Scope: scope(k.VNI, a), Addr: addr(a)}}
	}
	return routeEntry{prefix: bpf.PrefixKey{
		Prefixlen: uint32(32 + k.Prefix.Bits()), Scope: scope(k.VNI, a), Addr: addr(k.Prefix.Masked().Addr()),
	}}
}

func hostRouteKey(k bpf.HostKey) RouteKey {
	a := address(uint8(k.Scope), k.Addr)
	return RouteKey{VNI: k.Scope >> 8, Prefix: netip.PrefixFrom(a, a.BitLen())}
}

func prefixRouteKey(k bpf.PrefixKey) RouteKey {
	a := address(uint8(k.Scope), k.Addr)
	return RouteKey{VNI: k.Scope >> 8, Prefix: netip.PrefixFrom(a, int(k.Prefixlen)-32)}
}

func address(family uint8, a bpf.Addr) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte(a.B[:4]))
	}
	return netip.AddrFrom16(a.B)
}

// Validate reports all faults of a route; the error is of class fault.Invalid.
func (r Route) Validate() error {
	var faults []error
	if r.Key.VNI == 0 || r.Key.VNI > maxVNI {
		faults = append(faults, fmt.Errorf("VNI %d: want 1 to %d", r.Key.VNI, maxVNI))
	}
	if p := r.Key.Prefix; !p.IsValid() || p.Addr().Is4In6() || p.Masked() != p {
		faults = append(faults, fmt.Errorf("prefix %s: want one without host bits", p))
	}
	for _, n := range r.NextHops {
		if !n.Address.Is6() || n.Address.Is4In6() || n.Encap != IPIP6 {
			faults = append(faults, fmt.Errorf("next hop %s: want an IPv6 address with ipip6", n.Address))
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("route %s of VNI %d: %w: %w", r.Key.Prefix, r.Key.VNI, fault.Invalid, errors.Join(faults...))
}

// spread fills the slots of a multipath by weighted rendezvous hashing (Schindelhauer and
// Schomaker 2005): a next hop that comes or goes moves only the slots it gains or loses.
func spread(hops []NextHop) bpf.Multipath {
	hops = slices.Clone(hops)
	slices.SortFunc(hops, func(a, b NextHop) int { return a.Address.Compare(b.Address) })
	var m bpf.Multipath
	for i, h := range hops {
		m.Nexthop[i] = addr(h.Address)
	}
	for slot := range m.Slot {
		best, winner := math.Inf(-1), 0
		for i, hop := range hops {
			h := fnv.New64a()
			h.Write(hop.Address.AsSlice())
			h.Write([]byte{byte(slot), byte(slot >> 8)})
			x := h.Sum64() // FNV's high bits are weak: mix (Steele et al. 2014)
			x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
			x = (x ^ x>>27) * 0x94d049bb133111eb
			u := (float64((x^x>>31)>>11) + 0.5) / (1 << 53)
			if score := -float64(cmp.Or(hop.Weight, 1)) / math.Log(u); score > best {
				best, winner = score, i
			}
		}
		m.Slot[slot] = uint8(winner)
	}
	return m
}

// distinct drops repeated next hops; the last weight counts. It takes as many as a multipath holds,
// those of the lowest addresses: how many there are is up to tenants, and no reason to refuse a batch.
func distinct(hops []NextHop) []NextHop {
	by := map[netip.Addr]NextHop{}
	for _, h := range hops {
		by[h.Address] = h
	}
	all := slices.SortedFunc(maps.Values(by), func(a, b NextHop) int { return a.Address.Compare(b.Address) })
	return all[:min(len(all), bpf.MaxNexthops)]
}
