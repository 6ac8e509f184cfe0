package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/controller"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
)

// A rig is a store, all controllers, and hosts that do what they are told.
type rig struct {
	testing.TB
	store store.Store
	// mortal is the store as the controllers see it.
	mortal *mortal
	stop   func()
	idle   func()
	// idleWithin reports whether the controllers had nothing to do within d.
	idleWithin func(d time.Duration) bool
	// status is what the controllers say of themselves.
	status func() string
	// refuses says why a host refuses a machine; nil: never.
	refuses func(host string, m *v1alpha1.HostMachineSpec) string
	// frozen hosts do nothing.
	frozen map[string]bool
}

func newRig(t testing.TB) *rig {
	t.Helper()
	s := mem.New(api.Schema(), mem.Config{})
	r := &rig{TB: t, store: s, mortal: &mortal{Store: s}, frozen: map[string]bool{}}
	r.mortal.left.Store(-1)
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

// start runs the controllers anew, as after a crash.
func (r *rig) start() {
	r.Helper()
	engine := controller.New(r.mortal, slog.New(slog.DiscardHandler), controller.Config{BackoffFirst: time.Millisecond, BackoffMost: 50 * time.Millisecond})
	if err := engine.Add(Controllers(Config{})...); err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.Errorf("run controllers: %v", err)
		}
		r.stop = func() {}
	}
	r.status = func() string {
		var b strings.Builder
		for _, st := range engine.Status() {
			fmt.Fprintf(&b, "%+v\n", st)
		}
		return b.String()
	}
	r.idleWithin = func(d time.Duration) bool {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		defer cancel()
		return engine.WaitIdle(ctx) == nil
	}
	r.idle = func() {
		r.Helper()
		if !r.idleWithin(2 * time.Minute) {
			r.Fatalf("controllers never rest: %+v\n%s", engine.Status(), r.dump())
		}
	}
}

func (r *rig) restart() { r.stop(); r.start() }

func key(kind resource.Kind, name string) resource.Key {
	k := resource.Key{Kind: kind, Name: name, Project: "p"}
	if info, _ := api.Lookup(kind); info.Global {
		k.Project = ""
	}
	return k
}

func (r *rig) txn(writer string, ops ...store.Op) error {
	_, err := r.store.Txn(context.Background(), store.Txn{Writer: writer, Ops: ops})
	return err
}

