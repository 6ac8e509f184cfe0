package controlplane

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/cidr"
	"ingot/controlplane/scheduler"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// A mortal store dies with its process: after some writes it answers nothing, and it may have
// written what it did not confirm.
type mortal struct {
	store.Store
	left atomic.Int64 // writes until the end; negative: no end
}

var errDead = fmt.Errorf("killed by the test: %w", fault.Unavailable)

func (m *mortal) Txn(ctx context.Context, tx store.Txn) (store.Result, error) {
	if m.left.Load() < 0 {
		return m.Store.Txn(ctx, tx)
	}
	left := m.left.Add(-1)
	if left < -1 {
		m.left.Store(0)
	}
	if left < 0 {
		m.left.Store(0)
		return store.Result{}, errDead
	}
	result, err := m.Store.Txn(ctx, tx)
	if left == 0 {
		return store.Result{}, errDead
	}
	return result, err
}

// TestRandomWalksWithDeathsKeepThePromises lets users, hosts and crashes do things in random order and
// checks after every rest what must hold always, and at the end that nothing is left behind.
func TestRandomWalksWithDeathsKeepThePromises(t *testing.T) {
	walks, steps := 12, 60
	if testing.Short() {
		walks = 3
	}
	for range walks {
		seed := rand.Uint64()
		ok := t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { walk(t, seed, steps) })
		if !ok {
			return
		}
	}
}

func walk(t *testing.T, seed uint64, steps int) {
	random := rand.New(rand.NewPCG(seed, seed))
	w := &walker{rig: newRig(t), random: random}
	w.small()
	w.settle()
	for range steps {
		w.step()
		if random.IntN(3) == 0 {
			w.die()
		}
		if random.IntN(2) == 0 {
			w.settle()
			w.check()
		} else if random.IntN(2) == 0 {
			w.hostsAct()
		}
		if t.Failed() {
			t.Fatalf("steps:\n%s\n%s", strings.Join(w.said, "\n"), w.dump())
		}
	}
	w.leave()
	if t.Failed() {
		t.Fatalf("steps:\n%s\n%s\n%s", strings.Join(w.said, "\n"), w.dump(), w.status())
	}
}

type walker struct {
	*rig
	random *rand.Rand
	said   []string
}

// small is a world in which things run out.
func (w *walker) small() {
	few := map[string]string{"cpu": "3", "memory": "16Gi", "disk": "40Gi"}
	w.pool("h1", few)
	w.pool("h2", few)
	w.create(api.MachineClass, "small", nil, &v1alpha1.MachineClassSpec{Capabilities: map[string]string{"cpu": "1", "memory": "1Gi"}})
	w.create(api.Network, "net", nil, &v1alpha1.NetworkSpec{})
	w.create(api.Prefix, "root", nil, &v1alpha1.PrefixSpec{Prefix: "10.0.0.0/29"})
	w.refuses = func(host string, m *v1alpha1.HostMachineSpec) string {
		if host == "h1" && m.GetUid()[0] < '4' {
			return "no room"
		}
		return ""
	}
}

func (w *walker) pick(words ...string) string { return words[w.random.IntN(len(words))] }

// do tries one operation of a user; that it is refused is an answer too.
func (w *walker) do(op store.OpType, kind resource.Kind, name string, labels map[string]string, spec proto.Message) {
	err := w.txn("", store.Op{Type: op, Resource: &resource.Resource{Meta: resource.Meta{Key: key(kind, name), Labels: labels}, Spec: spec}})
	w.said = append(w.said, fmt.Sprintf("%s %s %s: %v", op, kind, name, err))
}

func (w *walker) step() {
	machine, nic, app := w.pick("a", "b", "c", "d", "e"), w.pick("x", "y", "a-nic0"), w.pick("web", "db")
	labels := map[string]string{"app": app}
	switch w.random.IntN(12) {
	case 0, 1, 2:
		spec := machineSpec(labels)
		if w.random.IntN(3) == 0 {
			spec.NetworkInterfaces = append(spec.NetworkInterfaces, &v1alpha1.MachineInterface{Name: "nic1", NetworkInterfaceRef: &v1alpha1.LocalRef{Name: nic}})
		}
		w.do(store.Create, api.Machine, machine, nil, spec)
	case 3, 4:
		w.do(store.Delete, api.Machine, machine, nil, nil)
	case 5:
		ip := &v1alpha1.InterfaceIP{Value: "10.0.0." + w.pick("2", "3", "4")}
		w.do(store.Create, api.NetworkInterface, nic, labels, nicSpec(ip))
	case 6:
		w.do(store.Delete, api.NetworkInterface, nic, nil, nil)
	case 7:
		w.do(store.Create, api.NetworkPolicy, "policy", nil, &v1alpha1.NetworkPolicySpec{
			NetworkRef: &v1alpha1.LocalRef{Name: "net"}, NetworkInterfaceSelector: &v1alpha1.LabelSelector{MatchLabels: labels},
			Ingress: []*v1alpha1.NetworkPolicyRule{{From: []*v1alpha1.NetworkPolicyPeer{{ObjectSelector: &v1alpha1.ObjectSelector{MatchLabels: map[string]string{"app": "web"}}}}}},
		})
	case 8:
		w.do(store.Delete, api.NetworkPolicy, "policy", nil, nil)
	case 9:
		host := w.pick("h1", "h2")
		w.frozen[host] = !w.frozen[host]
		w.said = append(w.said, fmt.Sprintf("%s frozen: %v", host, w.frozen[host]))
	case 10:
		w.do(store.Create, api.Network, "other", nil, &v1alpha1.NetworkSpec{})
	case 11:
		w.do(store.Delete, api.Network, w.pick("other", "net"), nil, nil)
		w.do(store.Create, api.Network, "net", nil, &v1alpha1.NetworkSpec{})
	}
}

