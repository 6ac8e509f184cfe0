package routing

import (
	"context"
	"errors"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// event takes what the library reports, in the order in which it happened. It must not call the
// library, which may be waiting for it.
func (s *Speaker) event(e *api.WatchEventResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if state := e.GetPeer().GetPeer().GetState(); state != nil {
		if n := s.session(state.NeighborAddress); n != nil {
			s.peerState(n, state.SessionState, now)
		}
	}
	for _, p := range e.GetTable().GetPaths() {
		n := s.session(p.NeighborIp)
		if n == nil || !n.established() || p.GetFamily().GetSafi() != api.Family_SAFI_EVPN {
			continue
		}
		if p.Nlri == nil {
			s.endOfRIB(n)
			continue
		}
		s.receive(n, p, now)
	}
	if len(s.rib.dirty) > 0 {
		s.nudge()
	}
}

func (s *Speaker) session(address string) *session {
	for _, n := range s.sessions {
		if n.address == address {
			return n
		}
	}
	return nil
}

func (s *Speaker) endOfRIB(n *session) {
	n.enter(Synced, time.Now())
	s.log.Info("reflector sent its table", "reflector", n.Address, "routes", s.rib.fresh(n.index))
}

// receive notes one path. What the import filter refuses is counted, and takes back what the
// same reflector said of that path before.
func (s *Speaker) receive(n *session, p *api.Path, now time.Time) {
	if p.IsWithdraw {
		s.counters.Withdrawn++
		if key, _, err := decodeKey(p); err == nil {
			s.rib.withdraw(n.index, key, now)
		} else {
			s.counters.RefusedMalformed++
		}
		return
	}
	s.counters.Received++
	key, told, err := decodePath(p, s.cfg)
	switch {
	case err == nil && s.rib.fresh(n.index) >= s.cfg.MaxPrefixes && !s.rib.has(n.index, key):
		s.overflow(n)
		return
	case err == nil:
		s.rib.upsert(n.index, key, told, now)
		return
	case errors.Is(err, errOwn):
		s.counters.RefusedOwn++
	case errors.Is(err, errNextHop):
		s.counters.RefusedNextHop++
	case errors.Is(err, errTarget):
		s.counters.RefusedTarget++
	default:
		s.counters.RefusedMalformed++
	}
	s.rib.withdraw(n.index, key, now)
}

// overflow closes a session that tells too much. What it told is kept as stale.
func (s *Speaker) overflow(n *session) {
	if n.overflowed {
		return
	}
	n.overflowed = true
	n.lastError = "more than the maximum number of prefixes"
	s.counters.MaxPrefixes++
	s.log.Error("reflector exceeds the maximum number of prefixes", "reflector", n.Address, "maximum", s.cfg.MaxPrefixes)
	n.fail()
}

// nudge wakes deliver.
func (s *Speaker) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// deliver hands changes to the sink. The sink's time is not the sessions' time: while it works,
// changes gather in the table, the newest per destination.
func (s *Speaker) deliver(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.cfg.BatchDelay):
		}
		for ctx.Err() == nil {
			s.mu.Lock()
			batch := s.rib.take(maxBatch)
			if len(batch) > 0 {
				s.counters.Batches++
				s.counters.Updates += uint64(len(batch))
			}
			s.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			s.sink(batch)
		}
	}
}

// settleLoop looks after what time alone decides.
func (s *Speaker) settleLoop(ctx context.Context) error {
	ticker := time.NewTicker(min(max(s.cfg.StaleTime/8, 10*time.Millisecond), time.Second))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			s.mu.Lock()
			s.settle(now)
			dirty := len(s.rib.dirty) > 0
			s.mu.Unlock()
			if dirty {
				s.nudge()
			}
		}
	}
}

// settle drops stale paths where somebody else's word can be trusted: those of a reflector that
// is back, has told its table and given the other hosts StaleTime to come back to it (its table
// is empty when it restarted); and those of one that has been away for StaleTime while another
// is settled. With no such reflector everything stays as it is.
func (s *Speaker) settle(now time.Time) {
	s.rib.expireOrphans(now, s.cfg.RestartTime, s.cfg.StaleTime)
	anySettled, owing := false, false
	for _, n := range s.sessions {
		if n.state == Synced && now.Sub(n.up) >= s.cfg.StaleTime {
			n.settled = true
			s.rib.sweep(n.index)
		}
		anySettled = anySettled || n.settled
		owing = owing || n.state == Established
	}
	if !anySettled {
		return
	}
	for _, n := range s.sessions {
		if !n.established() && !n.down.IsZero() && now.Sub(n.down) >= s.cfg.StaleTime {
			s.rib.sweep(n.index)
		}
	}
	if !owing && !isClosed(s.synced) {
		close(s.synced)
		s.log.Info("routing is in sync")
	}
}
