package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
	"ingot/runtime/store/storetest"
)

// A rig is a store with an engine that runs until stop, or the end of the test.
type rig struct {
	*testing.T
	store  store.Store
	engine *Engine
	stop   func()
}

func newRig(t *testing.T, controllers ...Controller) *rig {
	t.Helper()
	r := &rig{T: t, store: mem.New(storetest.Schema(), mem.Config{})}
	r.start(controllers...)
	return r
}

func (r *rig) start(controllers ...Controller) {
	r.Helper()
	r.engine = New(r.store, slog.New(slog.DiscardHandler), Config{})
	if err := r.engine.Add(controllers...); err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.engine.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.Errorf("run: %v", err)
		}
		r.stop = func() {}
	}
	r.Cleanup(func() { r.stop() })
}

func (r *rig) txn(op store.OpType, res *resource.Resource) {
	r.Helper()
	if _, err := r.store.Txn(r.Context(), store.Txn{Ops: []store.Op{{Type: op, Resource: res}}}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) idle() {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	if err := r.engine.WaitIdle(ctx); err != nil {
		r.Fatalf("%v: %+v", err, r.engine.Status())
	}
}

// list is the names of kind with the field v of each.
func (r *rig) list(kind resource.Kind) string {
	r.Helper()
	page, err := r.store.List(r.Context(), store.Query{Kind: kind})
	if err != nil {
		r.Fatal(err)
	}
	var words []string
	for _, res := range page.Items {
		words = append(words, res.Name+"="+storetest.Field(res, "v"))
	}
	return strings.Join(words, " ")
}

// issuer gives each Server a Token that says its v, and takes it back before the Server goes.
func issuer() Each {
	return Each{
		Name: "issuer", Primary: storetest.Server,
		Inputs:  []Input{{Kind: storetest.Server, Strong: true}},
		Outputs: []Output{{Kind: storetest.Token}},
		Workers: 2,
		Reconcile: func(ctx context.Context, rw *ReadWriter, key resource.Key) (Result, error) {
			server, err := rw.Get(ctx, key)
			if errors.Is(err, fault.NotFound) {
				return Result{}, nil
			}
			if err != nil {
				return Result{}, err
			}
			token := storetest.New(storetest.Token, key.Project, key.Name, "v", storetest.Field(server, "v"))
			if server.Phase == resource.TearingDown {
				if gone, err := rw.Delete(ctx, token.Key); err != nil || !gone {
					return Result{}, err
				}
				return Result{}, rw.RemoveFinalizer(ctx, key)
			}
			if err := rw.AddFinalizer(ctx, key); err != nil {
				return Result{}, err
			}
			_, err = rw.Apply(ctx, token)
			return Result{}, err
		},
	}
}

func TestEachFollowsItsPrimary(t *testing.T) {
	r := newRig(t, issuer())
	server := storetest.New(storetest.Server, "p", "a", "v", "1")
	r.txn(store.Create, server)
	r.idle()
	if got := r.list(storetest.Token); got != "a=1" {
		t.Errorf("tokens after create: %q", got)
	}
	r.txn(store.Update, storetest.New(storetest.Server, "p", "a", "v", "2"))
	r.idle()
	if got := r.list(storetest.Token); got != "a=2" {
		t.Errorf("tokens after update: %q", got)
	}
	before := r.store.Revision()
	r.stop()
	r.start(issuer())
	r.idle()
	if r.store.Revision() != before {
		t.Errorf("a restart wrote %d revisions", r.store.Revision()-before)
	}
	r.txn(store.Delete, server)
	r.idle()
	if got := r.list(storetest.Token) + r.list(storetest.Server); got != "" {
		t.Errorf("left after delete: %q", got)
	}
}

func TestSyncSeesTheWholeSet(t *testing.T) {
	census := Sync{
		Name: "census", Inputs: []Input{{Kind: storetest.Server}}, Outputs: []Output{{Kind: storetest.Zone}},
		Reconcile: func(ctx context.Context, rw *ReadWriter) error {
			servers, err := rw.List(ctx, store.Query{Kind: storetest.Server})
			if err != nil {
				return err
			}
			count := map[string]int{}
			for _, s := range servers {
				count[s.Project]++
			}
			for project, n := range count {
				if _, err := rw.Apply(ctx, storetest.New(storetest.Zone, "", project, "v", fmt.Sprint(n))); err != nil {
					return err
				}
			}
			_, err = rw.Prune(ctx, store.Query{Kind: storetest.Zone})
			return err
		},
	}
	r := newRig(t, census)
	for _, name := range []string{"p/a", "p/b", "q/a"} {
		project, name, _ := strings.Cut(name, "/")
		r.txn(store.Create, storetest.New(storetest.Server, project, name))
	}
	r.idle()
	if got := r.list(storetest.Zone); got != "p=2 q=1" {
		t.Errorf("zones: %q", got)
	}
	r.txn(store.Delete, storetest.New(storetest.Server, "q", "a"))
	r.idle()
	if got := r.list(storetest.Zone); got != "p=2" {
		t.Errorf("zones after the last of q went: %q", got)
	}
}

func TestUndeclaredAccessIsDenied(t *testing.T) {
	var errs []error
	var ran atomic.Bool
	r := newRig(t, Sync{
		Name: "thief", Inputs: []Input{{Kind: storetest.Server}}, Outputs: []Output{{Kind: storetest.Zone}},
		Reconcile: func(ctx context.Context, rw *ReadWriter) error {
			token := storetest.New(storetest.Token, "p", "a")
			server := storetest.New(storetest.Server, "p", "a")
			_, get := rw.Get(ctx, token.Key)
			_, list := rw.List(ctx, store.Query{Kind: storetest.Token})
			_, apply := rw.Apply(ctx, server)
			_, remove := rw.Delete(ctx, server.Key)
			_, txn := rw.Txn(ctx, nil, store.Op{Type: store.Update, Resource: server})
			_, weak := rw.Txn(ctx, nil, store.Op{Type: store.AddFinalizer, Resource: server, Finalizer: "thief"})
			_, other := rw.Txn(ctx, nil, store.Op{Type: store.AddFinalizer, Resource: storetest.New(storetest.Zone, "", "z"), Finalizer: "other"})
			_, compare := rw.Txn(ctx, []store.Compare{{Key: token.Key}})
			errs = []error{get, list, apply, remove, txn, weak, other, compare}
			ran.Store(true)
			return nil
		},
	})
	r.idle()
	if !ran.Load() {
		t.Fatal("a Sync without inputs to see did not run once")
	}
	for i, err := range errs {
		if !errors.Is(err, fault.Denied) {
			t.Errorf("access %d: %v, want denied", i, err)
		}
	}
}

func TestAPanicHurtsItsKeyOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := issuer()
		reconcile := good.Reconcile
		good.Reconcile = func(ctx context.Context, rw *ReadWriter, key resource.Key) (Result, error) {
			if key.Name == "bad" {
				panic("no good")
			}
			return reconcile(ctx, rw, key)
		}
		r := newRig(t, good)
		r.txn(store.Create, storetest.New(storetest.Server, "p", "bad"))
		r.txn(store.Create, storetest.New(storetest.Server, "p", "good", "v", "1"))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := r.list(storetest.Token); got != "good=1" {
			t.Errorf("tokens: %q", got)
		}
		status := r.engine.Status()[0]
		if status.Panics < 5 || status.Panics > 10 || !strings.Contains(status.LastError, "Server/p/bad: panic: no good") {
			t.Errorf("status: %+v", status)
		}
		r.stop()
	})
}
