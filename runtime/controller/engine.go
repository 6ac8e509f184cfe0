package controller

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"ingot/runtime/fault"
	"ingot/runtime/group"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Config tunes an engine; its zero value is the default.
type Config struct {
	// BackoffFirst and BackoffMost bound the wait after a failure, which doubles; 0: 100 ms and 1 min.
	BackoffFirst, BackoffMost time.Duration
}

// An Engine runs controllers over one store.
type Engine struct {
	store store.Store
	log   *slog.Logger
	cfg   Config

	mu      sync.Mutex // guards all below
	runners []*runner  // in order of name
	started bool
	moved   chan struct{} // closed and replaced when a runner has done something; nil: nobody waits
}

// New returns an engine without controllers.
func New(s store.Store, log *slog.Logger, cfg Config) *Engine {
	if cfg.BackoffFirst == 0 {
		cfg.BackoffFirst = 100 * time.Millisecond
	}
	if cfg.BackoffMost == 0 {
		cfg.BackoffMost = time.Minute
	}
	return &Engine{store: s, log: log, cfg: cfg}
}

// Add registers controllers, before Run. Errors: fault.Invalid for a wrong declaration, a name used
// twice, an unknown kind or index, or an exclusive output that another controller has too.
func (e *Engine) Add(controllers ...Controller) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.started {
		return fmt.Errorf("add controllers to a running engine: %w", fault.Invalid)
	}
	for _, c := range controllers {
		s, err := c.spec()
		if err != nil {
			return err
		}
		if err := e.check(&s); err != nil {
			return err
		}
		e.runners = append(e.runners, newRunner(e, &s))
	}
	slices.SortFunc(e.runners, func(a, b *runner) int {
		return cmp.Compare(a.spec.name, b.spec.name)
	})
	return nil
}

// check compares s with the controllers there are, and its kinds with the store.
func (e *Engine) check(s *spec) error {
	for _, other := range e.runners {
		if other.spec.name == s.name {
			return s.invalid("is there twice")
		}
		for _, out := range s.outputs {
			for _, theirs := range other.spec.outputs {
				if out.Kind == theirs.Kind && (out.Mode == Exclusive || theirs.Mode == Exclusive) {
					return s.invalid("writes %s, as %s does, and not both share it", out.Kind, other.spec.name)
				}
			}
		}
	}
	var queries []store.Query
	for _, in := range s.inputs {
		q := in.Where
		q.Kind = in.Kind
		queries = append(queries, q)
	}
	for _, out := range s.outputs {
		queries = append(queries, store.Query{Kind: out.Kind})
	}
	for _, q := range queries {
		q.Limit = 1
		if _, err := e.store.List(context.Background(), q); err != nil {
			return s.invalid("declares what the store does not know: %v", err)
		}
	}
	return nil
}

// Run runs the controllers until ctx ends; it returns nil then.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	if e.started {
		e.mu.Unlock()
		return fmt.Errorf("run engine twice: %w", fault.Invalid)
	}
	e.started = true
	runners := e.runners
	e.mu.Unlock()
	g := group.New(ctx)
	for _, r := range runners {
		r.start(g)
	}
	g.Go("engine", func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("run controllers: %w", err)
	}
	return nil
}

// WaitIdle returns when every controller has seen all of the store and none has a key running, due
// or in back-off. Keys that wait because of RequeueAfter count as idle.
func (e *Engine) WaitIdle(ctx context.Context) error {
	for {
		e.mu.Lock()
		if e.moved == nil {
			e.moved = make(chan struct{})
		}
		moved, runners := e.moved, e.runners
		e.mu.Unlock()
		revision, idle := e.store.Revision(), true
		for _, r := range runners {
			idle = r.idle(revision) && idle
		}
		if idle && e.store.Revision() == revision {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for idle controllers: %w", ctx.Err())
		}
	}
}

// Wake has a controller reconcile key now: what it watches outside of the store has changed there.
// A name that no controller has wakes nothing.
func (e *Engine) Wake(controller string, key resource.Key) {
	e.mu.Lock()
	runners := e.runners
	e.mu.Unlock()
	for _, r := range runners {
		if r.spec.name == controller {
			r.queue.add(key)
		}
	}
}

// move tells those who wait for idle to look again.
func (e *Engine) move() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.moved != nil {
		close(e.moved)
		e.moved = nil
	}
}
