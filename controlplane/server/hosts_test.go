package server_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

func placement(project, name, pool, uid string) *resource.Resource {
	return &resource.Resource{Meta: metaOf(api.MachinePlacement, project, name), Spec: &v1alpha1.MachinePlacementSpec{Pool: pool, MachineUid: uid}}
}

// link is a host's stream.
type link struct {
	t      *testing.T
	stream v1alpha1.HostService_SyncClient
	seq    uint64
	views  chan *v1alpha1.HostView
	err    error // why the stream ended; set before views is closed
}

func openLink(t *testing.T, c *client.Client, hello *v1alpha1.HostHello) *link {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := c.Hosts.Sync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&v1alpha1.HostReport{Hello: hello}); err != nil {
		t.Fatal(err)
	}
	l := &link{t: t, stream: stream, views: make(chan *v1alpha1.HostView, 1000)}
	go func() {
		defer close(l.views)
		for {
			view, err := stream.Recv()
			if err != nil {
				l.err = err
				return
			}
			l.views <- view
		}
	}()
	return l
}

func (l *link) recv() *v1alpha1.HostView {
	l.t.Helper()
	select {
	case v, ok := <-l.views:
		if !ok {
			l.t.Fatalf("stream ended: %v", l.err)
		}
		return v
	case <-time.After(patience):
		l.t.Fatal("the server says nothing")
	}
	return nil
}

// view is the next change of the view as text: "reset +Kind/name -Kind/name".
func (l *link) view() string {
	l.t.Helper()
	for {
		v := l.recv()
		if v.Revision == 0 {
			continue // acknowledges only
		}
		var parts []string
		for _, o := range v.Upserts {
			parts = append(parts, "+"+o.Kind+"/"+o.Metadata.Name)
		}
		for _, o := range v.Deletes {
			parts = append(parts, "-"+o.Kind+"/"+o.Name)
		}
		slices.Sort(parts)
		if v.Reset_ {
			parts = append([]string{"reset"}, parts...)
		}
		return strings.Join(parts, " ")
	}
}

// report sends a report and waits for its acknowledgement.
func (l *link) report(r *v1alpha1.HostReport) *v1alpha1.HostView {
	l.t.Helper()
	l.seq++
	r.Sequence = l.seq
	if err := l.stream.Send(r); err != nil {
		l.t.Fatal(err)
	}
	for {
		if v := l.recv(); v.Acknowledged != 0 {
			diff(l.t, "acknowledged", l.seq, v.Acknowledged)
			return v
		}
	}
}

// ended is why the stream ended.
func (l *link) ended() error {
	l.t.Helper()
	for {
		select {
		case _, ok := <-l.views:
			if !ok {
				return l.err
			}
		case <-time.After(patience):
			l.t.Fatal("the stream does not end")
		}
	}
}

func hostMachine(host, name string) *resource.Resource {
	return &resource.Resource{Meta: metaOf(api.HostMachine, "shop", name), Spec: &v1alpha1.HostMachineSpec{Host: host, Name: name}}
}

func TestAHostSeesItsViewAndNobodyElses(t *testing.T) {
	w := newWorld(t)
	apply(t, w.admin(), base)
	made := w.write("hostview", store.Op{Resource: hostMachine("h1", "a")}, store.Op{Resource: hostMachine("h2", "b")})
	h1 := openLink(t, w.host("h1"), &v1alpha1.HostHello{})
	diff(t, "view of h1", "reset +HostMachine/a +MachineClass/small", h1.view())
	w.write("hostview", store.Op{Resource: &resource.Resource{Meta: metaOf(api.HostInterface, "shop", "nic-b"), Spec: &v1alpha1.HostInterfaceSpec{Host: "h2"}}})
	w.write("hostview", store.Op{Resource: &resource.Resource{Meta: metaOf(api.HostInterface, "shop", "nic-a"), Spec: &v1alpha1.HostInterfaceSpec{Host: "h1"}}})
	diff(t, "change", "+HostInterface/nic-a", h1.view())

	moved := made[0].Clone()
	resource.Spec[*v1alpha1.HostMachineSpec](moved).Host = "h2"
	w.write("hostview", store.Op{Type: store.Update, Resource: moved})
	diff(t, "what goes to another host", "-HostMachine/a", h1.view())
	h2 := openLink(t, w.host("h2"), &v1alpha1.HostHello{})
	diff(t, "view of h2", "reset +HostInterface/nic-b +HostMachine/a +HostMachine/b +MachineClass/small", h2.view())
}

