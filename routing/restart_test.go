package routing_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ingot/routing"
	"ingot/test/lab"
)

// synced waits until every speaker has the reflector's table.
func (s *site) synced() {
	s.t.Helper()
	for i := range s.speakers {
		s.waitStatus(i, "synced session", func(st *routing.Status) bool {
			return st.Sessions[0].State == routing.Synced
		})
	}
}

func TestSeveralOriginsOfAPrefixAreSeveralNextHops(t *testing.T) {
	s := newSite(t, 3, nil)
	s.must(s.speakers[0].Announce(s.announcement(0, 1, 100, "10.0.0.9/32"), s.announcement(0, 2, 100, "10.0.0.9/32")))
	s.must(s.speakers[1].Announce(s.announcement(1, 1, 100, "10.0.0.9/32")))
	s.must(s.speakers[2].Import(100))
	s.must(s.speakers[2].Announce())
	s.wait(2, routes{key(100, "10.0.0.9/32"): {s.port(0, 1), s.port(0, 2), s.port(1, 1)}})
	s.must(s.speakers[0].Announce(s.announcement(0, 2, 100, "10.0.0.9/32")))
	s.wait(2, routes{key(100, "10.0.0.9/32"): {s.port(0, 2), s.port(1, 1)}})
	if n := s.speakers[2].Withdrawals(); n != 0 {
		t.Errorf("%d withdrawals while an origin was left", n)
	}
}

func TestAKilledReflectorWithdrawsNothing(t *testing.T) {
	s := newSite(t, 2, func(c *routing.Config) { c.StaleTime = 30 * time.Second })
	a, b := s.speakers[0], s.speakers[1]
	s.must(a.Announce(s.announcement(0, 1, 100, "10.0.0.1/32")))
	s.must(b.Announce(s.announcement(1, 1, 100, "10.0.0.2/32")))
	s.must(a.Import(100))
	s.must(b.Import(100))
	s.wait(0, routes{key(100, "10.0.0.2/32"): {s.port(1, 1)}})
	s.wait(1, routes{key(100, "10.0.0.1/32"): {s.port(0, 1)}})

	s.reflector.BGP.Kill()
	for i := range s.speakers {
		s.waitStatus(i, "session is lost", func(st *routing.Status) bool {
			return st.Sessions[0].State != routing.Synced && st.Sessions[0].Stale == 2 && st.Sessions[0].Flaps == 1
		})
	}
	t.Log("what is announced while the reflector is away arrives when it is back")
	s.must(a.Announce(s.announcement(0, 1, 100, "10.0.0.1/32"), s.announcement(0, 1, 100, "10.0.0.3/32")))
	s.must(s.reflector.RestartBGP(s.ctx))
	s.wait(1, routes{key(100, "10.0.0.1/32"): {s.port(0, 1)}, key(100, "10.0.0.3/32"): {s.port(0, 1)}})
	s.synced()
	for i, speaker := range s.speakers {
		s.waitStatus(i, "routes are fresh again", func(st *routing.Status) bool { return st.Sessions[0].Stale == 0 })
		if n := speaker.Withdrawals(); n != 0 {
			t.Errorf("speaker %d: %d withdrawals", i, n)
		}
	}
	t.Log("and it still withdraws what its owner withdraws")
	s.must(a.Announce())
	s.wait(1, routes{})
}

func TestAKilledSpeakerIsMissedByNobody(t *testing.T) {
	for _, end := range []string{"killed", "stopped"} {
		t.Run(end, func(t *testing.T) {
			s := newSite(t, 2, func(c *routing.Config) { c.ForwardingPreserved = true })
			a, b := s.speakers[0], s.speakers[1]
			s.must(b.Import(100))
			s.must(b.Announce())
			s.must(a.Announce(s.announcement(0, 1, 100, "10.0.0.1/32"), s.announcement(0, 2, 100, "10.0.0.2/32")))
			both := routes{key(100, "10.0.0.1/32"): {s.port(0, 1)}, key(100, "10.0.0.2/32"): {s.port(0, 2)}}
			s.wait(1, both)
			if end == "killed" {
				a.Kill()
			} else {
				s.must(a.Stop(s.ctx))
			}
			s.waitStatus(1, "routes of the absent host are kept", func(st *routing.Status) bool { return st.Orphans == 2 })
			a = s.start(0, func(c *routing.Config) { c.ForwardingPreserved = true })
			s.speakers[0] = a
			s.must(a.Announce(s.announcement(0, 1, 100, "10.0.0.1/32"), s.announcement(0, 3, 100, "10.0.0.3/32")))
			t.Log("the second port did not come back")
			s.wait(1, routes{key(100, "10.0.0.1/32"): {s.port(0, 1)}, key(100, "10.0.0.3/32"): {s.port(0, 3)}})
			if n := b.Withdrawals(); n != 1 {
				t.Errorf("%d withdrawals; want 1, of the port that is gone", n)
			}
		})
	}
}

