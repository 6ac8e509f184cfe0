package controlplane

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/bolt"
	"ingot/runtime/store/seal"
)

// onDisk is a rig whose store is the embedded one.
func onDisk(b *testing.B) *rig {
	sealer, err := seal.New(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	s, err := bolt.Open(api.Schema(), bolt.Config{Path: filepath.Join(b.TempDir(), "store.db"), Sealer: sealer})
	if err != nil {
		b.Fatal(err)
	}
	r := &rig{TB: b, store: s, mortal: &mortal{Store: s}, frozen: map[string]bool{}}
	r.mortal.left.Store(-1)
	r.start()
	b.Cleanup(func() {
		r.stop()
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return r
}

// await returns when a change that q selects satisfies done.
func await(b *testing.B, s store.Store, from uint64, q store.Query, done func(*resource.Resource) bool) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w, err := s.Watch(ctx, from, q)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range batch.Events {
			if !e.Deleted && done(e.Resource) {
				return
			}
		}
	}
}

// BenchmarkMachineToHostView is from a durable Machine to its durable HostMachine, with a new
// interface and address, on the embedded store.
func BenchmarkMachineToHostView(b *testing.B) {
	r := onDisk(b)
	r.pool("h1", map[string]string{"cpu": "100000", "memory": "1000Ti", "disk": "1000Pi"})
	r.create(api.MachineClass, "small", nil, &v1alpha1.MachineClassSpec{Capabilities: map[string]string{"cpu": "1", "memory": "1Gi"}})
	r.create(api.Network, "net", nil, &v1alpha1.NetworkSpec{})
	r.create(api.Prefix, "root", nil, &v1alpha1.PrefixSpec{Prefix: "10.0.0.0/8"})
	r.idle()
	for i := 0; b.Loop(); i++ {
		from := r.store.Revision()
		name := fmt.Sprintf("m%d", i)
		r.create(api.Machine, name, nil, machineSpec(nil))
		await(b, r.store, from, store.Query{Kind: api.HostMachine}, func(hm *resource.Resource) bool {
			return resource.Spec[*v1alpha1.HostMachineSpec](hm).GetName() == name
		})
	}
}

// BenchmarkRuleToHostView is from a durable change of a rule to the durable HostInterface.
func BenchmarkRuleToHostView(b *testing.B) {
	r := onDisk(b)
	r.world()
	r.create(api.Machine, "a", nil, machineSpec(nil))
	policy := func(port uint32) *v1alpha1.NetworkPolicySpec {
		return &v1alpha1.NetworkPolicySpec{NetworkRef: &v1alpha1.LocalRef{Name: "net"},
			Ingress: []*v1alpha1.NetworkPolicyRule{{Ports: []*v1alpha1.NetworkPolicyPort{{Port: port}}}}}
	}
	r.create(api.NetworkPolicy, "policy", nil, policy(1))
	r.idle()
	for i := uint32(2); b.Loop(); i++ {
		from := r.store.Revision()
		r.change(api.NetworkPolicy, "policy", func(p *resource.Resource) { p.Spec = policy(i) })
		await(b, r.store, from, store.Query{Kind: api.HostInterface}, func(hi *resource.Resource) bool {
			rules := resource.Spec[*v1alpha1.HostInterfaceSpec](hi).GetIngress().GetRules()
			return len(rules) == 1 && rules[0].GetPortFirst() == i
		})
	}
}
