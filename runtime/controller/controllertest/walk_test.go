package controllertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/storetest"
)

// wires is a fake outside world: a set of names.
type wires struct {
	breaker *Breaker
	mu      sync.Mutex // guards up
	up      map[string]bool
}

func (w *wires) set(name string, up bool) error {
	if err := w.breaker.Act(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if up {
		w.up[name] = true
	} else {
		delete(w.up, name)
	}
	return nil
}

func (w *wires) state() string {
	var names []string
	for name := range w.up {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, "\n")
}

// plug wires each Server and gives it two Tokens. Careless, it writes the second without a look
// whether it did before, and forgets the wire when it dies between the two actions of an end.
func plug(w *wires, careless bool) controller.Controller {
	return controller.Each{
		Name: "plug", Primary: storetest.Server, Workers: 2,
		Inputs:  []controller.Input{{Kind: storetest.Server, Strong: true}},
		Outputs: []controller.Output{{Kind: storetest.Token}},
		Reconcile: func(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
			server, err := rw.Get(ctx, key)
			if errors.Is(err, fault.NotFound) {
				return controller.Result{}, nil
			}
			if err != nil {
				return controller.Result{}, err
			}
			return controller.Result{}, reconcile(ctx, rw, w, server, careless)
		},
	}
}

func reconcile(ctx context.Context, rw *controller.ReadWriter, w *wires, server *resource.Resource, careless bool) error {
	key := server.Key
	if server.Phase == resource.TearingDown {
		if careless {
			if err := rw.RemoveFinalizer(ctx, key); err != nil {
				return err
			}
		}
		for i := range 2 {
			if gone, err := rw.Delete(ctx, token(key, i, "").Key); err != nil || !gone {
				return err
			}
		}
		if err := w.set(key.Name, false); err != nil {
			return err
		}
		return rw.RemoveFinalizer(ctx, key)
	}
	if err := rw.AddFinalizer(ctx, key); err != nil {
		return err
	}
	if err := w.set(key.Name, true); err != nil {
		return err
	}
	for i := range 2 {
		if _, err := rw.Apply(ctx, token(key, i, storetest.Field(server, "v"))); err != nil {
			return err
		}
	}
	return nil
}

func token(key resource.Key, i int, v string) *resource.Resource {
	return storetest.New(storetest.Token, key.Project, fmt.Sprint(key.Name, "-", i), "v", v)
}

func walkOf(careless bool) Walk {
	return Walk{
		Schema: storetest.Schema(),
		World: func(_ *testing.T, b *Breaker) World {
			w := &wires{breaker: b, up: map[string]bool{}}
			return World{Controllers: func() []controller.Controller { return []controller.Controller{plug(w, careless)} }, State: w.state}
		},
		Step: func(random *rand.Rand) store.Txn {
			types := []store.OpType{store.Create, store.Create, store.Update, store.Delete}
			r := storetest.New(storetest.Server, "p", fmt.Sprint("s", random.IntN(3)), "v", fmt.Sprint(random.IntN(3)))
			return store.Txn{Ops: []store.Op{{Type: types[random.IntN(len(types))], Resource: r}}}
		},
	}
}

func TestAControllerThatResumesPasses(t *testing.T) { Run(t, walkOf(false)) }

func TestAControllerThatForgetsIsFound(t *testing.T) {
	w := walkOf(true)
	w.Print, w.Steps = Print, 25
	for seed := uint64(1); seed < 100; seed++ {
		direct, said := w.walk(t, seed, nil)
		disturbed, _ := w.walk(t, seed, said)
		if !slices.Equal(direct, disturbed) {
			return
		}
	}
	t.Error("a controller that lets go before it has cleaned up was not found in 100 walks")
}
