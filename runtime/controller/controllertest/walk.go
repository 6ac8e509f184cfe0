// Package controllertest owns the test that every controller must pass: a walk of random steps,
// once undisturbed and once with the engine killed between any two actions and started again, has
// to end in the same state.
package controllertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"ingot/runtime/controller"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
)

// A Walk says what is tested. All runs in a synctest bubble: time passes only while all wait.
type Walk struct {
	Schema *resource.Schema
	// World makes what one walk needs beside the store. Every action outside the store has to ask
	// the breaker first.
	World func(t *testing.T, b *Breaker) World
	// Step draws what a user does next. It depends on random alone; what the store refuses, it
	// refuses in both walks.
	Step func(random *rand.Rand) store.Txn
	// Steps are the steps of a walk and Walks how many are made; 0: 25 and 20.
	Steps, Walks int
	// Seed, when not 0, is that of the only walk: a failed test prints it.
	Seed uint64
	// Print is a resource as text to compare, "" to leave it out; nil: Print of this package.
	Print func(r *resource.Resource) string
}

// A World is what controllers work on.
type World struct {
	// Controllers makes them anew, as a restart does.
	Controllers func() []controller.Controller
	// State, when not nil, is what there is outside of the store, as text to compare.
	State func() string
}

// Run makes the walks. A failure prints the seed and the steps.
func Run(t *testing.T, w Walk) {
	t.Helper()
	if w.Steps == 0 {
		w.Steps = 25
	}
	if w.Print == nil {
		w.Print = Print
	}
	if w.Walks == 0 {
		w.Walks = 20
	}
	seeds := []uint64{w.Seed}
	if w.Seed == 0 {
		seeds = make([]uint64, w.Walks)
		for i := range seeds {
			seeds[i] = rand.Uint64()
		}
	}
	for _, seed := range seeds {
		ok := t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			direct, said := w.walk(t, seed, nil)
			disturbed, _ := w.walk(t, seed, said)
			if diff := cmp.Diff(direct, disturbed); diff != "" {
				t.Errorf("state without and with restarts (-without +with):\n%s\nsteps:\n%s", diff, strings.Join(said, "\n"))
			}
		})
		if !ok {
			return
		}
	}
}

// walk returns the state at the end and what the store said to each step. With want it disturbs the
// controllers, and a step that the store answers in another way is repeated once they are idle.
func (w *Walk) walk(t *testing.T, seed uint64, want []string) (state, said []string) {
	synctest.Test(t, func(t *testing.T) {
		steps := rand.New(rand.NewPCG(seed, 1))
		b := &Breaker{random: rand.New(rand.NewPCG(seed, 2))}
		s := mem.New(w.Schema, mem.Config{})
		defer s.Close()
		world := w.World(t, b)
		life := start(t, s, b, world)
		defer func() { life.end() }()
		for i := range w.Steps {
			tx := w.Step(steps)
			if want != nil {
				b.arm()
			}
			answer := do(t, s, tx)
			for want != nil && life.settle(b) {
				life = start(t, s, b, world)
			}
			if want == nil {
				life.idle()
			} else if answer != want[i] {
				answer = do(t, s, tx)
				life.idle()
			}
			if want != nil && answer != want[i] {
				t.Fatalf("step %d: %s, without restarts it was %s", i, answer, want[i])
			}
			said = append(said, answer)
		}
		state = w.state(t, s, world)
	})
	return state, said
}

// do makes one step of a user; the answer says what and with which outcome.
func do(t *testing.T, s store.Store, tx store.Txn) string {
	var words []string
	for _, op := range tx.Ops {
		words = append(words, op.Type.String()+" "+op.Resource.Key.String())
	}
	outcome := "ok"
	if _, err := s.Txn(t.Context(), tx); err != nil {
		outcome = err.Error()
	}
	return strings.Join(words, ", ") + ": " + outcome
}

// state is all there is, in order.
func (w *Walk) state(t *testing.T, s store.Store, world World) []string {
	var lines []string
	for _, kind := range w.Schema.Kinds() {
		page, err := s.List(t.Context(), store.Query{Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Items {
			if line := w.Print(r); line != "" {
				lines = append(lines, line)
			}
		}
	}
	if world.State != nil {
		lines = append(lines, strings.Split(world.State(), "\n")...)
	}
	return lines
}

// Print is all of r but what differs from one walk to the next: UID, revision, generation, time.
func Print(r *resource.Resource) string {
	spec, err := protojson.Marshal(r.Spec)
	if err != nil {
		return fmt.Sprintf("%s: %v", r.Key, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, spec); err != nil {
		return fmt.Sprintf("%s: %v", r.Key, err)
	}
	phase := "running"
	if r.Phase == resource.TearingDown {
		phase = "tearing down"
	}
	return fmt.Sprintf("%s owner=%q %s finalizers=%v labels=%v annotations=%v %s",
		r.Key, r.Owner, phase, slices.Sorted(slices.Values(r.Finalizers)), r.Labels, r.Annotations, compact.String())
}

// A life is one engine, from start to end.
type life struct {
	t      *testing.T
	engine *controller.Engine
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, s store.Store, b *Breaker, world World) *life {
	ctx, cancel := context.WithCancel(context.Background())
	b.live(cancel)
	l := &life{t: t, cancel: cancel, done: make(chan error, 1)}
	l.engine = controller.New(&brittle{Store: s, breaker: b}, slog.New(slog.NewTextHandler(io.Discard, nil)), controller.Config{})
	if err := l.engine.Add(world.Controllers()...); err != nil {
		t.Fatal(err)
	}
	go func() { l.done <- l.engine.Run(ctx) }()
	return l
}

// end stops the engine.
func (l *life) end() {
	l.cancel()
	if err := <-l.done; err != nil {
		l.t.Errorf("run: %v", err)
	}
}

// idle waits until the controllers have nothing to do.
func (l *life) idle() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
	defer cancel()
	if err := l.engine.WaitIdle(ctx); err != nil {
		l.t.Fatalf("%v: %+v", err, l.engine.Status())
	}
}

// settle waits until the controllers are idle or the breaker has struck; it reports, and ends the
// engine, when it has.
func (l *life) settle(b *Breaker) bool {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(b.context(), 24*time.Hour)
	defer cancel()
	err := l.engine.WaitIdle(ctx)
	switch {
	case b.struck():
		l.end()
		return true
	case errors.Is(err, context.DeadlineExceeded):
		l.t.Fatalf("%v: %+v", err, l.engine.Status())
	}
	return false
}
