package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ingot/routing"
)

// A SpeakerOrder is one thing to do; each is answered by one SpeakerEvent with a Status. An
// order with neither field asks for the status only.
type SpeakerOrder struct {
	Announce *[]routing.Announcement
	Import   *[]uint32
}

// A SpeakerEvent is what a speaker tells.
type SpeakerEvent struct {
	// At is when it happened, in nanoseconds of Unix time.
	At      int64
	Updates []routing.RouteUpdate `json:",omitempty"`
	Synced  bool                  `json:",omitempty"`
	Status  *routing.Status       `json:",omitempty"`
	Error   string                `json:",omitempty"`
}

// A Speaker is package routing in a process of its own on a host.
type Speaker struct {
	Process *Process
	conn    net.Conn
	answers chan SpeakerEvent

	mu          sync.Mutex // guards what follows
	routes      map[routing.RouteKey][]netip.Addr
	learned     map[routing.RouteKey]time.Time
	withdrawals int
	synced      bool
	changed     chan struct{}
}

// StartSpeaker starts a speaker called name on the host and connects to it.
func (h *Host) StartSpeaker(ctx context.Context, name string, cfg routing.Config) (*Speaker, error) {
	program := filepath.Join(h.Dir, "speaker")
	if _, err := os.Stat(program); errors.Is(err, os.ErrNotExist) {
		if err := buildTool(program, "ingot/test/lab/speaker"); err != nil {
			return nil, err
		}
	}
	raw, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	path, socket := filepath.Join(h.Dir, name+".json"), filepath.Join(h.Dir, name+".sock")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(socket); err != nil {
		return nil, err
	}
	s := &Speaker{
		answers: make(chan SpeakerEvent, 1), changed: make(chan struct{}),
		routes: map[routing.RouteKey][]netip.Addr{}, learned: map[routing.RouteKey]time.Time{},
	}
	if s.Process, err = h.Start(Program{Name: name, Args: []string{program, path, socket}}); err != nil {
		return nil, err
	}
	for s.conn == nil {
		if s.conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to %s (log: %s): %w", name, s.Process.Log, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	go s.read()
	return s, nil
}

// read takes what the speaker tells until it ends.
func (s *Speaker) read() {
	defer close(s.answers)
	for in := json.NewDecoder(s.conn); ; {
		var e SpeakerEvent
		if in.Decode(&e) != nil {
			return
		}
		if e.Status != nil {
			s.answers <- e
			continue
		}
		s.mu.Lock()
		for _, u := range e.Updates {
			if len(u.NextHops) == 0 {
				delete(s.routes, u.Key)
				s.withdrawals++
			} else {
				s.routes[u.Key] = u.NextHops
				s.learned[u.Key] = time.Unix(0, e.At)
			}
		}
		s.synced = s.synced || e.Synced
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
	}
}

func (s *Speaker) order(o SpeakerOrder) (*routing.Status, error) {
	if err := json.NewEncoder(s.conn).Encode(o); err != nil {
		return nil, fmt.Errorf("order %s: %w", s.Process.Name, err)
	}
	e, ok := <-s.answers
	switch {
	case !ok:
		return nil, fmt.Errorf("order %s: it has ended (log: %s)", s.Process.Name, s.Process.Log)
	case e.Error != "":
		return nil, errors.New(e.Error)
	}
	return e.Status, nil
}

// Announce is routing.Speaker.Announce.
func (s *Speaker) Announce(all ...routing.Announcement) error {
	if all == nil {
		all = []routing.Announcement{}
	}
	_, err := s.order(SpeakerOrder{Announce: &all})
	return err
}

// Import is routing.Speaker.Import.
func (s *Speaker) Import(vnis ...uint32) error {
	if vnis == nil {
		vnis = []uint32{}
	}
	_, err := s.order(SpeakerOrder{Import: &vnis})
	return err
}

// Status is routing.Speaker.Status.
func (s *Speaker) Status() (*routing.Status, error) { return s.order(SpeakerOrder{}) }

// Routes is what the speaker's sink was told, as a whole.
func (s *Speaker) Routes() map[routing.RouteKey][]netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.routes)
}

// Learned is when the sink was told of key last; zero when never.
func (s *Speaker) Learned(key routing.RouteKey) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.learned[key]
}

// Withdrawals is how many routes were withdrawn from the sink so far.
func (s *Speaker) Withdrawals() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.withdrawals
}

// Synced is whether routing.Speaker.Synced is closed.
func (s *Speaker) Synced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.synced
}

// WaitRoutes waits until what the sink was told satisfies ok. The map is lent to ok.
func (s *Speaker) WaitRoutes(ctx context.Context, ok func(map[routing.RouteKey][]netip.Addr) bool) error {
	for {
		s.mu.Lock()
		done, changed, count := ok(s.routes), s.changed, len(s.routes)
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for routes on %s: %w (it has %d; log: %s)", s.Process.Name, ctx.Err(), count, s.Process.Log)
		case <-changed:
		}
	}
}

// Kill is kill -9.
func (s *Speaker) Kill() {
	s.Process.Kill()
	s.conn.Close()
}

// Stop ends the speaker as an agent that shuts down does.
func (s *Speaker) Stop(ctx context.Context) error {
	s.conn.Close()
	return s.Process.Wait(ctx)
}