func TestSyncedComesAfterTheWholeTable(t *testing.T) {
	s := newSite(t, 1, func(c *routing.Config) { c.StaleTime = 100 * time.Millisecond })
	if s.speakers[0].Synced() {
		t.Error("synced before a session was opened")
	}
	s.must(s.speakers[0].Announce())
	s.waitStatus(0, "synced", func(st *routing.Status) bool { return st.Synced })
}

func TestAWrongASNIsToldInTheStatus(t *testing.T) {
	s := newSite(t, 1, func(c *routing.Config) { c.ASN = asn + 1 })
	s.must(s.speakers[0].Announce())
	s.waitStatus(0, "the reason is told", func(st *routing.Status) bool {
		return strings.Contains(st.Sessions[0].LastError, "as number mismatch")
	})
}

func TestAnUnreachableReflectorIsToldInTheStatus(t *testing.T) {
	s := newSite(t, 1, func(c *routing.Config) { c.Reflectors[0].Port = 1 })
	s.must(s.speakers[0].Announce())
	s.waitStatus(0, "the reason is told", func(st *routing.Status) bool {
		return strings.Contains(st.Sessions[0].LastError, "connection refused")
	})
}

func TestSessionsAreProtectedByPasswordAndHopCount(t *testing.T) {
	t.Parallel()
	s := bareSite(t, 2)
	var err error
	s.reflector, err = s.fabric.Spine.StartReflector(s.ctx, lab.ReflectorConfig{
		ASN: asn, Clients: s.clients(), Password: "between-us", MaxHops: 1,
	})
	s.must(err)
	s.speakers = []*lab.Speaker{
		s.start(0, func(c *routing.Config) { c.Reflectors[0].Password, c.Reflectors[0].MaxHops = "between-us", 1 }),
		s.start(1, func(c *routing.Config) { c.Reflectors[0].Password, c.Reflectors[0].MaxHops = "guessed", 1 }),
	}
	for _, speaker := range s.speakers {
		s.must(speaker.Announce())
	}
	s.waitStatus(0, "session is up", func(st *routing.Status) bool { return st.Sessions[0].State == routing.Synced })
	s.waitStatus(1, "session fails", func(st *routing.Status) bool {
		return st.Sessions[0].State == routing.Active && st.Sessions[0].LastError != ""
	})
}

func TestABurstOf20000RoutesConverges(t *testing.T) {
	s := newSite(t, 2, nil)
	a, b := s.speakers[0], s.speakers[1]
	s.must(b.Import(100))
	s.must(b.Announce())
	s.must(a.Announce())
	s.synced()
	const count = 20_000
	announcements := make([]routing.Announcement, count)
	want := routes{}
	for i := range announcements {
		prefix := fmt.Sprintf("10.%d.%d.%d/32", i>>16, i>>8&255, i&255)
		announcements[i] = s.announcement(0, i, 100, prefix)
		want[key(100, prefix)] = []netip.Addr{s.port(0, i)}
	}
	started := time.Now()
	s.must(a.Announce(announcements...))
	err := b.WaitRoutes(s.ctx, func(have map[routing.RouteKey][]netip.Addr) bool { return len(have) == count })
	s.must(err)
	t.Logf("announced in %v", time.Since(started).Round(time.Millisecond))
	s.wait(1, want)
	s.must(a.Announce(announcements[:1]...))
	s.wait(1, routes{key(100, "10.0.0.0/32"): {s.port(0, 0)}})
}