func TestAHostResumesWithinAnEpoch(t *testing.T) {
	w := newWorld(t)
	apply(t, w.admin(), base)
	w.write("hostview", store.Op{Resource: hostMachine("h1", "a")})
	first := openLink(t, w.host("h1"), &v1alpha1.HostHello{})
	var at *v1alpha1.HostView
	for at == nil || at.Revision == 0 {
		at = first.recv()
	}
	w.write("hostview", store.Op{Resource: hostMachine("h1", "b")})
	second := openLink(t, w.host("h1"), &v1alpha1.HostHello{Revision: at.Revision, Epoch: at.Epoch})
	diff(t, "what was missed", "+HostMachine/b", second.view())
	third := openLink(t, w.host("h1"), &v1alpha1.HostHello{Revision: at.Revision, Epoch: "another"})
	diff(t, "view in another epoch", "reset +HostMachine/a +HostMachine/b +MachineClass/small", third.view())
}

func TestANewerStreamOfAHostEndsTheOlder(t *testing.T) {
	w := newWorld(t)
	first := openLink(t, w.host("h1"), &v1alpha1.HostHello{})
	first.report(&v1alpha1.HostReport{})
	second := openLink(t, w.host("h1"), &v1alpha1.HostHello{})
	second.report(&v1alpha1.HostReport{})
	wantError(t, first.ended(), codes.Aborted, "Replaced", "a newer stream of host h1 took over")
	second.report(&v1alpha1.HostReport{})
}

func TestAStreamBeginsWithHello(t *testing.T) {
	w := newWorld(t)
	l := openLink(t, w.host("h1"), nil)
	wantError(t, l.ended(), codes.InvalidArgument, "Invalid", "hello: required")
}

func TestReportsAreStoredInTheHostsName(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base+"---"+machine)
	uid := getMachine(t, c).Metadata.Uid
	w.write("scheduler", store.Op{Resource: placement("shop", "web", "h1", uid)})
	l := openLink(t, w.host("h1"), &v1alpha1.HostHello{ProviderId: "ingot://h1", AgentVersion: "v1"})
	running := &v1alpha1.MachineReport{Namespace: "shop", Name: "web", Uid: uid, Status: &v1alpha1.MachineStatus{State: "Running", MachineId: "id"}}
	l.report(&v1alpha1.HostReport{
		Pool:     &v1alpha1.MachinePoolStatus{State: "Ready", Capacity: map[string]string{"cpu": "8"}},
		Machines: []*v1alpha1.MachineReport{running},
	})
	pool, err := c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "MachinePool", Name: "h1"})
	if err != nil {
		t.Fatal(err)
	}
	spec, _ := api.Spec(pool)
	status, _ := api.Status(pool)
	diff(t, "pool", &v1alpha1.MachinePoolSpec{ProviderId: "ingot://h1"}, spec, protocmp.Transform())
	diff(t, "pool status", &v1alpha1.MachinePoolStatus{State: "Ready", Capacity: map[string]string{"cpu": "8"}, AgentVersion: "v1"}, status, protocmp.Transform())
	diff(t, "machine status", &v1alpha1.MachineStatus{State: "Running", MachineId: "id", MachinePoolRef: &v1alpha1.LocalRef{Name: "h1"}},
		machineStatus(t, getMachine(t, c)), protocmp.Transform())

	revision := w.store.Revision()
	l.report(&v1alpha1.HostReport{Machines: []*v1alpha1.MachineReport{running}})
	diff(t, "revision after the same report", revision, w.store.Revision())

	running.Gone = true
	l.report(&v1alpha1.HostReport{Machines: []*v1alpha1.MachineReport{running}})
	stored, err := w.store.Get(t.Context(), resource.Key{Kind: api.MachineStatus, Project: "shop", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "gone", true, resource.Spec[*v1alpha1.MachineStatus](stored).Gone)
	diff(t, "owner", "host/h1", stored.Owner)
}

