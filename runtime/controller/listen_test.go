package controller

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
	"ingot/runtime/store/storetest"
)

// late is a store whose watches of one kind start when they may.
type late struct {
	store.Store
	kind resource.Kind
	may  chan struct{}
}

func (s *late) Watch(ctx context.Context, from uint64, queries ...store.Query) (store.Watcher, error) {
	if queries[0].Kind == s.kind {
		<-s.may
	}
	return s.Store.Watch(ctx, from, queries...)
}

func TestNothingIsReconciledBeforeEveryInputIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &late{Store: mem.New(storetest.Schema(), mem.Config{}), kind: storetest.Token, may: make(chan struct{})}
		key := resource.Key{Kind: storetest.Server, Project: "p", Name: "a"}
		def, err := storetest.Schema().Get(storetest.Server)
		if err != nil {
			t.Fatal(err)
		}
		if def.Global {
			key.Project = ""
		}
		if _, err := s.Txn(t.Context(), store.Txn{Ops: []store.Op{{Type: store.Create, Resource: &resource.Resource{Meta: resource.Meta{Key: key}, Spec: def.New()}}}}); err != nil {
			t.Fatal(err)
		}
		runs := 0
		e := New(s, slog.New(slog.DiscardHandler), Config{})
		err = e.Add(Each{
			Name: "c", Primary: storetest.Server,
			Inputs: []Input{{Kind: storetest.Token, Map: func(*resource.Resource) []resource.Key { return nil }}},
			Reconcile: func(context.Context, *ReadWriter, resource.Key) (Result, error) {
				runs++
				return Result{}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		synctest.Wait()
		if runs != 0 {
			t.Errorf("reconciled %d times while an input was not heard", runs)
		}
		close(s.may)
		synctest.Wait()
		if runs != 1 {
			t.Errorf("reconciled %d times, want once", runs)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
