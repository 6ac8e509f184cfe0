package controlplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/controller"
	"ingot/runtime/controller/controllertest"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// hypervisors are hosts as a controller: what they are told to run, they run.
type hypervisors struct {
	breaker *controllertest.Breaker
	mu      sync.Mutex // guards running
	running map[string]string
}

func (h *hypervisors) controller() controller.Controller {
	return controller.Each{
		Name: "hypervisors", Primary: api.HostMachine,
		Outputs:   []controller.Output{{Kind: api.MachineStatus}},
		Reconcile: h.reconcile,
	}
}

func (h *hypervisors) reconcile(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
	hm, err := rw.Get(ctx, key)
	if errors.Is(err, fault.NotFound) {
		return controller.Result{}, nil
	}
	if err != nil {
		return controller.Result{}, err
	}
	if err := h.breaker.Act(); err != nil {
		return controller.Result{}, err
	}
	spec := resource.Spec[*v1alpha1.HostMachineSpec](hm)
	gone := hm.Phase == resource.TearingDown
	h.mu.Lock()
	if gone {
		delete(h.running, hm.UID)
	} else {
		h.running[hm.UID] = fmt.Sprintf("%s runs %s/%s with %d interfaces", spec.GetHost(), spec.GetNamespace(), spec.GetName(), len(spec.GetInterfaces()))
	}
	h.mu.Unlock()
	_, err = rw.Apply(ctx, &resource.Resource{
		Meta: resource.Meta{Key: resource.Key{Kind: api.MachineStatus, Project: hm.Project, Name: spec.GetName()}},
		Spec: &v1alpha1.MachineStatus{MachineUid: spec.GetUid(), MachinePoolRef: &v1alpha1.LocalRef{Name: spec.GetHost()}, Gone: gone},
	})
	return controller.Result{}, err
}

func (h *hypervisors) state() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Values(h.running)), "\n")
}

// chance is what differs between two walks: uids and what follows from them, times, and which of
// those who waited together gets which address.
var chance = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}(/[0-9]+)?|"mac":"[^"]*"|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]*Z|10\.0\.0\.[0-9]+(/[0-9]+)?|"used":\[[^]]*\]`)

func printWithoutChance(r *resource.Resource) string {
	switch r.Kind {
	case api.HostMachine, api.HostInterface: // in the order of uids; hypervisors tell of them
		return ""
	case api.MachinePoolUsage:
		return fmt.Sprint(r.Key, " ", resource.Spec[*v1alpha1.MachinePoolUsageSpec](r).GetUsed())
	}
	return chance.ReplaceAllString(controllertest.Print(r), "*")
}

func TestRestartsChangeNothing(t *testing.T) {
	controllertest.Run(t, controllertest.Walk{
		Schema: api.Schema(),
		World: func(_ *testing.T, b *controllertest.Breaker) controllertest.World {
			h := &hypervisors{breaker: b, running: map[string]string{}}
			return controllertest.World{
				Controllers: func() []controller.Controller { return append(Controllers(Config{}), h.controller()) },
				State:       h.state,
			}
		},
		Step:  step,
		Steps: 40,
		Walks: 8,
		Print: printWithoutChance,
	})
}

// step is one wish of a user. There is room for all, on one host: whoever waits for the same at the
// same time may get it in any order.
func step(random *rand.Rand) store.Txn {
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	one := func(op store.OpType, kind resource.Kind, name string, labels map[string]string, spec proto.Message) store.Txn {
		return store.Txn{Ops: []store.Op{{Type: op, Resource: &resource.Resource{Meta: resource.Meta{Key: key(kind, name), Labels: labels}, Spec: spec}}}}
	}
	machine, nic, host := pick("a", "b", "c", "d"), pick("x", "y"), "h1"
	labels := map[string]string{"app": pick("web", "db")}
	switch random.IntN(14) {
	case 0, 1, 2:
		return one(store.Create, api.Machine, machine, nil, machineSpec(labels))
	case 3, 4:
		return one(store.Delete, api.Machine, machine, nil, nil)
	case 5:
		return one(store.Create, api.NetworkInterface, nic, labels, nicSpec(&v1alpha1.InterfaceIP{Value: "192.168.0.2"}))
	case 6:
		return one(store.Delete, api.NetworkInterface, nic, nil, nil)
	case 7:
		return one(store.Create, api.Network, pick("net", "net2"), nil, &v1alpha1.NetworkSpec{})
	case 8:
		return one(store.Delete, api.Network, pick("net", "net2"), nil, nil)
	case 9:
		return one(store.Create, api.Prefix, "root", nil, &v1alpha1.PrefixSpec{Prefix: "10.0.0.0/29"})
	case 10:
		return one(store.Delete, api.Prefix, "root", nil, nil)
	case 11:
		return one(store.Create, api.MachineClass, "small", nil, &v1alpha1.MachineClassSpec{Capabilities: map[string]string{"cpu": "1", "memory": "1Gi"}})
	case 12:
		return one(store.Create, api.NetworkPolicy, "policy", nil, &v1alpha1.NetworkPolicySpec{
			NetworkRef: &v1alpha1.LocalRef{Name: "net"}, NetworkInterfaceSelector: &v1alpha1.LabelSelector{MatchLabels: labels}})
	}
	tx := one(store.Create, api.MachinePool, host, nil, &v1alpha1.MachinePoolSpec{})
	status := one(store.Create, api.MachinePoolStatus, host, nil, &v1alpha1.MachinePoolStatus{
		State: "Ready", Capacity: map[string]string{"cpu": "4", "memory": "4Gi", "disk": "50Gi"}, AvailableMachineClasses: []*v1alpha1.LocalRef{{Name: "small"}}})
	tx.Ops = append(tx.Ops, status.Ops...)
	return tx
}