func TestAPoolKeepsWhatUsersWroteWhenItsHostReturns(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, "apiVersion: compute.ironcore.dev/v1alpha1\nkind: MachinePool\nmetadata: {name: h1, labels: {rack: r1}}\nspec: {taints: [{key: a, effect: NoSchedule}]}\n")
	openLink(t, w.host("h1"), &v1alpha1.HostHello{ProviderId: "ingot://h1"}).report(&v1alpha1.HostReport{})
	o, err := c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "MachinePool", Name: "h1"})
	if err != nil {
		t.Fatal(err)
	}
	spec, _ := api.Spec(o)
	diff(t, "labels", map[string]string{"rack": "r1"}, o.Metadata.Labels)
	diff(t, "spec", &v1alpha1.MachinePoolSpec{ProviderId: "ingot://h1", Taints: []*v1alpha1.Taint{{Key: "a", Effect: "NoSchedule"}}}, spec, protocmp.Transform())
}

func TestADeletedPoolReturnsWithTheNextReportOfItsHost(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	l := openLink(t, w.host("h1"), &v1alpha1.HostHello{ProviderId: "ingot://h1"})
	l.report(&v1alpha1.HostReport{})
	if _, err := c.Delete(t.Context(), &v1alpha1.DeleteRequest{Kind: "MachinePool", Name: "h1"}); err != nil {
		t.Fatal(err)
	}
	l.report(&v1alpha1.HostReport{Pool: &v1alpha1.MachinePoolStatus{State: "Ready"}})
	if _, err := c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "MachinePool", Name: "h1"}); err != nil {
		t.Error(err)
	}
}

func TestAHostSpeaksOfItsOwnMachinesOnly(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base+"---"+machine)
	uid := getMachine(t, c).Metadata.Uid
	w.write("scheduler", store.Op{Resource: placement("shop", "web", "h1", uid)})
	thief := openLink(t, w.host("h2"), &v1alpha1.HostHello{})
	owner := openLink(t, w.host("h1"), &v1alpha1.HostHello{})
	report := func(uid, name string) *v1alpha1.HostReport {
		return &v1alpha1.HostReport{Machines: []*v1alpha1.MachineReport{{Namespace: "shop", Name: name, Uid: uid, Status: &v1alpha1.MachineStatus{State: "Terminated"}, Gone: true}},
			Events: []*v1alpha1.EventSpec{{InvolvedObject: &v1alpha1.ObjectRef{Kind: "Machine", Namespace: "shop", Name: name, Uid: uid}, Reason: "Lie"}}}
	}
	for _, test := range []struct {
		name  string
		by    *link
		r     *v1alpha1.HostReport
		wants string
	}{
		{"another host's machine", thief, report(uid, "web"), "machine shop/web is not placed on host h2"},
		{"a machine that is not there", owner, report(uid, "nope"), "machine shop/nope is not placed"},
		{"a predecessor", owner, report("before", "web"), `machine shop/web is another one than "before"`},
		{"a machine without uid", owner, report("", "web"), "is another one"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := test.by.report(test.r)
			if len(v.Rejected) != 1 || !strings.Contains(v.Rejected[0].Message, test.wants) {
				t.Errorf("rejected %v, want %q", v.Rejected, test.wants)
			}
		})
	}
	_, err := w.store.Get(t.Context(), resource.Key{Kind: api.MachineStatus, Project: "shop", Name: "web"})
	if !errors.Is(err, fault.NotFound) {
		t.Errorf("a status was stored: %v", err)
	}
	diff(t, "events", 0, len(events(t, c)))
}

