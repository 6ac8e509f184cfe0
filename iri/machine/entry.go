package machine

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	"google.golang.org/protobuf/proto"

	"ingot/iri/machine/domain"
	"ingot/runtime/fault"
)

// An entry is one machine in the server: its record, what was seen of it, and the wake-up of its
// reconciler. Readers take view and events without a lock; they never wait for a disk.
type entry struct {
	id      string
	store   *store
	changed func(labels map[string]string) // Deps.Changed
	log     *slog.Logger
	durable chan struct{} // closed when the creation was written, or failed
	started atomic.Bool   // its reconciler runs, or ran

	// view is the machine as clients see it, frozen; nil until the machine is durable and after it is gone.
	view   atomic.Pointer[api.Machine]
	events atomic.Pointer[[]event]
	wake   chan struct{} // capacity 1

	mu sync.Mutex // guards what follows; held while a record is written
	// record is replaced, never changed.
	record *record
	gone   bool
	// interrupt ends the pass under way, if there is one.
	interrupt context.CancelFunc
	seen      seen
}

// seen is what the reconciler learned, in memory only.
type seen struct {
	// generation is the last one a pass has begun with.
	generation int64
	have       have
	// conditions are in the order of conditionTypes.
	conditions [conditionCount]condition

	crashes   int
	upSince   time.Time
	notBefore time.Time // no start before, after crashes
	// stopBy is when the guest's time to switch off is over; askAgain when it is asked next.
	stopBy, askAgain time.Time
}

func newEntry(id string, st *store, changed func(map[string]string), log *slog.Logger) *entry {
	e := &entry{id: id, store: st, changed: changed, log: log.With("machine", id), durable: make(chan struct{}), wake: make(chan struct{}, 1)}
	e.events.Store(&[]event{})
	return e
}

// poke lets the reconciler look again, soon.
func (e *entry) poke() { poke(e.wake) }

// poke leaves a token for the reader of c, unless one waits already.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// preempt ends the pass under way and starts a new one: the machine is wanted otherwise.
func (e *entry) preempt() {
	e.mu.Lock()
	if e.interrupt != nil {
		e.interrupt()
	}
	e.mu.Unlock()
	e.poke()
}

func (e *entry) current() *record {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.record
}

func (e *entry) look() seen {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen
}

// change makes a changed copy of the record durable and shows it. change is told the copy, whose
// messages are still the old ones: it replaces them, or reports false to leave things as they are.
func (e *entry) change(change func(*record) bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return fmt.Errorf("machine %s: %w", e.id, fault.NotFound)
	}
	next := *e.record
	if !change(&next) || reflect.DeepEqual(&next, e.record) {
		return nil
	}
	if err := e.store.save(&next); err != nil {
		return fmt.Errorf("machine %s: %w", e.id, err)
	}
	e.record = &next
	e.show()
	return nil
}

// note changes what was seen and shows it.
func (e *entry) note(change func(*seen)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.seen)
	e.show()
}

// show publishes the machine. e.mu is held.
func (e *entry) show() {
	if e.gone {
		return
	}
	next := &api.Machine{
		Metadata: e.record.Metadata, Spec: e.record.Spec, Status: statusOf(e.record, e.seen),
	}
	if last := e.view.Swap(next); last == nil || !proto.Equal(last.Status, next.Status) {
		e.changed(next.Metadata.GetLabels())
	}
}

// tell records an event.
func (e *entry) tell(kind, reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return
	}
	ring, added := appendEvent(*e.events.Load(), event{
		Time: time.Now().Unix(), Type: kind, Reason: reason, Message: message,
	})
	if !added {
		return
	}
	level := slog.LevelInfo
	if kind == warning {
		level = slog.LevelWarn
	}
	e.log.Log(context.Background(), level, "machine event", "reason", reason, "message", message)
	e.events.Store(&ring)
	if err := e.store.saveEvents(e.id, ring); err != nil {
		e.log.Warn("events not saved", "error", err)
	}
}

// condition notes the outcome of one concern; the time changes with the status only.
func (e *entry) condition(kind conditionType, status, reason, message string) {
	e.note(func(s *seen) {
		c := &s.conditions[kind]
		if c.status != status {
			c.since = time.Now()
		}
		c.status, c.reason, c.message = status, reason, message
	})
}

// observe notes the domain as the hypervisor described it.
func (e *entry) observe(info domain.Info, defined bool) have {
	h := have{defined: defined, state: info.State, reason: info.Reason}
	e.note(func(s *seen) { s.have = h })
	return h
}

// remove forgets the machine, on disk and for readers.
func (e *entry) remove() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.store.remove(e.id); err != nil {
		return err
	}
	e.gone = true
	e.view.Store(nil)
	e.changed(e.record.Metadata.GetLabels())
	return nil
}
