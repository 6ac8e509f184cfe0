// Package resources measures the store and the controller engine, with the resources of the control
// plane: HostInterfaces, of which a host watches its own.
package resources

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/test/bench/result"
)

// Benches are the benchmarks of this package.
func Benches() []result.Bench {
	return []result.Bench{
		{Names: []string{"runtime/durable_creates_16"}, Run: durableCreates},
		{Names: []string{"runtime/update_10k_watches_cpu"}, Run: updateWatched},
		{Names: []string{"runtime/list_100k"}, Run: list},
		{Names: []string{"runtime/bytes_per_object"}, Run: bytesPerObject},
		{Names: []string{"runtime/queue_100k"}, Run: queue},
	}
}

const many = 100_000

// hostInterface is a resource that takes about 370 bytes encoded, as one of a host with ten.
func hostInterface(i, version int) *resource.Resource {
	uid := fmt.Sprintf("6f1c8f5e-91f2-4a5e-9c3e-%012d", i)
	return &resource.Resource{
		Meta: resource.Meta{
			Key:    resource.Key{Kind: api.HostInterface, Project: fmt.Sprintf("project-%02d", i%50), Name: uid},
			Labels: map[string]string{"machine": fmt.Sprintf("machine-%06d", i)},
		},
		Spec: &v1alpha1.HostInterfaceSpec{
			Host: host(i / 10), Namespace: fmt.Sprintf("project-%02d", i%50), Name: fmt.Sprintf("machine-%06d-primary", i), Uid: uid,
			Vni: uint32(version), Mac: fmt.Sprintf("02:00:00:%02x:%02x:%02x", i>>16&255, i>>8&255, i&255),
			Ips:      []string{fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255), fmt.Sprintf("fd00:db8:1::%x", i)},
			Prefixes: []string{fmt.Sprintf("10.128.%d.0/24", i&255)},
			Dns:      []string{"10.0.0.53", "fd00::53"},
		},
	}
}

func host(i int) string { return fmt.Sprintf("host-%05d", i) }

// fill creates n resources in transactions of 1,000.
func fill(ctx context.Context, s store.Store, n int) error {
	for from := 0; from < n; from += 1000 {
		var tx store.Txn
		for i := from; i < min(from+1000, n); i++ {
			tx.Ops = append(tx.Ops, store.Op{Type: store.Create, Resource: hostInterface(i, 0)})
		}
		if _, err := s.Txn(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}

// creates is how many creates a second a number of writers get done, each in its own transaction.
func creates(writers, each int, create func(i int) error) (float64, error) {
	var g errgroup.Group
	start := time.Now()
	for w := range writers {
		g.Go(func() error {
			for i := range each {
				if err := create(w*each + i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(writers*each) / time.Since(start).Seconds(), err
}

// cpuTime is what this process has used.
func cpuTime() (time.Duration, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("get CPU usage: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}
