package resources

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"ingot/controlplane/api"
	"ingot/runtime/controller"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
	"ingot/test/bench/result"
)

const rounds = 7

// updateWatched is the CPU time of an update, delivery to its watcher included, when 10,000 hosts
// watch their own resources, and when one does.
func updateWatched(ctx context.Context) ([]result.Result, error) {
	const hosts, updates = 10_000, 20_000
	var crowd, alone []float64
	for range rounds {
		for _, one := range []struct {
			watchers int
			runs     *[]float64
		}{{hosts, &crowd}, {1, &alone}} {
			cost, err := updateCost(ctx, hosts, one.watchers, updates)
			if err != nil {
				return nil, err
			}
			*one.runs = append(*one.runs, cost)
		}
	}
	return []result.Result{
		result.New("runtime/update_10k_watches_cpu", "µs", result.AtMost(10), crowd...).Against("the same with 1 watch", alone...),
	}, nil
}

// updateCost is the CPU time per update in µs. Updates go round the first thousand hosts.
func updateCost(ctx context.Context, hosts, watchers, updates int) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	s := mem.New(api.Schema(), mem.Config{})
	defer s.Close()
	if err := fill(ctx, s, hosts); err != nil {
		return 0, err
	}
	for i := range watchers {
		w, err := s.Watch(ctx, 0, store.Query{Kind: api.HostInterface, Index: api.ByHost, Value: host(i)})
		if err != nil {
			return 0, err
		}
		if _, err := w.Next(ctx); err != nil { // the present state
			return 0, err
		}
		following.Go(func() {
			for {
				if _, err := w.Next(ctx); err != nil {
					return
				}
			}
		})
	}
	ops := make([]store.Txn, updates)
	for i := range ops {
		ops[i] = store.Txn{Ops: []store.Op{{Type: store.Update, Resource: hostInterface(i%hosts, i+1)}}}
	}
	runtime.GC()
	before, err := cpuTime()
	if err != nil {
		return 0, err
	}
	for _, tx := range ops {
		if _, err := s.Txn(ctx, tx); err != nil {
			return 0, err
		}
	}
	after, err := cpuTime()
	return float64((after - before).Nanoseconds()) / 1000 / float64(updates), err
}

// list is the time to list 100,000 resources.
func list(ctx context.Context) ([]result.Result, error) {
	s := mem.New(api.Schema(), mem.Config{})
	defer s.Close()
	if err := fill(ctx, s, many); err != nil {
		return nil, err
	}
	var runs []float64
	for range 5 * rounds {
		start := time.Now()
		page, err := s.List(ctx, store.Query{Kind: api.HostInterface})
		took := time.Since(start)
		if err != nil || len(page.Items) != many {
			return nil, fmt.Errorf("list %d of %d: %w", len(page.Items), many, err)
		}
		runs = append(runs, took.Seconds()*1000)
	}
	return []result.Result{result.New("runtime/list_100k", "ms", result.AtMost(2), runs...)}, nil
}

// bytesPerObject is the heap that 100,000 resources take, indexes and history included.
func bytesPerObject(ctx context.Context) ([]result.Result, error) {
	var runs []float64
	for range 3 {
		before := heap()
		s := mem.New(api.Schema(), mem.Config{})
		if err := fill(ctx, s, many); err != nil {
			return nil, err
		}
		runs = append(runs, float64(heap()-before)/many)
		if err := s.Close(); err != nil { // also keeps s alive up to here
			return nil, err
		}
	}
	return []result.Result{result.New("runtime/bytes_per_object", "bytes", result.AtMost(1200), runs...)}, nil
}

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// queue is the time from the start of an engine until each of 100,000 keys was reconciled.
func queue(ctx context.Context) ([]result.Result, error) {
	s := mem.New(api.Schema(), mem.Config{})
	defer s.Close()
	if err := fill(ctx, s, many); err != nil {
		return nil, err
	}
	var runs []float64
	for range rounds {
		took, err := drain(ctx, s)
		if err != nil {
			return nil, err
		}
		runs = append(runs, took.Seconds())
	}
	return []result.Result{result.New("runtime/queue_100k", "s", result.AtMost(1), runs...)}, nil
}

func drain(ctx context.Context, s store.Store) (time.Duration, error) {
	engine := controller.New(s, slog.New(slog.DiscardHandler), controller.Config{})
	if err := engine.Add(controller.Each{
		Name: "reader", Primary: api.HostInterface, Workers: 4,
		Reconcile: func(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
			_, err := rw.Get(ctx, key)
			return controller.Result{}, err
		},
	}); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- engine.Run(ctx) }()
	err := engine.WaitIdle(ctx)
	took := time.Since(start)
	cancel()
	if err == nil {
		err = <-done
	}
	if runs := engine.Status()[0].Runs; err == nil && runs != many {
		err = fmt.Errorf("%d reconciles of %d keys", runs, many)
	}
	return took, err
}
