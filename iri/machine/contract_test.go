package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	eventapi "github.com/ironcore-dev/ironcore/iri/apis/event/v1alpha1"
	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"ingot/runtime/fault"
)

// wire is a client at the socket of a running server.
type wire struct {
	t      testing.TB
	w      *world
	s      *Server
	c      api.MachineRuntimeClient
	socket string
	stop   func()
}

func newWire(t testing.TB, w *world, adapt ...func(*Config)) *wire {
	t.Helper()
	x := &wire{t: t, w: w, s: w.server(t, adapt...), socket: filepath.Join(w.dir, "s")}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = x.s.Run(ctx) })
	wg.Go(func() {
		if err := x.s.Serve(ctx, x.socket); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix://"+x.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	x.await("socket", func() bool { _, err := os.Stat(x.socket); return err == nil })
	x.c = api.NewMachineRuntimeClient(conn)
	x.stop = sync.OnceFunc(func() {
		conn.Close()
		cancel()
		wg.Wait()
	})
	t.Cleanup(x.stop)
	return x
}

func (x *wire) create(m *api.Machine) *api.Machine {
	x.t.Helper()
	answer, err := x.c.CreateMachine(context.Background(), &api.CreateMachineRequest{Machine: m})
	if err != nil {
		x.t.Fatal(err)
	}
	return answer.Machine
}

func (x *wire) list(f *api.MachineFilter) []*api.Machine {
	x.t.Helper()
	answer, err := x.c.ListMachines(context.Background(), &api.ListMachinesRequest{Filter: f})
	if err != nil {
		x.t.Fatal(err)
	}
	return answer.Machines
}

func (x *wire) get(id string) *api.Machine {
	x.t.Helper()
	for _, m := range x.list(&api.MachineFilter{Id: id}) {
		return m
	}
	return nil
}

// await polls until ok, for a minute.
func (x *wire) await(what string, ok func() bool) {
	x.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for ticker := time.NewTicker(5 * time.Millisecond); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			x.t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (x *wire) awaitState(id string, want api.MachineState) *api.Machine {
	x.t.Helper()
	var m *api.Machine
	x.await(want.String(), func() bool {
		m = x.get(id)
		return m.GetStatus().GetState() == want && m.Status.ObservedGeneration == m.Metadata.Generation
	})
	return m
}

const (
	pending   = api.MachineState_MACHINE_PENDING
	running   = api.MachineState_MACHINE_RUNNING
	suspended = api.MachineState_MACHINE_SUSPENDED
)

func TestVersionComesFirst(t *testing.T) {
	x := newWire(t, newWorld(t))
	got, err := x.c.Version(context.Background(), &api.VersionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &api.VersionResponse{RuntimeName: "ingot", RuntimeVersion: "1.2.3"}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("Version (-want +got):\n%s", diff)
	}
}

func TestSocketIsForRootAlone(t *testing.T) {
	x := newWire(t, newWorld(t))
	x.list(nil)
	info, err := os.Stat(x.socket)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("mode %o, want 600", mode)
	}
}

func TestStatusTellsTotalsWithoutTheReserve(t *testing.T) {
	x := newWire(t, newWorld(t))
	x.create(wanted("uid-1")) // quantity is the total, not what is left
	got, err := x.c.Status(context.Background(), &api.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &api.StatusResponse{MachineClassStatus: []*api.MachineClassStatus{{
		MachineClass: &api.MachineClass{Name: "small", Capabilities: &api.MachineClassCapabilities{
			Resources: map[string]int64{"cpu": 1, "memory": 1 << 30},
		}},
		Quantity: 8, // 17 GiB minus 1 for the host hold 16; 8 CPUs hold 8
	}}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("Status (-want +got):\n%s", diff)
	}
}

func TestSpecIsEchoedByteForByteAcrossRestarts(t *testing.T) {
	w := newWorld(t)
	x := newWire(t, w)
	want := wanted("uid-1")
	m := x.create(want)
	x.awaitState(m.Metadata.Id, running)
	x.stop()
	x = newWire(t, w)
	got := x.get(m.Metadata.Id)
	if diff := cmp.Diff(want.Spec, got.Spec, protocmp.Transform()); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Metadata.Labels, got.Metadata.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Metadata.Annotations, got.Metadata.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
}

func TestTimesAreNanosecondsAndEventsSeconds(t *testing.T) {
	x := newWire(t, newWorld(t))
	before := time.Now()
	m := x.create(wanted("uid-1"))
	created := time.Unix(0, m.Metadata.CreatedAt)
	if created.Before(before) || created.After(time.Now()) {
		t.Errorf("created at %v", created)
	}
	x.awaitState(m.Metadata.Id, running)
	second := x.events(&api.EventFilter{Id: m.Metadata.Id})[0].Spec.EventTime
	if when := time.Unix(second, 0); when.Before(before.Truncate(time.Second)) || when.After(time.Now()) {
		t.Errorf("event at %v", when)
	}
}

func TestAnnotationsAreReplacedWholeAndLeaveTheGeneration(t *testing.T) {
	x := newWire(t, newWorld(t))
	id := x.create(wanted("uid-1")).Metadata.Id
	_, err := x.c.UpdateMachineAnnotations(context.Background(), &api.UpdateMachineAnnotationsRequest{
		MachineId: id, Annotations: map[string]string{"other": "two"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := x.get(id).Metadata
	if diff := cmp.Diff(map[string]string{"other": "two"}, got.Annotations); diff != "" || got.Generation != 1 {
		t.Errorf("generation %d, annotations (-want +got):\n%s", got.Generation, diff)
	}
}

func TestPowerBumpsTheGenerationAndIsObserved(t *testing.T) {
	x := newWire(t, newWorld(t))
	id := x.create(wanted("uid-1")).Metadata.Id
	for range 2 { // the repetition changes nothing
		setPower(t, x.s, id, api.Power_POWER_OFF)
	}
	if m := x.awaitState(id, suspended); m.Metadata.Generation != 2 || m.Spec.Power != api.Power_POWER_OFF {
		t.Errorf("%v", m)
	}
}

func TestPowerOffBeforeTheDomainExistsKeepsItOff(t *testing.T) {
	w := newWorld(t)
	w.ports.fail(fault.Unavailable)
	x := newWire(t, w)
	id := x.create(wanted("uid-1")).Metadata.Id
	setPower(t, x.s, id, api.Power_POWER_OFF)
	w.ports.fail(nil)
	x.s.Retry(id)
	x.awaitState(id, suspended)
	if n := w.hypervisor.Starts(id); n != 0 {
		t.Errorf("started %d times", n)
	}
}

func TestCreateIsDurableAndDeduplicatesOnTheUID(t *testing.T) {
	w := newWorld(t)
	s := w.server(t) // no reconciler: what counts is on disk when Create answers
	ids := make(chan string, 8)
	for range cap(ids) {
		go func() {
			answer, err := s.CreateMachine(context.Background(), &api.CreateMachineRequest{Machine: wanted("uid-1")})
			ids <- fmt.Sprint(answer.GetMachine().GetMetadata().GetId(), err)
		}()
	}
	first := <-ids
	for range cap(ids) - 1 {
		if id := <-ids; id != first {
			t.Errorf("answers %s and %s for one UID", first, id)
		}
	}
	if again := w.server(t).views("", map[string]string{UIDLabel: "uid-1"}); len(again) != 1 {
		t.Errorf("%d machines after a restart", len(again))
	}
	if m := create(t, s, wanted("uid-2")); m.Metadata.Id == first {
		t.Error("two UIDs share a machine")
	}
	a, b := create(t, s, wanted("")), create(t, s, wanted(""))
	if a.Metadata.Id == b.Metadata.Id {
		t.Error("machines without a UID are taken for one")
	}
}

func TestListFilters(t *testing.T) {
	s := newWorld(t).server(t)
	one, two, none := create(t, s, wanted("uid-1")), create(t, s, wanted("uid-2")), create(t, s, wanted(""))
	tests := []struct {
		name     string
		id       string
		selector map[string]string
		want     []*api.Machine
	}{
		{name: "all, oldest first", want: []*api.Machine{one, two, none}},
		{name: "id", id: two.Metadata.Id, want: []*api.Machine{two}},
		{name: "unknown id", id: "nobody"},
		{name: "label", selector: map[string]string{UIDLabel: "uid-1"}, want: []*api.Machine{one}},
		{name: "an empty value is not any value", selector: map[string]string{UIDLabel: ""}, want: []*api.Machine{none}},
		{name: "id and foreign label", id: two.Metadata.Id, selector: map[string]string{UIDLabel: "uid-1"}},
		{name: "two labels", selector: map[string]string{UIDLabel: "uid-1", "empty": ""}, want: []*api.Machine{one}},
		{name: "unknown label", selector: map[string]string{"colour": "red"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, s.views(test.id, test.selector), protocmp.Transform()); diff != "" {
				t.Errorf("views (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDeleteIsRepeatedUntilNotFound(t *testing.T) {
	w := newWorld(t)
	w.hypervisor.DeafGuests = true
	x := newWire(t, w, func(c *Config) { c.DeleteTimeout = 200 * time.Millisecond })
	id := x.create(wanted("uid-1")).Metadata.Id
	x.awaitState(id, running)
	calls := 0
	x.await("NotFound", func() bool {
		_, err := x.c.DeleteMachine(context.Background(), &api.DeleteMachineRequest{MachineId: id})
		if m := x.get(id); m != nil && (m.Status.State != api.MachineState_MACHINE_TERMINATING || m.Metadata.DeletedAt == 0) {
			t.Fatalf("a deleted machine is shown as %v", m)
		}
		calls++
		return status.Code(err) == codes.NotFound
	})
	if calls < 3 || w.left() != "" {
		t.Errorf("%d calls, left:\n%s", calls, w.left())
	}
}

func TestCreateWaitsForItsPredecessorToBeGone(t *testing.T) {
	w := newWorld(t)
	x := newWire(t, w)
	id := x.create(wanted("uid-1")).Metadata.Id
	x.awaitState(id, running)
	w.hypervisor.SetUnavailable(true)
	remove(t, x.s, id)
	_, err := x.c.CreateMachine(context.Background(), &api.CreateMachineRequest{Machine: wanted("uid-1")})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("create: %v, want FailedPrecondition", err)
	}
	w.hypervisor.SetUnavailable(false)
	x.await("deletion", func() bool { return x.get(id) == nil })
	if next := x.create(wanted("uid-1")).Metadata.Id; next == id {
		t.Error("an id was used again")
	}
}

func TestStatusListsFollowTheSpec(t *testing.T) {
	x := newWire(t, newWorld(t))
	id := x.create(wanted("uid-1")).Metadata.Id
	got := x.awaitState(id, running).Status
	got.MachineConditions = nil
	want := &api.MachineStatus{
		ObservedGeneration: 1, State: running, ImageRef: "example.org/os:1",
		Volumes: []*api.VolumeStatus{
			{Name: "root", Handle: id + "/root", State: api.VolumeState_VOLUME_ATTACHED},
			{Name: "data", Handle: id + "/data", State: api.VolumeState_VOLUME_ATTACHED},
		},
		NetworkInterfaces: []*api.NetworkInterfaceStatus{
			{Name: "b", Handle: id + "/b", State: api.NetworkInterfaceState_NETWORK_INTERFACE_ATTACHED},
			{Name: "a", Handle: id + "/a", State: api.NetworkInterfaceState_NETWORK_INTERFACE_ATTACHED},
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestErrorCodes(t *testing.T) {
	x := newWire(t, newWorld(t))
	ctx := context.Background()
	createWith := func(change func(*api.MachineSpec)) error {
		m := wanted("uid-bad")
		change(m.Spec)
		_, err := x.c.CreateMachine(ctx, &api.CreateMachineRequest{Machine: m})
		return err
	}
	_, unknownDelete := x.c.DeleteMachine(ctx, &api.DeleteMachineRequest{MachineId: "nobody"})
	_, unknownPower := x.c.UpdateMachinePower(ctx, &api.UpdateMachinePowerRequest{MachineId: "nobody"})
	_, unknownNotes := x.c.UpdateMachineAnnotations(ctx, &api.UpdateMachineAnnotationsRequest{MachineId: "nobody"})
	_, attach := x.c.AttachVolume(ctx, &api.AttachVolumeRequest{})
	_, exec := x.c.Exec(ctx, &api.ExecRequest{})
	_, noMachine := x.c.CreateMachine(ctx, &api.CreateMachineRequest{})
	tests := []struct {
		name string
		err  error
		want codes.Code
	}{
		{"delete of an unknown machine", unknownDelete, codes.NotFound},
		{"power of an unknown machine", unknownPower, codes.NotFound},
		{"annotations of an unknown machine", unknownNotes, codes.NotFound},
		{"attach", attach, codes.Unimplemented},
		{"exec", exec, codes.Unimplemented},
		{"no machine", noMachine, codes.InvalidArgument},
		{"unknown class", createWith(func(s *api.MachineSpec) { s.Class = "huge" }), codes.InvalidArgument},
		{"bad power", createWith(func(s *api.MachineSpec) { s.Power = 7 }), codes.InvalidArgument},
		{"bad address", createWith(func(s *api.MachineSpec) { s.NetworkInterfaces[0].Ips = []string{"10.0.0"} }), codes.InvalidArgument},
		{"no network", createWith(func(s *api.MachineSpec) { s.NetworkInterfaces[0].NetworkId = "" }), codes.InvalidArgument},
		{"interface twice", createWith(func(s *api.MachineSpec) { s.NetworkInterfaces[0].Name = "a" }), codes.InvalidArgument},
		{"volume twice", createWith(func(s *api.MachineSpec) { s.Volumes[0].Name = "data" }), codes.InvalidArgument},
		{"empty disk without size", createWith(func(s *api.MachineSpec) { s.Volumes[1].LocalDisk.SizeBytes = 0 }), codes.InvalidArgument},
		{"odd size", createWith(func(s *api.MachineSpec) { s.Volumes[1].LocalDisk.SizeBytes = 1000 }), codes.InvalidArgument},
		{"no disk", createWith(func(s *api.MachineSpec) { s.Volumes[1].LocalDisk = nil }), codes.InvalidArgument},
		{"connection", createWith(func(s *api.MachineSpec) {
			s.Volumes[1] = &api.Volume{Name: "data", Connection: &api.VolumeConnection{Driver: "ceph"}}
		}), codes.Unimplemented},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := status.Code(test.err); got != test.want {
				t.Errorf("%v, want %v: %v", got, test.want, test.err)
			}
		})
	}
	if left := x.w.left(); left != "" {
		t.Errorf("refused machines left:\n%s", left)
	}
}

func TestFullHostRefusesAndFreesWhatIsDeleted(t *testing.T) {
	x := newWire(t, newWorld(t))
	var last string
	for i := range 8 {
		last = x.create(wanted(fmt.Sprint("uid-", i))).Metadata.Id
	}
	_, err := x.c.CreateMachine(context.Background(), &api.CreateMachineRequest{Machine: wanted("uid-9")})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("ninth machine on eight CPUs: %v", err)
	}
	remove(t, x.s, last)
	x.await("deletion", func() bool { return x.get(last) == nil })
	x.create(wanted("uid-9"))
}

func (x *wire) events(f *api.EventFilter) []*eventapi.Event {
	x.t.Helper()
	answer, err := x.c.ListEvents(context.Background(), &api.ListEventsRequest{Filter: f})
	if err != nil {
		x.t.Fatal(err)
	}
	return answer.Events
}
