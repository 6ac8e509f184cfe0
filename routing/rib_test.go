package routing

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A script drives a rib and compares what the sink is told, one fact a line.
type script struct {
	t   *testing.T
	rib *rib
	now time.Time
}

func newScript(t *testing.T, reflectors int) *script {
	s := &script{t: t, rib: newRIB(reflectors), now: time.Unix(1000, 0)}
	s.rib.setImports([]uint32{1})
	return s
}

// on is the path of host h's port p for prefix 10.0.0.n/32; port 0 is its presence.
func on(host, port, n byte) pathKey {
	return pathKey{rd: distinguisher{0, 1, 10, 0, 0, host, 0, port}, prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 32)}
}

func hop(host, port byte) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd00::%x:%x", host, port))
}

func (s *script) tell(from int, keys ...pathKey) {
	for _, k := range keys {
		vni := uint32(1)
		if k.rd.isPresence() {
			vni = presenceVNI
		}
		s.rib.upsert(from, k, path{vni, hop(k.rd[5], k.rd[7])}, s.now)
	}
}

func (s *script) withdraw(from int, keys ...pathKey) {
	for _, k := range keys {
		s.rib.withdraw(from, k, s.now)
	}
}

func (s *script) want(lines ...string) {
	s.t.Helper()
	var got []string
	for _, u := range s.rib.take(maxBatch) {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%d %v: %v", u.Key.VNI, u.Key.Prefix, u.NextHops)))
	}
	slices.Sort(got)
	if diff := cmp.Diff(lines, got); diff != "" {
		s.t.Errorf("told to the sink (-want +got):\n%s", diff)
	}
}

func TestOriginsOfAllReflectorsMerge(t *testing.T) {
	s := newScript(t, 2)
	s.tell(0, on(2, 1, 9), on(3, 1, 9))
	s.tell(1, on(2, 1, 9), on(3, 1, 9))
	s.want("1 10.0.0.9/32: [fd00::2:1 fd00::3:1]")
	s.withdraw(0, on(2, 1, 9))
	s.want() // the other reflector still has it
	s.withdraw(1, on(2, 1, 9))
	s.want("1 10.0.0.9/32: [fd00::3:1]")
	s.withdraw(0, on(3, 1, 9))
	s.withdraw(1, on(3, 1, 9))
	s.want("1 10.0.0.9/32: []")
	if len(s.rib.routes) != 0 {
		t.Errorf("left behind: %v", s.rib.routes)
	}
}

func TestALostReflectorChangesNothingUntilSwept(t *testing.T) {
	s := newScript(t, 1)
	s.tell(0, on(2, 1, 1), on(2, 2, 2))
	s.want("1 10.0.0.1/32: [fd00::2:1]", "1 10.0.0.2/32: [fd00::2:2]")
	s.rib.down(0)
	s.want()
	s.tell(0, on(2, 1, 1))
	s.want()
	if s.rib.adjacencies[0].stale != 1 || s.rib.fresh(0) != 1 {
		t.Errorf("stale %d, fresh %d; want 1 and 1", s.rib.adjacencies[0].stale, s.rib.fresh(0))
	}
	s.rib.sweep(0)
	s.want("1 10.0.0.2/32: []")
	if s.rib.adjacencies[0].stale != 0 {
		t.Errorf("%d stale after a sweep", s.rib.adjacencies[0].stale)
	}
}

func TestALiveReflectorOverrulesAStaleOne(t *testing.T) {
	s := newScript(t, 2)
	s.tell(0, on(2, 1, 1))
	s.tell(1, on(2, 1, 1))
	s.want("1 10.0.0.1/32: [fd00::2:1]")
	s.rib.down(0)
	s.withdraw(1, on(2, 1, 1))
	s.want("1 10.0.0.1/32: []")
}

func TestRoutesOfAnAbsentHostAreKept(t *testing.T) {
	const restart, stale = 120 * time.Second, 20 * time.Second
	s := newScript(t, 1)
	s.tell(0, on(2, 0, 0), on(2, 1, 1), on(2, 2, 2))
	s.want("1 10.0.0.1/32: [fd00::2:1]", "1 10.0.0.2/32: [fd00::2:2]")

	t.Log("the host goes: presence first, then its routes")
	s.withdraw(0, on(2, 0, 0), on(2, 1, 1), on(2, 2, 2))
	s.want()
	s.now = s.now.Add(restart - time.Second)
	s.rib.expireOrphans(s.now, restart, stale)
	s.want()

	t.Log("elsewhere the same address comes up: the absent host is passed over")
	s.tell(0, on(3, 1, 2))
	s.want("1 10.0.0.2/32: [fd00::3:1]")

	t.Log("the host is back with one of two")
	s.tell(0, on(2, 0, 0), on(2, 1, 1))
	s.want()
	if got := s.rib.orphans(); got != 1 {
		t.Errorf("%d orphans, want 1", got)
	}
	s.now = s.now.Add(stale)
	s.rib.expireOrphans(s.now, restart, stale)
	s.want()
	s.withdraw(0, on(3, 1, 2))
	s.want("1 10.0.0.2/32: []")

	t.Log("a present host withdraws what it wants; one away for too long is forgotten")
	s.withdraw(0, on(2, 1, 1))
	s.want("1 10.0.0.1/32: []")
	s.tell(0, on(2, 1, 1))
	s.withdraw(0, on(2, 0, 0), on(2, 1, 1))
	s.want("1 10.0.0.1/32: [fd00::2:1]")
	s.now = s.now.Add(restart)
	s.rib.expireOrphans(s.now, restart, stale)
	s.want("1 10.0.0.1/32: []")
	if len(s.rib.absent)+len(s.rib.routes)+len(s.rib.adjacencies[0].paths) != 0 {
		t.Error("something is left behind")
	}
}

func TestImportsSelectNetworks(t *testing.T) {
	s := newScript(t, 1)
	s.rib.setImports(nil)
	s.tell(0, on(2, 1, 1))
	s.want()
	added, removed := s.rib.setImports([]uint32{1, 1, 7})
	if diff := cmp.Diff([][]uint32{{1, 7}, nil}, [][]uint32{added, removed}); diff != "" {
		t.Errorf("added, removed (-want +got):\n%s", diff)
	}
	s.want("1 10.0.0.1/32: [fd00::2:1]")
	s.rib.setImports([]uint32{7})
	s.want("1 10.0.0.1/32: []")
}

func TestChangesOfOneRouteMergeUntilTaken(t *testing.T) {
	s := newScript(t, 1)
	s.tell(0, on(2, 1, 1))
	s.withdraw(0, on(2, 1, 1))
	s.want()
	for n := range byte(10) {
		s.tell(0, on(2, 1, n))
	}
	if got := len(s.rib.take(4)) + len(s.rib.take(4)) + len(s.rib.take(4)); got != 10 {
		t.Errorf("batches of 4 held %d of 10 updates", got)
	}
}
