package machine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"ingot/iri/machine/domain"
	"ingot/iri/machine/image"
	"ingot/runtime/fault"
)

const (
	// resync is how often a machine is looked at without a cause, a lost event notwithstanding.
	resync = time.Minute
	// askAgain is how often a guest is asked to switch off: early in boot it does not listen.
	askAgain = 5 * time.Second
	// stopPoll is how often a stopping domain is looked at, should its event be lost.
	stopPoll = time.Second
)

// errPreempted ends a pass because the machine is wanted otherwise; the next is due at once.
var errPreempted = errors.New("preempted")

// reconcileUntil runs passes over one machine until it is gone or ctx ends.
func (s *Server) reconcileUntil(ctx context.Context, e *entry) {
	delay := s.cfg.RetryMin
	for failures := 0; ; {
		wait, err := s.contain(ctx, e)
		if e.view.Load() == nil || ctx.Err() != nil {
			return
		}
		switch {
		case err == nil:
			failures, delay = 0, s.cfg.RetryMin
		case errors.Is(err, errPreempted):
			wait = 0
		default:
			failures++
			wait = s.retryAfter(err, delay)
			delay = min(2*delay, s.cfg.RetryMax)
			if failures >= 3 {
				e.log.Warn("machine not reconciled", "error", err, "attempts", failures, "retry", wait)
			} else {
				e.log.Debug("machine not reconciled", "error", err, "retry", wait)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-e.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// retryAfter is the back-off, a fifth of it by chance; an image says itself when it may be tried.
func (s *Server) retryAfter(err error, delay time.Duration) time.Duration {
	var pull *image.PullError
	if errors.As(err, &pull) {
		return max(delay, time.Until(pull.RetryAt))
	}
	return delay + time.Duration(rand.Int64N(int64(delay/5)+1))
}

// contain runs one pass, which a change of intent may end early, and turns a panic into an error.
func (s *Server) contain(ctx context.Context, e *entry) (wait time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.mu.Lock()
	e.interrupt = cancel
	e.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			e.log.Error("machine reconciler panicked", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("reconcile machine %s: panic: %v", e.id, p)
		}
	}()
	wait, err = s.pass(ctx, e)
	if err != nil && ctx.Err() != nil {
		return 0, errPreempted
	}
	return wait, err
}

// pass takes the machine one plan further and says when to look again.
func (s *Server) pass(ctx context.Context, e *entry) (time.Duration, error) {
	r := e.current()
	e.note(func(sn *seen) { sn.generation = r.Metadata.GetGeneration() })
	h, err := s.ask(ctx, e)
	if err != nil {
		// The ports of a machine that has been made go on without the hypervisor, and so do their rules.
		if len(r.Ports) > 0 && !r.deleting() {
			err = errors.Join(err, s.ensurePorts(ctx, e, r))
		}
		return 0, err
	}
	if err := s.settle(e, r, h); err != nil {
		return 0, err
	}
	r = e.current()
	for _, a := range plan(r, h) {
		wait, err := s.act(ctx, e, r, h, a)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", a, err)
		}
		if wait > 0 {
			return wait, nil
		}
		r = e.current()
	}
	return resync, nil
}

// ask looks at the domain.
func (s *Server) ask(ctx context.Context, e *entry) (have, error) {
	info, err := s.hypervisor.Get(ctx, e.id)
	switch {
	case errors.Is(err, fault.NotFound):
		return e.observe(domain.Info{}, false), nil
	case err != nil:
		if ctx.Err() == nil {
			e.condition(domainReady, isUnknown, "HypervisorUnreachable", err.Error())
		}
		return have{}, err
	}
	return e.observe(info, true), nil
}

// settle writes down how the domain came to its state, before anything is done about it.
func (s *Server) settle(e *entry, r *record, h have) error {
	run, end := account(r.Run, h)
	if end == guestOff && (r.deleting() || !r.wantsOn()) {
		end = stopped
	}
	staysOff := end == guestOff && !s.cfg.RestartGuestPoweroff
	if err := e.change(func(r *record) bool {
		r.Run = run
		r.GuestOff = r.GuestOff && !h.active() || staysOff
		return true
	}); err != nil {
		return err
	}
	switch end {
	case guestOff:
		e.tell(normal, "GuestPoweredOff", "the guest switched the machine off")
	case crashed:
		s.noteCrash(e, h.reason)
	case interrupted:
		e.tell(warning, "Interrupted", "the machine went away with its host or hypervisor")
	case stopped:
		e.tell(normal, "Stopped", "the machine was stopped")
	}
	e.note(func(sn *seen) {
		if h.active() && sn.upSince.IsZero() {
			sn.upSince = time.Now()
		}
		if !h.active() {
			sn.upSince, sn.stopBy, sn.askAgain = time.Time{}, time.Time{}, time.Time{}
		}
	})
	s.judge(e, h)
	return nil
}

// noteCrash delays the next start, longer with each crash in a row.
func (s *Server) noteCrash(e *entry, reason domain.Reason) {
	var delay time.Duration
	e.note(func(sn *seen) {
		if !sn.upSince.IsZero() && time.Since(sn.upSince) >= s.cfg.CrashMax {
			sn.crashes = 0
		}
		delay = s.cfg.CrashMax
		if sn.crashes < 16 {
			delay = min(time.Second<<sn.crashes, s.cfg.CrashMax)
		}
		sn.crashes++
		sn.notBefore = time.Now().Add(delay)
	})
	e.tell(warning, "Crashed", "the machine ended: %s; it starts again", reason)
}

// judge reports on the domain as it is.
func (s *Server) judge(e *entry, h have) {
	r := e.current()
	switch {
	case h.active() && h.state == domain.Paused:
		e.condition(domainReady, isFalse, "Paused", "the domain is paused: "+h.reason.String())
	case h.active():
		e.condition(domainReady, isTrue, "Running", "")
	case h.defined && r.GuestOff:
		e.condition(domainReady, isTrue, "GuestPoweredOff", "the guest switched itself off; set the power again to start it")
	case h.defined && !r.wantsOn():
		e.condition(domainReady, isTrue, "PoweredOff", "")
	case e.look().conditions[domainReady].status != isFalse: // else it says why already
		e.condition(domainReady, isFalse, "NotStarted", "")
	}
}
