package dataplane

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"ingot/dataplane/internal/bpf"
	"ingot/runtime/fault"
)

const (
	maxRules    = 256 * 64 // words per vector times bits per word
	allowVector = 0        // id of the vector of rules that allow

	icmp4 = 1
	icmp6 = 58
)

// portProtocols are those with ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
var portProtocols = []uint8{6, 17, 33, 132, 136}

// A ruleTables is a rule set as the programs read it; see bpf/lib/policy.h.
type ruleTables struct {
	peers    map[bpf.PrefixKey]bpf.Bitvector
	services map[bpf.ServiceKey]bpf.Bitvector
	vectors  map[bpf.VectorKey]uint64
}

// compileRules turns rules into tables under the given id. A vector has one bit per rule, in
// order of priority; that of a prefix holds the rules of the prefix and of all that contain it,
// so that the longest match tells everything.
func compileRules(id uint32, rules []Rule) (ruleTables, error) {
	t := ruleTables{
		peers:    map[bpf.PrefixKey]bpf.Bitvector{},
		services: map[bpf.ServiceKey]bpf.Bitvector{},
		vectors:  map[bpf.VectorKey]uint64{},
	}
	if len(rules) > maxRules {
		return t, fmt.Errorf("compile %d rules: %w: at most %d per port and direction", len(rules), fault.Exhausted, maxRules)
	}
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	w := vectorWriter{id: id, words: (len(rules) + 63) / 64, tables: t, ids: map[string]uint32{}}

	peers, services := newTrie(w.words), newTrie(w.words)
	allow := make([]uint64, w.words)
	for i, r := range rules {
		if r.Action == Allow {
			allow[i/64] |= 1 << (i % 64)
		}
		for _, p := range peersOf(r) {
			peers.add(peerKey(p), i)
		}
		for _, p := range servicesOf(r) {
			services.add(p, i)
		}
	}
	for word, v := range allow {
		w.put(allowVector, word, v)
	}
	for p, v := range peers.closed() {
		k := bpf.PrefixKey{Prefixlen: uint32(24 + p.bits), Scope: id<<8 | uint32(p.key[0])}
		copy(k.Addr.B[:], p.key[1:])
		t.peers[k] = w.vector(v)
	}
	for p, v := range services.closed() {
		k := bpf.ServiceKey{Prefixlen: uint32(32 + p.bits), Ruleset: id, Protocol: p.key[0], Port: [2]uint8{p.key[1], p.key[2]}}
		t.services[k] = w.vector(v)
	}
	return t, nil
}

// peerKey is family, address: so that both families live in one trie.
func peerKey(p netip.Prefix) trieKey {
	k := trieKey{bits: 8 + p.Bits()}
	k.key[0] = family(p.Addr())
	copy(k.key[1:], p.Masked().Addr().AsSlice())
	return k
}

func peersOf(r Rule) []netip.Prefix {
	if len(r.Peers) > 0 {
		return r.Peers
	}
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// servicesOf returns prefixes over protocol, port or protocol, ICMP type, ICMP code.
func servicesOf(r Rule) []trieKey {
	if r.Protocol == icmp4 || r.Protocol == icmp6 {
		k := trieKey{bits: 8}
		k.key[0] = r.Protocol
		if r.ICMPType >= 0 {
			k.key[1], k.bits = uint8(r.ICMPType), 16
			if r.ICMPCode >= 0 {
				k.key[2], k.bits = uint8(r.ICMPCode), 24
			}
		}
		return []trieKey{k}
	}
	if r.PortFirst == 0 && r.PortLast == 0 {
		k := trieKey{}
		if r.Protocol != 0 {
			k.key[0], k.bits = r.Protocol, 8
		}
		return []trieKey{k}
	}
	protocols := []uint8{r.Protocol}
	if r.Protocol == 0 {
		protocols = portProtocols
	} else if !slices.Contains(portProtocols, r.Protocol) {
		return nil // ports of a protocol that has none match nothing
	}
	var keys []trieKey
	for _, protocol := range protocols {
		for first, last := uint32(r.PortFirst), uint32(r.PortLast); first <= last; {
			size := 16 // the largest aligned block that begins at first and ends within
			if first != 0 {
				size = bits.TrailingZeros32(first)
			}
			for first+1<<size-1 > last {
				size--
			}
			k := trieKey{bits: 24 - size}
			k.key[0] = protocol
			binary.BigEndian.PutUint16(k.key[1:], uint16(first))
			keys = append(keys, k)
			first += 1 << size
		}
	}
	return keys
}

// A vectorWriter gives equal vectors one id.
type vectorWriter struct {
	id     uint32
	words  int
	tables ruleTables
	ids    map[string]uint32
}

func (w *vectorWriter) vector(words []uint64) bpf.Bitvector {
	v := bpf.Bitvector{}
	if len(words) > 0 {
		v.Word0 = words[0]
	}
	raw := make([]byte, 0, 8*len(words))
	for i, word := range words {
		raw = binary.NativeEndian.AppendUint64(raw, word)
		if i > 0 && word != 0 {
			v.Nonzero[i/64] |= 1 << (i % 64)
		}
	}
	id, known := w.ids[string(raw)]
	if !known {
		id = uint32(len(w.ids)) + 1
		w.ids[string(raw)] = id
		for i, word := range words {
			if i > 0 {
				w.put(id, i, word)
			}
		}
	}
	v.Id = id
	return v
}

func (w *vectorWriter) put(vector uint32, word int, v uint64) {
	if v != 0 {
		w.tables.vectors[bpf.VectorKey{Ruleset: w.id, Word: vector<<8 | uint32(word)}] = v
	}
}

// A trieKey is the first bits of key, the others zero.
type trieKey struct {
	key  [17]byte
	bits int
}

func (k trieKey) cut(bits int) trieKey {
	out := trieKey{bits: bits}
	copy(out.key[:], k.key[:(bits+7)/8])
	if bits%8 != 0 {
		out.key[bits/8] &= 0xff << (8 - bits%8)
	}
	return out
}

// A trie collects which rules name which prefix.
type trie struct {
	words   int
	own     map[trieKey][]uint64
	lengths [17*8 + 1]bool
}

func newTrie(words int) *trie { return &trie{words: words, own: map[trieKey][]uint64{}} }

func (t *trie) add(k trieKey, rule int) {
	k = k.cut(k.bits)
	v := t.own[k]
	if v == nil {
		v = make([]uint64, t.words)
		t.own[k] = v
		t.lengths[k.bits] = true
	}
	v[rule/64] |= 1 << (rule % 64)
}

// closed adds to every prefix the rules of the prefixes that contain it.
func (t *trie) closed() map[trieKey][]uint64 {
	byLength := make([][]trieKey, len(t.lengths))
	for k := range t.own {
		byLength[k.bits] = append(byLength[k.bits], k)
	}
	for _, keys := range byLength { // shortest first: the nearest container is complete
		for _, k := range keys {
			for n := k.bits - 1; n >= 0; n-- {
				if !t.lengths[n] {
					continue
				}
				if up := t.own[k.cut(n)]; up != nil {
					for i, word := range up {
						t.own[k][i] |= word
					}
					break
				}
			}
		}
	}
	return t.own
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return 4
	}
	return 6
}
