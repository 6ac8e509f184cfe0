package dataplane

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"ingot/dataplane/internal/bpf"
)

// A probe is the first packet of a connection.
type probe struct {
	peer     netip.Addr
	protocol uint8
	port     uint16 // or ICMP type << 8 | code
}

// matches is what spec.go says, read aloud.
func matches(r Rule, p probe) bool {
	if len(r.Peers) > 0 && !slices.ContainsFunc(r.Peers, func(x netip.Prefix) bool { return x.Contains(p.peer) }) {
		return false
	}
	if r.Protocol != 0 && r.Protocol != p.protocol {
		return false
	}
	if r.Protocol == icmp4 || r.Protocol == icmp6 {
		return r.ICMPType < 0 || r.ICMPType == int16(p.port>>8) && (r.ICMPCode < 0 || r.ICMPCode == int16(p.port&255))
	}
	if r.PortFirst == 0 && r.PortLast == 0 {
		return true
	}
	return slices.Contains(portProtocols, p.protocol) && r.PortFirst <= p.port && p.port <= r.PortLast
}

func evaluate(rules []Rule, p probe) bool {
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, r := range rules {
		if matches(r, p) {
			return r.Action == Allow
		}
	}
	return false
}

// lookup does with the tables what bpf/lib/policy.h does with the maps.
func lookup(t ruleTables, p probe) bool {
	var peer, service *bpf.Bitvector
	for n := p.peer.BitLen(); n >= 0 && peer == nil; n-- {
		masked, _ := p.peer.Prefix(n)
		if v, ok := t.peers[bpf.PrefixKey{Prefixlen: uint32(32 + n), Scope: scope(1, p.peer), Addr: addr(masked.Addr())}]; ok {
			peer = &v
		}
	}
	whole := trieKey{bits: 24, key: [17]byte{p.protocol, byte(p.port >> 8), byte(p.port)}}
	for n := 24; n >= 0 && service == nil; n-- {
		k := whole.cut(n)
		if v, ok := t.services[bpf.ServiceKey{Prefixlen: uint32(32 + n), Ruleset: 1, Protocol: k.key[0], Port: [2]uint8{k.key[1], k.key[2]}}]; ok {
			service = &v
		}
	}
	if peer == nil || service == nil {
		return false
	}
	word := func(id uint32, n int) uint64 { return t.vectors[bpf.VectorKey{Ruleset: 1, Word: id<<8 | uint32(n)}] }
	if both := peer.Word0 & service.Word0; both != 0 {
		return word(allowVector, 0)>>bits.TrailingZeros64(both)&1 == 1
	}
	for n := 1; n < 256; n++ {
		if peer.Nonzero[n/64]&service.Nonzero[n/64]>>(n%64)&1 == 0 {
			continue
		}
		if both := word(peer.Id, n) & word(service.Id, n); both != 0 {
			return word(allowVector, n)>>bits.TrailingZeros64(both)&1 == 1
		}
	}
	return false
}

var (
	someAddr = rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.Bool().Draw(t, "v6") {
			return netip.AddrFrom16([16]byte{0: 0xfd, 14: rapid.Byte().Draw(t, "a"), 15: rapid.ByteRange(0, 3).Draw(t, "b")})
		}
		return netip.AddrFrom4([4]byte{10, 0, rapid.ByteRange(0, 3).Draw(t, "a"), rapid.Byte().Draw(t, "b")})
	})
	someProtocol = rapid.SampledFrom([]uint8{1, 6, 17, 47, 58, 132})
	somePort     = rapid.OneOf(rapid.Uint16(), rapid.Uint16Range(1, 20))
	someProbe    = rapid.Custom(func(t *rapid.T) probe {
		p := probe{someAddr.Draw(t, "peer"), someProtocol.Draw(t, "protocol"), somePort.Draw(t, "port")}
		if p.protocol == 47 {
			p.port = 0
		} else if p.protocol == icmp4 || p.protocol == icmp6 {
			p.port = p.port & 0x0303
		}
		return p
	})
	someRule = rapid.Custom(func(t *rapid.T) Rule {
		r := Rule{
			Action:   rapid.SampledFrom([]Action{Allow, Deny}).Draw(t, "action"),
			Priority: rapid.Uint32Range(0, 3).Draw(t, "priority"),
			Protocol: rapid.OneOf(rapid.Just(uint8(0)), someProtocol).Draw(t, "protocol"),
			ICMPType: rapid.Int16Range(-1, 3).Draw(t, "type"), ICMPCode: rapid.Int16Range(-1, 3).Draw(t, "code"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "peers") {
			a := someAddr.Draw(t, "peer")
			p, _ := a.Prefix(rapid.IntRange(0, a.BitLen()).Draw(t, "bits"))
			r.Peers = append(r.Peers, p)
		}
		if rapid.Bool().Draw(t, "ports") {
			r.PortFirst, r.PortLast = somePort.Draw(t, "first"), somePort.Draw(t, "last")
			if r.PortFirst > r.PortLast {
				r.PortFirst, r.PortLast = r.PortLast, r.PortFirst
			}
		}
		return r
	})
)

func TestCompiledRulesDecideAsTheRulesRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(someRule, 0, 200).Draw(t, "rules")
		tables, err := compileRules(1, rules)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			p := someProbe.Draw(t, "probe")
			if got, want := lookup(tables, p), evaluate(rules, p); got != want {
				t.Fatalf("%+v: allowed %v, want %v", p, got, want)
			}
		}
	})
}

// packet is the probe as machine 1 sends it to the peer.
func (p probe) packet() []byte {
	src := "10.0.0.1"
	if p.peer.Is6() {
		src = "fd01::1"
	}
	body := raw(p.protocol, make([]byte, 20)...)
	switch {
	case p.protocol == icmp4 || p.protocol == icmp6:
		body.data[0], body.data[1] = byte(p.port>>8), byte(p.port)
	case slices.Contains(portProtocols, p.protocol):
		binary.BigEndian.PutUint16(body.data[2:], p.port)
		body.data[12] = 5 << 4
	}
	return ip(src, p.peer.String(), body)
}

func TestProgramsDecideAsTheRulesRead(t *testing.T) {
	w := newWorkbench(t)
	w.remote(7, "0.0.0.0/0", 2)
	w.remote(7, "::/0", 2)
	seed := 0
	for _, size := range []int{3, 40, 300} {
		rules := rapid.SliceOfN(someRule, size, size).Example(seed)
		seed++
		a := w.port(1, 7, Policy{Egress: RuleSet{Enforced: true, Rules: rules}})
		for range 60 {
			p := someProbe.Example(seed)
			seed++
			foreign := p.peer.Is4() && p.protocol == icmp6 || p.peer.Is6() && p.protocol == icmp4
			if foreign || p.peer == netip.MustParseAddr("10.0.0.1") {
				continue
			}
			r := w.sends(a, p.packet())
			if got, want := r.action == actionRedirect, evaluate(rules, p); got != want {
				t.Errorf("%d rules, %+v: allowed %v, want %v; drops %v", size, p, got, want, r.drops)
			}
		}
	}
}
