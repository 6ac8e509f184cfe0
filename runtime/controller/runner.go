package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ingot/runtime/fault"
	"ingot/runtime/group"
	"ingot/runtime/resource"
)

// conflictsAtOnce is how often in a row a conflict is retried without back-off.
const conflictsAtOnce = 10

// A runner runs one controller: a feed for each input turns changes into keys, workers reconcile them.
type runner struct {
	engine *Engine
	spec   *spec
	log    *slog.Logger
	queue  *queue
	feeds  []*feed

	mu     sync.Mutex // guards status
	status Status
}

func newRunner(e *Engine, s *spec) *runner {
	r := &runner{
		engine: e, spec: s, log: e.log.With("controller", s.name), queue: newQueue(s.workers),
		status: Status{Name: s.name},
	}
	for i := range s.inputs {
		r.feeds = append(r.feeds, newFeed(r, &s.inputs[i]))
	}
	if s.primary == "" {
		r.queue.add(resource.Key{}) // a Sync runs once even when there is nothing
	}
	return r
}

// start starts the goroutines of the controller.
func (r *runner) start(g *group.Group) {
	for _, f := range r.feeds {
		g.Go(r.spec.name+" watch of "+string(f.input.Kind), f.run)
	}
	for range r.spec.workers {
		g.Go(r.spec.name, r.work)
	}
}

// idle reports whether nothing is left to do up to revision.
func (r *runner) idle(revision uint64) bool {
	caughtUp := true
	for _, f := range r.feeds {
		caughtUp = f.caughtUp(revision) && caughtUp // ask all: those that are behind look at the store
	}
	waiting, polls, running := r.queue.depth()
	return caughtUp && waiting == polls && running == 0
}

// work reconciles keys until ctx ends. It begins when all feeds listen: what a reconcile reads may
// be gone before a feed hears of it for the first time, and then nothing would wake the key again.
func (r *runner) work(ctx context.Context) error {
	for _, f := range r.feeds {
		select {
		case <-f.listening:
		case <-ctx.Done():
			return nil
		}
	}
	for {
		it, err := r.queue.next(ctx)
		if err != nil {
			return nil
		}
		r.reconcile(ctx, it)
		r.engine.move()
	}
}

func (r *runner) reconcile(ctx context.Context, it *item) {
	rw := &ReadWriter{store: r.engine.store, spec: r.spec}
	var result Result
	err := group.Call(func() (err error) {
		result, err = r.spec.reconcile(ctx, rw, it.key)
		return err
	})
	if ctx.Err() != nil {
		r.queue.done(it, 0, false) // cut short: whatever it said, it says nothing of the world
		return
	}
	delay, poll := time.Duration(-1), false
	switch {
	case err == nil:
		it.failures, it.conflicts = 0, 0
		if result.RequeueAfter > 0 {
			delay, poll = result.RequeueAfter, true
		}
	case errors.Is(err, fault.Conflict) && it.conflicts < conflictsAtOnce:
		it.conflicts++
		delay = 0
	default:
		it.failures++
		delay = backoff(it.failures, r.engine.cfg.BackoffFirst, r.engine.cfg.BackoffMost)
		r.report(it, err, delay)
	}
	r.count(it.key, err)
	r.queue.done(it, delay, poll)
}

// report logs a failure: quietly until the third in a row, panics always.
func (r *runner) report(it *item, err error, delay time.Duration) {
	level := slog.LevelDebug
	if it.failures >= 3 {
		level = slog.LevelWarn
	}
	attrs := []any{"key", keyText(it.key), "error", err, "failures", it.failures, "retry_in", delay}
	var p *group.Panic
	if errors.As(err, &p) {
		level = slog.LevelError
		attrs[3] = fmt.Sprint(p.Value)
		attrs = append(attrs, "stack", string(p.Stack))
	}
	r.log.Log(context.Background(), level, "reconcile failed", attrs...)
}

// keyText is "all" for the one key of a Sync.
func keyText(key resource.Key) string {
	if key == (resource.Key{}) {
		return "all"
	}
	return key.String()
}
