package poollet

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	iri "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"ingot/agent/view"
	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/controller"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
)

// A fakeRuntime keeps the contract of a MachineRuntime as far as the poollet uses it. Each call
// fails with probability failing, before or after it took effect.
type fakeRuntime struct {
	iri.MachineRuntimeClient
	mu       sync.Mutex
	machines map[string]*iri.Machine // by uid label
	created  int
	failing  float64
	refuse   codes.Code
	classes  []string
	random   *rand.Rand
}

func newRuntime() *fakeRuntime {
	return &fakeRuntime{machines: map[string]*iri.Machine{}, classes: []string{"small"}, random: rand.New(rand.NewPCG(1, 2))}
}

func (f *fakeRuntime) fails() error {
	if f.random.Float64() < f.failing {
		return status.Error(codes.Unavailable, "runtime is away")
	}
	return nil
}

func (f *fakeRuntime) ListMachines(_ context.Context, r *iri.ListMachinesRequest, _ ...grpc.CallOption) (*iri.ListMachinesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fails(); err != nil {
		return nil, err
	}
	reply := &iri.ListMachinesResponse{}
	if m := f.machines[r.Filter.LabelSelector[uidLabel]]; m != nil {
		reply.Machines = append(reply.Machines, proto.Clone(m).(*iri.Machine))
	}
	return reply, nil
}

func (f *fakeRuntime) Status(context.Context, *iri.StatusRequest, ...grpc.CallOption) (*iri.StatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	reply := &iri.StatusResponse{}
	for _, class := range f.classes {
		reply.MachineClassStatus = append(reply.MachineClassStatus, &iri.MachineClassStatus{MachineClass: &iri.MachineClass{Name: class}})
	}
	return reply, f.fails()
}

func (f *fakeRuntime) CreateMachine(_ context.Context, r *iri.CreateMachineRequest, _ ...grpc.CallOption) (*iri.CreateMachineResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != codes.OK {
		return nil, status.Error(f.refuse, "no memory left")
	}
	m := proto.Clone(r.Machine).(*iri.Machine)
	m.Metadata.Id = fmt.Sprint("id-", f.created)
	m.Metadata.Generation = 1
	m.Spec.Power = iri.Power_POWER_ON // power is not part of Create
	m.Status = &iri.MachineStatus{State: iri.MachineState_MACHINE_RUNNING, ObservedGeneration: 1}
	f.machines[m.Metadata.Labels[uidLabel]] = m
	f.created++
	return &iri.CreateMachineResponse{Machine: m}, f.fails()
}

func (f *fakeRuntime) byID(id string) *iri.Machine {
	for _, m := range f.machines {
		if m.Metadata.Id == id {
			return m
		}
	}
	return nil
}

func (f *fakeRuntime) UpdateMachinePower(_ context.Context, r *iri.UpdateMachinePowerRequest, _ ...grpc.CallOption) (*iri.UpdateMachinePowerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byID(r.MachineId).Spec.Power = r.Power
	return &iri.UpdateMachinePowerResponse{}, f.fails()
}

func (f *fakeRuntime) UpdateMachineAnnotations(_ context.Context, r *iri.UpdateMachineAnnotationsRequest, _ ...grpc.CallOption) (*iri.UpdateMachineAnnotationsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byID(r.MachineId).Metadata.Annotations = r.Annotations
	return &iri.UpdateMachineAnnotationsResponse{}, f.fails()
}

func (f *fakeRuntime) DeleteMachine(_ context.Context, r *iri.DeleteMachineRequest, _ ...grpc.CallOption) (*iri.DeleteMachineResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.byID(r.MachineId)
	switch {
	case m == nil:
		return nil, status.Error(codes.NotFound, "no such machine")
	case m.Status.State != iri.MachineState_MACHINE_TERMINATING:
		m.Status.State = iri.MachineState_MACHINE_TERMINATING
	default: // asked a second time, it is gone
		delete(f.machines, m.Metadata.Labels[uidLabel])
	}
	return &iri.DeleteMachineResponse{}, f.fails()
}

