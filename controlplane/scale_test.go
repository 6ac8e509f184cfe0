package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/scheduler"
	"ingot/runtime/controller"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// A slow store takes its time to write, as a disk does.
type slow struct{ store.Store }

func (s *slow) Txn(ctx context.Context, tx store.Txn) (store.Result, error) {
	select {
	case <-time.After(time.Millisecond):
	case <-ctx.Done():
		return store.Result{}, ctx.Err()
	}
	return s.Store.Txn(ctx, tx)
}

// TestTwoSchedulersNeverOversubscribe runs two control planes' schedulers on one store at once.
func TestTwoSchedulersNeverOversubscribe(t *testing.T) {
	r := newRig(t)
	r.stop()
	for i := range 5 {
		r.pool(fmt.Sprintf("h%d", i), map[string]string{"cpu": "6", "memory": "16Gi", "disk": "1Ti", "machines": "100"})
	}
	r.create(api.MachineClass, "small", nil, &v1alpha1.MachineClassSpec{Capabilities: map[string]string{"cpu": "1", "memory": "1Gi"}})
	for i := range 40 {
		r.create(api.Machine, fmt.Sprintf("m%d", i), nil, machineSpec(nil))
	}
	ctx, cancel := context.WithCancel(context.Background())
	var engines []*controller.Engine
	done := make(chan error, 2)
	for range 2 {
		e := controller.New(&slow{Store: r.store}, slog.New(slog.DiscardHandler), controller.Config{BackoffFirst: time.Millisecond, BackoffMost: 10 * time.Millisecond})
		if err := e.Add(scheduler.New(scheduler.Config{})); err != nil {
			t.Fatal(err)
		}
		engines = append(engines, e)
		go func() { done <- e.Run(ctx) }()
	}
	waitCtx, stopWaiting := context.WithTimeout(ctx, time.Minute)
	defer stopWaiting()
	conflicts := uint64(0)
	for range 2 { // the second round: what the first engine did at last has reached the other
		for _, e := range engines {
			if err := e.WaitIdle(waitCtx); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, e := range engines {
		conflicts += uint64(e.Status()[0].Conflicts)
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	placed := map[string]int{}
	for _, p := range r.list(api.MachinePlacement) {
		placed[resource.Spec[*v1alpha1.MachinePlacementSpec](p).GetPool()]++
	}
	for i := range 5 {
		if n := placed[fmt.Sprintf("h%d", i)]; n != 6 {
			t.Errorf("h%d has %d machines, want the 6 that fit", i, n)
		}
	}
	if placed[""] != 10 {
		t.Errorf("%d machines wait, want 10", placed[""])
	}
	t.Logf("conflicts that were retried: %d", conflicts)
}

// crowd makes hosts, and machines that are spread over two networks and twenty labels.
func (r *rig) crowd(hosts, machines int) {
	r.Helper()
	for i := range hosts {
		r.pool(fmt.Sprintf("host%04d", i), capacity)
	}
	r.create(api.MachineClass, "small", nil, &v1alpha1.MachineClassSpec{Capabilities: map[string]string{"cpu": "1", "memory": "1Gi"}})
	r.create(api.Prefix, "root", nil, &v1alpha1.PrefixSpec{Prefix: "10.0.0.0/16"})
	r.create(api.Network, "net", nil, &v1alpha1.NetworkSpec{})
	r.create(api.Network, "net2", nil, &v1alpha1.NetworkSpec{})
	for i := range machines {
		spec := machineSpec(map[string]string{"app": fmt.Sprintf("app%d", i%20)})
		if i%2 == 1 {
			spec.NetworkInterfaces[0].Ephemeral.NetworkInterfaceTemplate.Spec.NetworkRef.Name = "net2"
		}
		r.create(api.Machine, fmt.Sprintf("m%04d", i), nil, spec)
	}
	r.create(api.NetworkPolicy, "policy", nil, &v1alpha1.NetworkPolicySpec{
		NetworkRef: &v1alpha1.LocalRef{Name: "net"}, NetworkInterfaceSelector: &v1alpha1.LabelSelector{MatchLabels: map[string]string{"app": "app0"}},
		Ingress: []*v1alpha1.NetworkPolicyRule{{From: []*v1alpha1.NetworkPolicyPeer{{ObjectSelector: &v1alpha1.ObjectSelector{MatchLabels: map[string]string{"app": "app2"}}}}}},
	})
}

// TestThousandHosts places machines on many hosts and changes one label among many interfaces. It
// prints how long each took; the bounds are far above, for machines under load.
func TestThousandHosts(t *testing.T) {
	hosts, machines := 1000, 2000
	if testing.Short() {
		hosts, machines = 100, 200
	}
	r := newRig(t)
	r.stop()
	r.crowd(hosts, machines)
	start := time.Now()
	r.start()
	r.idle()
	took := time.Since(start)
	t.Logf("%d machines on %d hosts, from nothing to host view: %v (%v each)", machines, hosts, took, took/time.Duration(machines))
	if n := len(r.list(api.HostMachine)); n != machines {
		t.Fatalf("%d host machines, want %d; first waits: %q", n, machines, prepared(r, "m0000"))
	}
	perHost := map[string]int{}
	for _, p := range r.list(api.MachinePlacement) {
		perHost[resource.Spec[*v1alpha1.MachinePlacementSpec](p).GetPool()]++
	}
	for host, n := range perHost {
		if n != machines/hosts {
			t.Errorf("%s has %d machines, spread evenly it would be %d", host, n, machines/hosts)
		}
	}

	start = time.Now()
	r.change(api.Machine, "m0004", func(m *resource.Resource) {
		resource.Spec[*v1alpha1.MachineSpec](m).NetworkInterfaces[0].Ephemeral.NetworkInterfaceTemplate.Metadata.Labels = map[string]string{"app": "app2"}
	})
	before := r.store.Revision()
	r.idle()
	t.Logf("a label of one among %d interfaces of a network: %v, %d writes", machines/2, time.Since(start), r.store.Revision()-before)

	start = time.Now()
	r.change(api.NetworkPolicy, "policy", func(p *resource.Resource) {
		resource.Spec[*v1alpha1.NetworkPolicySpec](p).Ingress = append(resource.Spec[*v1alpha1.NetworkPolicySpec](p).Ingress, &v1alpha1.NetworkPolicyRule{})
	})
	before = r.store.Revision()
	r.idle()
	t.Logf("a rule of a policy that selects %d interfaces: %v, %d writes", machines/2/10, time.Since(start), r.store.Revision()-before)

	start = time.Now()
	r.restart()
	before = r.store.Revision()
	r.idle()
	t.Logf("restart: %v, %d writes", time.Since(start), r.store.Revision()-before)
	if r.store.Revision() != before {
		t.Error("a restart with nothing to do wrote something")
	}

	start = time.Now()
	for i := range machines {
		r.delete(api.Machine, fmt.Sprintf("m%04d", i))
	}
	r.settle()
	t.Logf("all deleted: %v", time.Since(start))
	if n := len(r.list(api.NetworkInterface)) + len(r.list(api.PrefixAllocation)) + len(r.list(api.HostInterface)) + len(r.list(api.MachinePlacement)); n != 0 {
		t.Errorf("%d objects left behind", n)
	}
}
