package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/scheduler"
	"ingot/runtime/controller"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/bolt"
	"ingot/runtime/store/seal"
	"ingot/test/bench/result"
)

// placements measures how many machines a second the scheduler places on 1,000 hosts, over a store
// on a disk, while nothing else runs.
func placements(ctx context.Context) ([]result.Result, error) {
	var runs []float64
	for range 3 {
		rate, err := place(ctx, 1000, 5000)
		if err != nil {
			return nil, err
		}
		runs = append(runs, rate)
	}
	return []result.Result{result.New("control/placements", "1/s", result.AtLeast(2000), runs...)}, nil
}

// place returns the rate at which the machines of a fresh store were placed.
func place(ctx context.Context, hosts, machines int) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "ingot-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	sealer, err := seal.New(make([]byte, 32))
	if err != nil {
		return 0, err
	}
	s, err := bolt.Open(api.Schema(), bolt.Config{Path: filepath.Join(dir, "store.db"), Sealer: sealer})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := create(s, crowd(hosts, machines)); err != nil {
		return 0, err
	}
	engine := controller.New(s, slog.New(slog.DiscardHandler), controller.Config{})
	if err := engine.Add(scheduler.New(scheduler.Config{})); err != nil {
		return 0, err
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	begin := time.Now()
	go func() { done <- engine.Run(run) }()
	err = engine.WaitIdle(ctx)
	took := time.Since(begin)
	stop()
	if err := errors.Join(err, <-done); err != nil {
		return 0, err
	}
	page, err := s.List(ctx, store.Query{Kind: api.MachinePlacement})
	if err != nil {
		return 0, err
	}
	for _, r := range page.Items {
		if resource.Spec[*v1alpha1.MachinePlacementSpec](r).GetPool() != "" {
			machines--
		}
	}
	if machines != 0 {
		return 0, fmt.Errorf("%d machines were not placed", machines)
	}
	return float64(len(page.Items)) / took.Seconds(), nil
}

// crowd is hosts with room for ten machines each, and machines.
func crowd(hosts, machines int) []*resource.Resource {
	all := []*resource.Resource{
		{Meta: at(api.Project, "", "shop"), Spec: &v1alpha1.ProjectSpec{}},
		{Meta: at(api.MachineClass, "", "small"), Spec: &v1alpha1.MachineClassSpec{Capabilities: map[string]string{"cpu": "1", "memory": "1Gi"}}},
	}
	for i := range hosts {
		name := fmt.Sprintf("h%04d", i)
		all = append(all,
			&resource.Resource{Meta: at(api.MachinePool, "", name), Spec: &v1alpha1.MachinePoolSpec{}},
			&resource.Resource{Meta: at(api.MachinePoolStatus, "", name), Spec: &v1alpha1.MachinePoolStatus{State: "Ready",
				Capacity:                map[string]string{"cpu": "10", "memory": "64Gi", "disk": "1Ti", "machines": "100"},
				AvailableMachineClasses: []*v1alpha1.LocalRef{{Name: "small"}}}})
	}
	for i := range machines {
		all = append(all, &resource.Resource{Meta: at(api.Machine, "shop", fmt.Sprintf("m%05d", i)),
			Spec: &v1alpha1.MachineSpec{MachineClassRef: &v1alpha1.LocalRef{Name: "small"}, Image: "registry/guest:1"}})
	}
	return all
}