func TestARefusalIsACondition(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base+"---"+machine)
	uid := getMachine(t, c).Metadata.Uid
	place := w.write("scheduler", store.Op{Resource: placement("shop", "web", "h1", uid)})[0]
	l := openLink(t, w.host("h1"), &v1alpha1.HostHello{})
	refuse := &v1alpha1.HostReport{Machines: []*v1alpha1.MachineReport{{Namespace: "shop", Name: "web", Uid: uid, Refused: "no memory"}}}
	l.report(refuse)
	get := func() *resource.Resource {
		r, err := w.store.Get(t.Context(), resource.Key{Kind: api.MachineStatus, Project: "shop", Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := get()
	status := resource.Spec[*v1alpha1.MachineStatus](first)
	want := &v1alpha1.MachineStatus{State: "Pending", MachineUid: uid, MachinePoolRef: &v1alpha1.LocalRef{Name: "h1"},
		Conditions: []*v1alpha1.Condition{{Type: "Admitted", Status: "False", Reason: "Refused", Message: "no memory"}}}
	diff(t, "status", want, status, protocmp.Transform(), protocmp.IgnoreFields(&v1alpha1.Condition{}, "last_transition_time"))
	l.report(refuse)
	diff(t, "revision after the same refusal", first.Revision, get().Revision)

	// The scheduler looks elsewhere, and the next host takes the status over.
	moved := place.Clone()
	resource.Spec[*v1alpha1.MachinePlacementSpec](moved).Pool = "h2"
	w.write("scheduler", store.Op{Type: store.Update, Resource: moved})
	openLink(t, w.host("h2"), &v1alpha1.HostHello{}).report(&v1alpha1.HostReport{Machines: []*v1alpha1.MachineReport{
		{Namespace: "shop", Name: "web", Uid: uid, Status: &v1alpha1.MachineStatus{State: "Running"}}}})
	diff(t, "owner", "host/h2", get().Owner)
	diff(t, "state", "Running", machineStatus(t, getMachine(t, c)).State)
}

func events(t *testing.T, c *client.Client) []*v1alpha1.EventSpec {
	t.Helper()
	list, err := c.List(t.Context(), &v1alpha1.ListRequest{Kind: "Event", Namespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]*v1alpha1.EventSpec, len(list.Items))
	for i, o := range list.Items {
		spec, err := api.Spec(o)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = spec.(*v1alpha1.EventSpec)
	}
	return out
}

func TestEventsAreCountedAndBounded(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base+"---"+machine)
	uid := getMachine(t, c).Metadata.Uid
	w.write("scheduler", store.Op{Resource: placement("shop", "web", "h1", uid)})
	l := openLink(t, w.host("h1"), &v1alpha1.HostHello{})
	event := func(message string) *v1alpha1.EventSpec {
		return &v1alpha1.EventSpec{InvolvedObject: &v1alpha1.ObjectRef{Kind: "Machine", Namespace: "shop", Name: "web", Uid: uid}, Type: "Warning", Reason: "Pull", Message: message}
	}
	for range 3 {
		l.report(&v1alpha1.HostReport{Events: []*v1alpha1.EventSpec{event("again")}})
	}
	got := events(t, c)
	if len(got) != 1 || got[0].Count != 3 || got[0].Source != "host/h1" || got[0].LastTimestamp == nil {
		t.Fatalf("events are %v", got)
	}
	for i := range 70 {
		l.report(&v1alpha1.HostReport{Events: []*v1alpha1.EventSpec{event(fmt.Sprintf("message %d %s", i, strings.Repeat("ä", 1000)))}})
	}
	got = events(t, c)
	diff(t, "events of one object", 50, len(got))
	if slices.ContainsFunc(got, func(e *v1alpha1.EventSpec) bool { return e.Message == "again" }) {
		t.Error("the oldest event is still there")
	}
	for _, e := range got {
		if len(e.Message) > 1024 {
			t.Errorf("a message has %d bytes", len(e.Message))
		}
	}
}