// die kills the controllers after a few more writes and starts them anew.
func (w *walker) die() {
	n := w.random.IntN(8)
	w.said = append(w.said, fmt.Sprintf("die after %d writes", n))
	w.mortal.left.Store(int64(n))
	for w.mortal.left.Load() > 0 && !w.idleWithin(5*time.Millisecond) {
	}
	w.stop()
	w.mortal.left.Store(-1)
	w.start()
}

// check is what holds at every rest.
func (w *walker) check() {
	w.Helper()
	seen := map[string]string{}
	once := func(what string, r *resource.Resource) {
		if other, dup := seen[what]; dup {
			w.Errorf("%s is of %s and of %s", what, other, r.Key)
		}
		seen[what] = r.Key.String()
	}
	for _, r := range w.list(api.InterfaceStatus) {
		s := resource.Spec[*v1alpha1.NetworkInterfaceStatus](r)
		for _, ip := range s.GetIps() {
			once(fmt.Sprintf("address %d/%s", s.GetVni(), ip), r)
		}
		if s.GetMac() != "" {
			once(fmt.Sprintf("MAC %d/%s", s.GetVni(), s.GetMac()), r)
		}
	}
	for _, r := range w.list(api.HostMachine) {
		once("machine "+resource.Spec[*v1alpha1.HostMachineSpec](r).GetUid(), r)
	}
	for _, r := range w.list(api.HostInterface) {
		s := resource.Spec[*v1alpha1.HostInterfaceSpec](r)
		once("interface "+s.GetUid(), r)
		for _, ip := range s.GetIps() {
			once(fmt.Sprintf("address at a host %d/%s", s.GetVni(), ip), r)
		}
		if w.find(api.NetworkInterface, s.GetName()) == nil {
			w.Errorf("%s is told to a host, but there is no interface %s", r.Key, s.GetName())
		}
	}
	w.checkUse()
	w.checkPools()
}

// checkUse compares what prefixes say is in use with the allocations.
func (w *walker) checkUse() {
	w.Helper()
	allocated := map[string][]string{}
	for _, r := range w.list(api.PrefixAllocation) {
		s := resource.Spec[*v1alpha1.PrefixAllocationSpec](r)
		allocated[s.GetPrefixRef().GetName()] = append(allocated[s.GetPrefixRef().GetName()], s.GetPrefix())
		if w.find(api.Prefix, s.GetHolderName()) == nil {
			w.Errorf("%s is held by %s, which is gone", r.Key, s.GetHolderName())
		}
	}
	for _, r := range w.list(api.PrefixStatus) {
		set, err := cidr.Parse(allocated[r.Name]...)
		if err != nil {
			w.Error(err)
		}
		if got, want := resource.Spec[*v1alpha1.PrefixStatus](r).GetUsed(), cidr.Strings(cidr.Merge(set)); !slices.Equal(got, want) {
			w.Errorf("%s uses %v, allocated is %v", r.Key, got, want)
		}
	}
}

// checkPools compares usage with placements and with capacity.
func (w *walker) checkPools() {
	w.Helper()
	sums := map[string]scheduler.Resources{"h1": {}, "h2": {}}
	for _, r := range w.list(api.MachinePlacement) {
		s := resource.Spec[*v1alpha1.MachinePlacementSpec](r)
		if s.GetPool() == "" {
			continue
		}
		res, err := scheduler.ParseResources(s.GetResources())
		if err != nil {
			w.Error(err)
		}
		sums[s.GetPool()] = sums[s.GetPool()].Plus(res)
	}
	for pool, sum := range sums {
		if u := w.find(api.MachinePoolUsage, pool); u != nil {
			used, _ := scheduler.ParseResources(resource.Spec[*v1alpha1.MachinePoolUsageSpec](u).GetUsed())
			if fmt.Sprint(used) != fmt.Sprint(sum) {
				w.Errorf("usage of %s is %v, placed is %v", pool, used, sum)
			}
		}
		room, _ := scheduler.ParseResources(resource.Spec[*v1alpha1.MachinePoolStatus](w.get(api.MachinePoolStatus, pool)).GetCapacity())
		for name, have := range room {
			if sum[name] > have {
				w.Errorf("%s has %d %s, placed is %d", pool, have, name, sum[name])
			}
		}
	}
}

// leave deletes everything and checks that only what the world began with is left.
func (w *walker) leave() {
	w.Helper()
	clear(w.frozen)
	for _, kind := range []resource.Kind{api.Machine, api.NetworkInterface, api.NetworkPolicy, api.Network, api.Prefix} {
		for _, r := range w.list(kind) {
			if r.Owner == "" {
				w.do(store.Delete, kind, r.Name, nil, nil)
			}
		}
	}
	w.settle()
	w.check()
	for _, info := range api.Kinds() {
		switch info.Kind {
		case api.MachinePool, api.MachinePoolStatus, api.MachinePoolUsage, api.MachineClass, api.MachineStatus:
			continue
		}
		for _, r := range w.list(info.Kind) {
			w.Errorf("left behind: %s", r.Key)
		}
	}
}
