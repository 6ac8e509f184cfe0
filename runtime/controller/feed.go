package controller

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"ingot/runtime/group"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// A feed turns the changes of one input into keys of its runner's queue.
type feed struct {
	runner *runner
	input  *Input
	log    *slog.Logger
	// seen is, by UID, the state that each resource of the input was last mapped from. Only the
	// feed's goroutine uses it.
	seen map[string]*resource.Resource
	// listening is closed once the first state is in the queue: every change after it will be heard.
	listening chan struct{}

	mu     sync.Mutex // guards all below
	synced bool       // the first state is in the queue
	at     uint64     // and all changes up to this revision
	poke   func()     // makes the goroutine bring at up to date
}

func newFeed(r *runner, in *Input) *feed {
	return &feed{
		runner: r, input: in, log: r.log.With("input", in.Kind),
		seen: map[string]*resource.Resource{}, listening: make(chan struct{}), poke: func() {},
	}
}

// run follows the input until ctx ends. When the watch breaks it is started again, from the state
// there is then.
func (f *feed) run(ctx context.Context) error {
	cfg := &f.runner.engine.cfg
	for failures := 1; ; failures++ {
		started := time.Now()
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > cfg.BackoffMost {
			failures = 1
		}
		delay := backoff(failures, cfg.BackoffFirst, cfg.BackoffMost)
		f.log.Warn("watch broke", "error", err, "retry_in", delay)
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// follow reads one watch to its end.
func (f *feed) follow(ctx context.Context) error {
	query := f.input.Where
	query.Kind, query.Every = f.input.Kind, true
	w, err := f.runner.engine.store.Watch(ctx, 0, query)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		next, poke := context.WithCancel(ctx)
		f.arrive(w.Revision(), poke)
		batch, err := w.Next(next)
		poke()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.Canceled):
			// poked
		case err != nil:
			return err
		case batch.Reset:
			f.reset(ctx, batch)
		default:
			for _, event := range batch.Events {
				f.event(ctx, event)
			}
		}
	}
}

// arrive notes that all changes up to revision are in the queue; poke makes Next return.
func (f *feed) arrive(revision uint64, poke func()) {
	f.mu.Lock()
	f.at, f.poke = revision, poke
	f.mu.Unlock()
	f.runner.engine.move()
}

// caughtUp reports whether all changes up to revision are in the queue; when not, it has the feed look.
func (f *feed) caughtUp(revision uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.synced && f.at >= revision {
		return true
	}
	f.poke()
	return false
}

// reset takes a whole state: what is not in it is gone.
func (f *feed) reset(ctx context.Context, batch store.Batch) {
	gone := f.seen
	f.seen = make(map[string]*resource.Resource, len(batch.Events))
	for _, event := range batch.Events {
		if old := gone[event.Resource.UID]; old != nil {
			f.seen[old.UID] = old
			delete(gone, old.UID)
		}
		f.event(ctx, event)
	}
	for _, r := range gone {
		f.seen[r.UID] = r
		f.event(ctx, store.Event{Resource: r, Deleted: true})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.synced {
		f.synced = true
		close(f.listening)
	}
}

// event puts the keys that a change concerns into the queue: those of the state before it, too.
func (f *feed) event(ctx context.Context, event store.Event) {
	r := event.Resource
	if old := f.seen[r.UID]; old != nil && f.mapped() {
		f.enqueue(ctx, old)
	}
	f.enqueue(ctx, r)
	if event.Deleted {
		delete(f.seen, r.UID)
	} else {
		f.seen[r.UID] = r
	}
}

func (f *feed) mapped() bool { return f.input.Map != nil || f.input.Select != nil }

// enqueue puts the keys that r concerns into the queue.
func (f *feed) enqueue(ctx context.Context, r *resource.Resource) {
	err := group.Call(func() error {
		primary := f.runner.spec.primary
		switch {
		case primary == "":
			f.runner.queue.add(resource.Key{})
		case f.input.Map != nil:
			for _, key := range f.input.Map(r) {
				f.runner.queue.add(key)
			}
		case f.input.Select == nil:
			f.runner.queue.add(r.Key)
		}
		if f.input.Select == nil {
			return nil
		}
		for _, q := range f.input.Select(r) {
			q.Kind = primary
			page, err := f.runner.engine.store.List(ctx, q)
			if err != nil {
				return err
			}
			for _, found := range page.Items {
				f.runner.queue.add(found.Key)
			}
		}
		return nil
	})
	if err != nil {
		f.log.Error("map input to keys failed", "key", r.Key.String(), "error", err)
		f.runner.fail(r.Key, err)
	}
}
