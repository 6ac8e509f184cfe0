// Package cidr computes with sets of IP prefixes. It does no I/O and knows no API.
//
// A set is a slice of masked prefixes. Results are minimal, disjoint and in address order, so that
// equal sets are equal slices.
package cidr

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
)

// Compare orders prefixes by family, address and length (shortest first).
func Compare(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// Covers reports whether all of b is in a.
func Covers(a, b netip.Prefix) bool { return a.Bits() <= b.Bits() && a.Contains(b.Addr()) }

// Halves are the two prefixes of one bit more that make up p; p must not be a single address.
func Halves(p netip.Prefix) (lower, upper netip.Prefix) {
	bit := p.Bits()
	addr := p.Addr().AsSlice()
	lower = netip.PrefixFrom(p.Addr(), bit+1)
	addr[bit/8] |= 0x80 >> (bit % 8)
	next, _ := netip.AddrFromSlice(addr)
	return lower, netip.PrefixFrom(next, bit+1)
}

// Last is the highest address of p.
func Last(p netip.Prefix) netip.Addr {
	addr := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(addr)*8; bit++ {
		addr[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(addr)
	return last
}

// Host is the prefix of one address.
func Host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Merge is the union of set.
func Merge(set []netip.Prefix) []netip.Prefix {
	sorted := slices.Clone(set)
	slices.SortFunc(sorted, Compare)
	var out []netip.Prefix
	for _, p := range sorted {
		if n := len(out); n > 0 && Covers(out[n-1], p) {
			continue
		}
		out = append(out, p)
		for n := len(out); n > 1 && siblings(out[n-2], out[n-1]); n = len(out) {
			out = append(out[:n-2], netip.PrefixFrom(out[n-2].Addr(), out[n-2].Bits()-1))
		}
	}
	return out
}

// siblings reports whether low and high are the halves of one prefix.
func siblings(low, high netip.Prefix) bool {
	if low.Bits() != high.Bits() || low.Bits() == 0 {
		return false
	}
	parent := netip.PrefixFrom(low.Addr(), low.Bits()-1).Masked()
	return parent.Addr() == low.Addr() && parent.Contains(high.Addr())
}

// Subtract is what remains of from without minus.
func Subtract(from, minus []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range Merge(from) {
		out = subtract(out, p, minus)
	}
	return Merge(out)
}

func subtract(out []netip.Prefix, p netip.Prefix, minus []netip.Prefix) []netip.Prefix {
	minus = Overlapping(minus, p)
	if len(minus) == 0 {
		return append(out, p)
	}
	if slices.ContainsFunc(minus, func(m netip.Prefix) bool { return Covers(m, p) }) {
		return out
	}
	lower, upper := Halves(p)
	return subtract(subtract(out, lower, minus), upper, minus)
}

// Overlapping are the members of set that share addresses with p.
func Overlapping(set []netip.Prefix, p netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, m := range set {
		if m.Overlaps(p) {
			out = append(out, m)
		}
	}
	return out
}

// FirstFree is the lowest prefix of the given length in p that overlaps nothing of taken.
func FirstFree(p netip.Prefix, bits int, taken []netip.Prefix) (netip.Prefix, bool) {
	taken = Overlapping(taken, p)
	if len(taken) == 0 {
		return netip.PrefixFrom(p.Addr(), bits), p.Bits() <= bits
	}
	if p.Bits() >= bits || slices.ContainsFunc(taken, func(m netip.Prefix) bool { return Covers(m, p) }) {
		return netip.Prefix{}, false
	}
	lower, upper := Halves(p)
	if free, ok := FirstFree(lower, bits, taken); ok {
		return free, true
	}
	return FirstFree(upper, bits, taken)
}

// Count is the number of addresses in a set whose members do not overlap.
func Count(set []netip.Prefix) *big.Int {
	n := new(big.Int)
	for _, p := range set {
		n.Add(n, new(big.Int).Lsh(big.NewInt(1), uint(p.Addr().BitLen()-p.Bits())))
	}
	return n
}

// Parse reads CIDRs, as they stand in specs; the bits behind the prefix must be zero.
func Parse(texts ...string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("parse prefix: %w", err)
		}
		if p.Addr().Is4In6() || p != p.Masked() {
			return nil, fmt.Errorf("prefix %s has bits behind its length; want %s", p, p.Masked())
		}
		out[i] = p
	}
	return out, nil
}

// Strings is the set as CIDRs.
func Strings(set []netip.Prefix) []string {
	out := make([]string, len(set))
	for i, p := range set {
		out[i] = p.String()
	}
	return out
}