func (r *rig) create(kind resource.Kind, name string, labels map[string]string, spec proto.Message) {
	r.Helper()
	if err := r.txn("", store.Op{Type: store.Create, Resource: &resource.Resource{Meta: resource.Meta{Key: key(kind, name), Labels: labels}, Spec: spec}}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) delete(kind resource.Kind, name string) {
	r.Helper()
	if err := r.txn("", store.Op{Type: store.Delete, Resource: &resource.Resource{Meta: resource.Meta{Key: key(kind, name)}}}); err != nil {
		r.Fatal(err)
	}
}

// change updates what users own.
func (r *rig) change(kind resource.Kind, name string, f func(*resource.Resource)) {
	r.Helper()
	c := r.get(kind, name).Clone()
	f(c)
	if err := r.txn(c.Owner, store.Op{Type: store.Update, Resource: c}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) find(kind resource.Kind, name string) *resource.Resource {
	res, err := r.store.Get(context.Background(), key(kind, name))
	if err != nil {
		return nil
	}
	return res
}

func (r *rig) get(kind resource.Kind, name string) *resource.Resource {
	r.Helper()
	res, err := r.store.Get(context.Background(), key(kind, name))
	if err != nil {
		r.Fatalf("%v\n%s", err, r.dump())
	}
	return res
}

func (r *rig) list(kind resource.Kind) []*resource.Resource {
	r.Helper()
	page, err := r.store.List(context.Background(), store.Query{Kind: kind})
	if err != nil {
		r.Fatal(err)
	}
	return page.Items
}

// put writes what a host reports.
func (r *rig) put(writer string, k resource.Key, spec proto.Message) (changed bool) {
	r.Helper()
	res := &resource.Resource{Meta: resource.Meta{Key: k}, Spec: spec}
	present, err := r.store.Get(context.Background(), k)
	op := store.Op{Type: store.Create, Resource: res}
	if err == nil {
		if proto.Equal(present.Spec, spec) {
			return false
		}
		if present.Owner != writer {
			if err := r.txn(present.Owner, store.Op{Type: store.Delete, Resource: present}); err != nil {
				r.Fatal(err)
			}
		} else {
			op.Type = store.Update
		}
	}
	if err := r.txn(writer, op); err != nil {
		r.Fatal(err)
	}
	return true
}

// hostsAct lets every host report on all it is told of; it returns whether anything was new.
func (r *rig) hostsAct() bool {
	r.Helper()
	acted := false
	for _, hm := range r.list(api.HostMachine) {
		spec := resource.Spec[*v1alpha1.HostMachineSpec](hm)
		host := spec.GetHost()
		if r.frozen[host] {
			continue
		}
		status := &v1alpha1.MachineStatus{State: "Running", MachineUid: spec.GetUid(), MachinePoolRef: &v1alpha1.LocalRef{Name: host}, ObservedGeneration: uint32(spec.GetGeneration())}
		if r.refuses != nil {
			if why := r.refuses(host, spec); why != "" {
				status.State = "Pending"
				status.Conditions = []*v1alpha1.Condition{{Type: "Admitted", Status: "False", Reason: "Refused", Message: why}}
			}
		}
		if hm.Phase == resource.TearingDown {
			status.State, status.Gone = "Terminated", true
		}
		k := resource.Key{Kind: api.MachineStatus, Project: spec.GetNamespace(), Name: spec.GetName()}
		acted = r.put("host/"+host, k, status) || acted
	}
	return acted
}

// settle lets controllers and hosts work until nothing is left to do.
func (r *rig) settle() {
	r.Helper()
	for {
		r.idle()
		if !r.hostsAct() {
			return
		}
	}
}

// dump is the whole store, one object a line.
func (r *rig) dump() string {
	var b strings.Builder
	for _, info := range api.Kinds() {
		for _, res := range r.list(info.Kind) {
			fmt.Fprintf(&b, "%s phase=%d finalizers=%v %v\n", res.Key, res.Phase, res.Finalizers, res.Spec)
		}
	}
	return b.String()
}

func (r *rig) pool(name string, capacity map[string]string) {
	r.Helper()
	r.create(api.MachinePool, name, nil, &v1alpha1.MachinePoolSpec{})
	r.put("host/"+name, resource.Key{Kind: api.MachinePoolStatus, Name: name}, &v1alpha1.MachinePoolStatus{
		State: "Ready", Capacity: capacity, AvailableMachineClasses: []*v1alpha1.LocalRef{{Name: "small"}}})
}

var capacity = map[string]string{"cpu": "8", "memory": "16Gi", "disk": "100Gi", "machines": "10"}

// world has two hosts, a class, a network and a prefix.
func (r *rig) world() {
	r.Helper()
	r.pool("h1", capacity)
	r.pool("h2", capacity)
	r.create(api.MachineClass, "small", nil, &v1alpha1.MachineClassSpec{Capabilities: map[string]string{"cpu": "1", "memory": "1Gi"}})
	r.create(api.Network, "net", nil, &v1alpha1.NetworkSpec{})
	r.create(api.Prefix, "root", nil, &v1alpha1.PrefixSpec{Prefix: "10.0.0.0/24"})
}

func ephemeralIP(parent string) *v1alpha1.InterfaceIP {
	return &v1alpha1.InterfaceIP{Ephemeral: &v1alpha1.EphemeralPrefix{PrefixTemplate: &v1alpha1.PrefixTemplate{
		Spec: &v1alpha1.PrefixSpec{ParentRef: &v1alpha1.LocalRef{Name: parent}}}}}
}

func nicSpec(ips ...*v1alpha1.InterfaceIP) *v1alpha1.NetworkInterfaceSpec {
	s := &v1alpha1.NetworkInterfaceSpec{NetworkRef: &v1alpha1.LocalRef{Name: "net"}, Ips: ips}
	for range ips {
		s.IpFamilies = append(s.IpFamilies, "IPv4")
	}
	return s
}

// machineSpec has one ephemeral interface, nic0, with an address of root.
func machineSpec(labels map[string]string) *v1alpha1.MachineSpec {
	return &v1alpha1.MachineSpec{
		MachineClassRef: &v1alpha1.LocalRef{Name: "small"}, Image: "oci-layout:/image:1",
		NetworkInterfaces: []*v1alpha1.MachineInterface{{Name: "nic0", Ephemeral: &v1alpha1.EphemeralInterface{
			NetworkInterfaceTemplate: &v1alpha1.NetworkInterfaceTemplate{
				Metadata: &v1alpha1.TemplateMeta{Labels: labels}, Spec: nicSpec(ephemeralIP("root"))}}}},
	}
}

func hostOf(r *rig, machine string) string {
	p := r.find(api.MachinePlacement, machine)
	if p == nil {
		return ""
	}
	return resource.Spec[*v1alpha1.MachinePlacementSpec](p).GetPool()
}

func prepared(r *rig, machine string) string {
	p := r.find(api.MachineProgress, machine)
	if p == nil {
		return ""
	}
	return resource.Spec[*v1alpha1.MachineProgressSpec](p).GetConditions()[0].GetMessage()
}

func scheduled(r *rig, machine string) string {
	return resource.Spec[*v1alpha1.MachinePlacementSpec](r.get(api.MachinePlacement, machine)).GetConditions()[0].GetMessage()
}

func nicStatus(r *rig, nic string) *v1alpha1.NetworkInterfaceStatus {
	r.Helper()
	return resource.Spec[*v1alpha1.NetworkInterfaceStatus](r.get(api.InterfaceStatus, nic))
}
