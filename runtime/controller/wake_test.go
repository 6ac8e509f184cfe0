package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
	"ingot/runtime/store/storetest"
)

// A tally notes which keys were reconciled, and when.
type tally struct {
	mu    sync.Mutex // guards all below
	keys  []string
	times []time.Time
}

func (y *tally) note(key resource.Key) int {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.keys = append(y.keys, key.Name)
	y.times = append(y.times, time.Now())
	return len(y.keys)
}

// take returns the keys since the last take, sorted, each once.
func (y *tally) take() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	keys := slices.Compact(slices.Sorted(slices.Values(y.keys)))
	y.keys = nil
	return strings.Join(keys, " ")
}

// waits are the times between reconciles.
func (y *tally) waits() []time.Duration {
	y.mu.Lock()
	defer y.mu.Unlock()
	var waits []time.Duration
	for i := 1; i < len(y.times); i++ {
		waits = append(waits, y.times[i].Sub(y.times[i-1]))
	}
	return waits
}

// observer notes each Zone it is woken for; run is what it does then, with how often it ran.
func observer(y *tally, run func(n int) (Result, error), inputs ...Input) Each {
	return Each{
		Name: "observer", Primary: storetest.Zone, Inputs: inputs,
		Reconcile: func(_ context.Context, _ *ReadWriter, key resource.Key) (Result, error) {
			n := y.note(key)
			if run == nil {
				return Result{}, nil
			}
			return run(n)
		},
	}
}

// byHost maps a Server to the Zone that its host names.
func byHost(r *resource.Resource) []resource.Key {
	return []resource.Key{{Kind: storetest.Zone, Name: storetest.Field(r, "host")}}
}

func TestAMappedInputWakesThePrimaryItLeavesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &tally{}
		r := newRig(t, observer(y, nil, Input{Kind: storetest.Server, Map: byHost}))
		defer func() { r.stop() }()
		expect := func(want string) {
			t.Helper()
			r.idle()
			if got := y.take(); got != want {
				t.Errorf("woken: %q, want %q", got, want)
			}
		}
		for _, zone := range []string{"z1", "z2", "z3"} {
			r.txn(store.Create, storetest.New(storetest.Zone, "", zone))
		}
		expect("z1 z2 z3")
		r.txn(store.Create, storetest.New(storetest.Server, "p", "a", "host", "z1"))
		expect("z1")
		r.txn(store.Update, storetest.New(storetest.Server, "p", "a", "host", "z2"))
		r.txn(store.Update, storetest.New(storetest.Server, "p", "a", "host", "z3"))
		expect("z1 z2 z3")
		r.txn(store.Delete, storetest.New(storetest.Server, "p", "a"))
		expect("z3")
	})
}

func TestASelectingInputWakesWhatItFinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &tally{}
		c := observer(y, nil, Input{Kind: storetest.Zone, Select: func(zone *resource.Resource) []store.Query {
			return []store.Query{{Index: "host", Value: zone.Name}}
		}})
		c.Primary = storetest.Server
		r := newRig(t, c)
		defer func() { r.stop() }()
		for _, name := range []string{"a z1", "b z2", "c z1"} {
			name, host, _ := strings.Cut(name, " ")
			r.txn(store.Create, storetest.New(storetest.Server, "p", name, "host", host))
		}
		r.idle()
		y.take()
		r.txn(store.Create, storetest.New(storetest.Zone, "", "z1"))
		r.idle()
		if got := y.take(); got != "a c" {
			t.Errorf("woken: %q", got)
		}
	})
}

func TestANarrowedPrimaryWakesForItsSelectionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &tally{}
		c := observer(y, nil, Input{Kind: storetest.Server, Where: store.Query{Index: "host", Value: "h1"}})
		c.Primary = storetest.Server
		r := newRig(t, c)
		defer func() { r.stop() }()
		r.txn(store.Create, storetest.New(storetest.Server, "p", "a", "host", "h1"))
		r.txn(store.Create, storetest.New(storetest.Server, "p", "b", "host", "h2"))
		r.idle()
		if got := y.take(); got != "a" {
			t.Errorf("woken: %q", got)
		}
		r.txn(store.Update, storetest.New(storetest.Server, "p", "a", "host", "h2"))
		r.idle()
		if got := y.take(); got != "a" {
			t.Errorf("woken by what left the selection: %q", got)
		}
	})
}

func TestConflictsAreRetriedAtOnceAndFailuresLater(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want []time.Duration
	}{
		{"conflict", fault.Conflict, []time.Duration{0, 0, 0}},
		{"failure", errors.New("no luck"), []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				y := &tally{}
				r := newRig(t, observer(y, func(n int) (Result, error) {
					if n <= len(tt.want) {
						return Result{}, fmt.Errorf("run %d: %w", n, tt.err)
					}
					return Result{}, nil
				}))
				defer func() { r.stop() }()
				r.txn(store.Create, storetest.New(storetest.Zone, "", "z"))
				r.idle()
				waits := y.waits()
				if len(waits) != len(tt.want) {
					t.Fatalf("waits %v, want about %v", waits, tt.want)
				}
				for i, want := range tt.want {
					if waits[i] > want || waits[i] < want-want/5 {
						t.Errorf("wait %d is %v, want %v less a fifth at most", i, waits[i], want)
					}
				}
			})
		})
	}
}

func TestConflictsForEverBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &tally{}
		r := newRig(t, observer(y, func(int) (Result, error) { return Result{}, fault.Conflict }))
		r.txn(store.Create, storetest.New(storetest.Zone, "", "z"))
		time.Sleep(time.Minute)
		r.stop()
		if n := len(y.waits()); n > 10*conflictsAtOnce {
			t.Errorf("%d runs in a minute", n)
		}
	})
}

func TestRequeueAfterPollsAndIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &tally{}
		r := newRig(t, observer(y, func(int) (Result, error) { return Result{RequeueAfter: time.Minute}, nil }))
		r.txn(store.Create, storetest.New(storetest.Zone, "", "z"))
		r.idle()
		time.Sleep(3*time.Minute + time.Second)
		if diff := cmp.Diff([]time.Duration{time.Minute, time.Minute, time.Minute}, y.waits()); diff != "" {
			t.Errorf("waits (-want +got):\n%s", diff)
		}
		r.txn(store.Update, storetest.New(storetest.Zone, "", "z", "v", "2"))
		r.idle()
		if waits := y.waits(); waits[3] != time.Second {
			t.Errorf("a change was seen after %v, want at once", waits[3])
		}
		r.stop()
	})
}

func TestAKeyRunsOnceAtATimeAndOthersBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		running, most := map[resource.Key]int{}, 0
		r := newRig(t, Each{
			Name: "slow", Primary: storetest.Zone, Workers: 3,
			Reconcile: func(_ context.Context, _ *ReadWriter, key resource.Key) (Result, error) {
				mu.Lock()
				running[key]++
				if running[key] > 1 {
					t.Errorf("%s runs twice at once", key)
				}
				most = max(most, len(running))
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				defer mu.Unlock()
				delete(running, key)
				return Result{}, nil
			},
		})
		for i := range 5 {
			r.txn(store.Create, storetest.New(storetest.Zone, "", fmt.Sprint(i)))
		}
		for i := range 10 {
			time.Sleep(300 * time.Millisecond)
			r.txn(store.Update, storetest.New(storetest.Zone, "", "0", "v", fmt.Sprint(i)))
		}
		r.idle()
		if most != 3 {
			t.Errorf("%d at once, want 3", most)
		}
		r.stop()
	})
}

// A flaky store breaks its first watches after one batch.
type flaky struct {
	store.Store
	breaks int
}

type flakyWatcher struct {
	store.Watcher
	batches int
}

func (f *flaky) Watch(ctx context.Context, from uint64, queries ...store.Query) (store.Watcher, error) {
	w, err := f.Store.Watch(ctx, from, queries...)
	if f.breaks == 0 {
		return w, err
	}
	f.breaks--
	return &flakyWatcher{Watcher: w}, err
}

func (w *flakyWatcher) Next(ctx context.Context) (store.Batch, error) {
	if w.batches++; w.batches > 1 {
		return store.Batch{}, fault.Unavailable
	}
	return w.Watcher.Next(ctx)
}

func TestABrokenWatchIsResumedWithAllThatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &tally{}
		r := &rig{T: t, store: &flaky{Store: mem.New(storetest.Schema(), mem.Config{}), breaks: 1}}
		for _, zone := range []string{"gone", "changed"} {
			r.txn(store.Create, storetest.New(storetest.Zone, "", zone))
		}
		r.start(observer(y, nil))
		synctest.Wait() // the watch broke, and the next one waits
		if got := y.take(); got != "changed gone" {
			t.Errorf("woken at first: %q", got)
		}
		r.txn(store.Delete, storetest.New(storetest.Zone, "", "gone"))
		r.txn(store.Create, storetest.New(storetest.Zone, "", "new"))
		r.idle()
		if got := y.take(); got != "changed gone new" {
			t.Errorf("woken after the gap: %q", got)
		}
		r.stop()
	})
}

func TestWakeReconcilesTheKeyOfTheNamedControllerNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &tally{}
		r := newRig(t, observer(y, func(int) (Result, error) { return Result{RequeueAfter: time.Hour}, nil }))
		defer func() { r.stop() }()
		r.txn(store.Create, storetest.New(storetest.Zone, "", "a"))
		r.txn(store.Create, storetest.New(storetest.Zone, "", "b"))
		r.idle()
		y.take()
		r.engine.Wake("nobody", resource.Key{Kind: storetest.Zone, Name: "b"})
		r.engine.Wake("observer", resource.Key{Kind: storetest.Zone, Name: "a"})
		r.idle()
		if got := y.take(); got != "a" {
			t.Errorf("woken: %q, want a alone", got)
		}
	})
}
