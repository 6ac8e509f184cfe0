package ipam

import (
	"fmt"
	"net/netip"

	"ingot/controlplane/cidr"
	"ingot/runtime/fault"
)

// A Space is a prefix that parts are handed out of.
type Space struct {
	// Name is the Prefix object's, for messages.
	Name   string
	Prefix netip.Prefix
	// Used are the parts in use; Reserved are never handed out.
	Used, Reserved []netip.Prefix
}

// Free is the lowest free part of the given length. fault.Exhausted says how much is in use;
// fault.Invalid, that no part of that length can be in the space.
func (s Space) Free(bits int) (netip.Prefix, error) {
	if bits < s.Prefix.Bits() || bits > s.Prefix.Addr().BitLen() {
		return netip.Prefix{}, fmt.Errorf("take a /%d from prefix %q (%s), where /%d to /%d fit: %w",
			bits, s.Name, s.Prefix, s.Prefix.Bits(), s.Prefix.Addr().BitLen(), fault.Invalid)
	}
	free, ok := cidr.FirstFree(s.Prefix, bits, s.taken(bits))
	if !ok {
		return netip.Prefix{}, fmt.Errorf("prefix %q (%s) has no free /%d: %s of %s addresses in use: %w", s.Name, s.Prefix,
			bits, cidr.Count(cidr.Merge(s.Used)), cidr.Count([]netip.Prefix{s.Prefix}), fault.Exhausted)
	}
	return free, nil
}

// Check reports why part, wanted by name, cannot be handed out: fault.Invalid when it never can,
// fault.Exhausted while it is in use.
func (s Space) Check(part netip.Prefix) error {
	if !cidr.Covers(s.Prefix, part) {
		return fmt.Errorf("%s is not within prefix %q (%s): %w", part, s.Name, s.Prefix, fault.Invalid)
	}
	if used := cidr.Overlapping(s.Used, part); len(used) > 0 {
		return fmt.Errorf("%s of prefix %q (%s) is in use: it overlaps %s: %w", part, s.Name, s.Prefix, used[0], fault.Exhausted)
	}
	if never := cidr.Overlapping(s.taken(part.Bits()), part); len(never) > 0 {
		return fmt.Errorf("%s of prefix %q (%s) is never handed out: %s is reserved: %w", part, s.Name, s.Prefix, never[0], fault.Invalid)
	}
	return nil
}

// taken is what a part of the given length must not overlap. A part with usable addresses of its own
// may hold the network, gateway or broadcast address of the space, because it keeps them back itself.
func (s Space) taken(bits int) []netip.Prefix {
	taken := append(append([]netip.Prefix(nil), s.Used...), s.Reserved...)
	if bits == s.Prefix.Bits() || s.Prefix.Addr().BitLen()-bits > 1 {
		return taken
	}
	return append(taken, Unusable(s.Prefix)...)
}

// Unusable are the addresses of p that no machine gets: the network address (RFC 4291 2.6.1 for
// IPv6), the first host address, which is the gateway, and the broadcast address of IPv4.
func Unusable(p netip.Prefix) []netip.Prefix {
	if p.IsSingleIP() {
		return nil
	}
	out := []netip.Prefix{cidr.Host(p.Addr()), cidr.Host(p.Addr().Next())}
	if p.Addr().Is4() {
		out = append(out, cidr.Host(cidr.Last(p)))
	}
	return out
}

// Take is used with part added; Release is used without it.
func Take(used []netip.Prefix, part netip.Prefix) []netip.Prefix {
	return cidr.Merge(append(append([]netip.Prefix(nil), used...), part))
}

// Release undoes Take.
func Release(used []netip.Prefix, part netip.Prefix) []netip.Prefix {
	return cidr.Subtract(used, []netip.Prefix{part})
}