func (f *fakeRuntime) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for uid, m := range f.machines {
		lines = append(lines, fmt.Sprint(uid, " ", m.Spec.Class, " ", m.Spec.Power, " generation ", m.Metadata.Annotations[generationAnnotation]))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// reports keeps the newest report of each machine.
type reports struct {
	mu     sync.Mutex
	newest map[string]*v1alpha1.MachineReport
}

func (r *reports) ReportMachine(m *v1alpha1.MachineReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newest[m.Uid] = m
}
func (*reports) ReportEvents(...*v1alpha1.EventSpec) {}

func (r *reports) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for _, uid := range slices.Sorted(maps.Keys(r.newest)) {
		m := r.newest[uid]
		line := uid + " " + m.Status.State
		if m.Gone {
			line += " gone"
		}
		if m.Refused != "" {
			line += " refused: " + m.Refused
		}
		for _, c := range m.Status.Conditions {
			line += " " + c.Reason
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

type world struct {
	t       *testing.T
	store   store.Store
	runtime *fakeRuntime
	reports *reports
	stop    func()
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: mem.New(view.Schema(), mem.Config{}), runtime: newRuntime(),
		reports: &reports{newest: map[string]*v1alpha1.MachineReport{}}}
	w.start()
	return w
}

func (w *world) start() {
	log := slog.New(slog.DiscardHandler)
	engine := controller.New(w.store, log, controller.Config{})
	if err := engine.Add(New(w.runtime, w.reports, log).Controller()); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) txn(ops ...store.Op) {
	w.t.Helper()
	if _, err := w.store.Txn(context.Background(), store.Txn{Writer: view.Writer, Ops: ops}); err != nil {
		w.t.Fatal(err)
	}
}

func machineResource(uid string, change func(*v1alpha1.HostMachineSpec)) *resource.Resource {
	spec := &v1alpha1.HostMachineSpec{Uid: uid, Namespace: "p", Name: uid, Generation: 1, MachineClass: "small", Power: "On"}
	if change != nil {
		change(spec)
	}
	return &resource.Resource{Meta: resource.Meta{Key: resource.Key{Kind: api.HostMachine, Project: "p", Name: uid},
		Finalizers: []string{view.Finalizer}}, Spec: spec}
}

func (w *world) expect(what, runtime, reports string) {
	w.t.Helper()
	time.Sleep(time.Minute) // of the bubble's clock: every retry and poll has happened
	if diff := cmp.Diff(runtime, w.runtime.String()); diff != "" {
		w.t.Errorf("%s: runtime (-want +got):\n%s", what, diff)
	}
	if diff := cmp.Diff(reports, w.reports.String()); diff != "" {
		w.t.Errorf("%s: reports (-want +got):\n%s", what, diff)
	}
}

func TestMachineLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := machineResource("a", nil)
		w.txn(store.Op{Type: store.Create, Resource: r})
		w.expect("created", "a small POWER_ON generation 1", "a Running")
		off := machineResource("a", func(s *v1alpha1.HostMachineSpec) { s.Power, s.Generation = "Off", 2 })
		w.txn(store.Op{Type: store.Update, Resource: off})
		w.expect("switched off", "a small POWER_OFF generation 2", "a Running")
		w.txn(store.Op{Type: store.Delete, Resource: r})
		w.expect("deleted", "", "a Terminated gone")
		if page, _ := w.store.List(context.Background(), store.Query{Kind: api.HostMachine}); len(page.Items) > 0 {
			t.Error("the copy is held back after the machine is gone")
		}
		w.stop()
	})
}

func TestMachineWaitsForItsInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.txn(store.Op{Type: store.Create, Resource: machineResource("a", func(s *v1alpha1.HostMachineSpec) {
			s.Interfaces = []*v1alpha1.HostMachineInterface{{Name: "eth0", InterfaceName: "a-eth0", InterfaceUid: "i"}}
		})})
		w.expect("without interface", "", "a Pending WaitingForInterface")
		w.txn(store.Op{Type: store.Create, Resource: &resource.Resource{
			Meta: resource.Meta{Key: resource.Key{Kind: api.HostInterface, Project: "p", Name: "i"}},
			Spec: &v1alpha1.HostInterfaceSpec{Uid: "i", Vni: 7, Ips: []string{"10.0.0.5"}}}})
		w.expect("with interface", "a small POWER_ON generation 1", "a Running")
		nic := w.runtime.machines["a"].Spec.NetworkInterfaces[0]
		if nic.NetworkId != "ingot://vni/7" || nic.Ips[0] != "10.0.0.5" {
			t.Errorf("interface of the runtime is %v", nic)
		}
		w.stop()
	})
}

func TestMachineWaitsForItsClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.runtime.classes = nil
		w.txn(store.Op{Type: store.Create, Resource: machineResource("a", nil)})
		w.expect("without class", "", "a Pending WaitingForClass")
		w.runtime.mu.Lock()
		w.runtime.classes = []string{"small"}
		w.runtime.mu.Unlock()
		w.expect("with class", "a small POWER_ON generation 1", "a Running")
		w.stop()
	})
}

func TestRefusalIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.runtime.refuse = codes.ResourceExhausted
		w.txn(store.Op{Type: store.Create, Resource: machineResource("a", nil)})
		w.expect("refused", "", "a Pending refused: no memory left Refused")
		w.stop()
	})
}

func TestOrphanIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := machineResource("a", nil)
		w.txn(store.Op{Type: store.Create, Resource: r})
		w.expect("created", "a small POWER_ON generation 1", "a Running")
		orphan := machineResource("a", func(s *v1alpha1.HostMachineSpec) { s.Power = "Off" })
		orphan.Annotations = map[string]string{view.OrphanAnnotation: "true"}
		w.txn(store.Op{Type: store.Update, Resource: orphan})
		w.expect("orphaned", "a small POWER_ON generation 1", "a Running")
		w.stop()
	})
}

// TestRandomWalk changes machines at random over a runtime that fails, restarts the poollet in the
// middle, and expects the state that the last change asks for.
func TestRandomWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(t)
		w.runtime.failing = 0.3
		next := 0
		live := map[string]*v1alpha1.HostMachineSpec{}
		for range 200 {
			time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
			uids := slices.Sorted(maps.Keys(live))
			switch pick := random.IntN(10); {
			case pick < 4 || len(uids) == 0:
				uid := fmt.Sprint("m", next)
				next++
				r := machineResource(uid, nil)
				live[uid] = r.Spec.(*v1alpha1.HostMachineSpec)
				w.txn(store.Op{Type: store.Create, Resource: r})
			case pick < 6:
				uid := uids[random.IntN(len(uids))]
				spec := proto.Clone(live[uid]).(*v1alpha1.HostMachineSpec)
				spec.Generation++
				spec.Power = []string{"On", "Off"}[random.IntN(2)]
				live[uid] = spec
				w.txn(store.Op{Type: store.Update, Resource: machineResource(uid, func(s *v1alpha1.HostMachineSpec) {
					s.Power, s.Generation = spec.Power, spec.Generation
				})})
			case pick < 8:
				uid := uids[random.IntN(len(uids))]
				delete(live, uid)
				w.txn(store.Op{Type: store.Delete, Resource: machineResource(uid, nil)})
			default:
				w.stop()
				w.start()
			}
		}
		w.runtime.mu.Lock()
		w.runtime.failing = 0
		w.runtime.mu.Unlock()
		time.Sleep(10 * time.Minute)
		var want []string
		for uid, s := range live {
			want = append(want, fmt.Sprint(uid, " small POWER_", strings.ToUpper(s.Power), " generation ", s.Generation))
		}
		slices.Sort(want)
		if diff := cmp.Diff(strings.Join(want, "\n"), w.runtime.String()); diff != "" {
			t.Errorf("runtime (-want +got):\n%s", diff)
		}
		if w.runtime.created > next {
			t.Errorf("%d machines created for %d wanted", w.runtime.created, next)
		}
		w.stop()
	})
}
