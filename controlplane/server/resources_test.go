package server_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

func getMachine(t *testing.T, c *client.Client) *v1alpha1.Object {
	t.Helper()
	o, err := c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "Machine", Namespace: "shop", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func machineSpec(t *testing.T, o *v1alpha1.Object) *v1alpha1.MachineSpec {
	t.Helper()
	spec, err := api.Spec(o)
	if err != nil {
		t.Fatal(err)
	}
	return spec.(*v1alpha1.MachineSpec)
}

func machineStatus(t *testing.T, o *v1alpha1.Object) *v1alpha1.MachineStatus {
	t.Helper()
	status, err := api.Status(o)
	if err != nil {
		t.Fatal(err)
	}
	return status.(*v1alpha1.MachineStatus)
}

func TestApplyCreatesThenConfiguresThenChangesNothing(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base)
	var results []string
	for _, m := range []string{
		machine, machine, strings.Replace(machine, "front", "back", 1), machine,
		strings.Replace(machine, "spec:", "spec:\n  machinePoolRef: {name: h1}", 1),
		machine, // what is set once stays
	} {
		results = append(results, apply(t, c, m).Result)
	}
	diff(t, "results", []string{"created", "unchanged", "configured", "configured", "configured", "unchanged"}, results)
	o := getMachine(t, c)
	diff(t, "pool", "h1", machineSpec(t, o).GetMachinePoolRef().GetName())
	diff(t, "generation counts changes of the spec", uint64(2), o.Metadata.Generation)

	dry, err := c.Apply(t.Context(), &v1alpha1.ApplyRequest{Object: one(t, strings.Replace(machine, "name: web", "name: dry", 1)), DryRun: true})
	if err != nil || dry.Result != "created" {
		t.Fatalf("dry run: %v, %v", dry, err)
	}
	_, err = c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "Machine", Namespace: "shop", Name: "dry"})
	wantError(t, err, codes.NotFound, "NotFound", "Machine/shop/dry")
}

func TestUpdateComparesRevisionAndTakesAMask(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base+"---"+machine)
	before := getMachine(t, c)

	off := proto.CloneOf(before)
	spec := machineSpec(t, off)
	spec.Power = "Off"
	spec.Image = "registry/other:1" // not in the mask
	if err := off.Spec.MarshalFrom(spec); err != nil {
		t.Fatal(err)
	}
	off.Metadata.Labels = nil // not in the mask
	mask := &fieldmaskpb.FieldMask{Paths: []string{"spec.power"}}
	after, err := c.Update(t.Context(), &v1alpha1.UpdateRequest{Object: off, Mask: mask})
	if err != nil {
		t.Fatal(err)
	}
	want := machineSpec(t, before)
	want.Power = "Off"
	diff(t, "spec", want, machineSpec(t, after), protocmp.Transform())
	diff(t, "labels", before.Metadata.Labels, after.Metadata.Labels)

	_, err = c.Update(t.Context(), &v1alpha1.UpdateRequest{Object: off, Mask: mask})
	wantError(t, err, codes.Aborted, "Changed", "somebody else changed it")
	if !errors.Is(err, fault.Conflict) {
		t.Errorf("%v is not a fault.Conflict", err)
	}

	off.Metadata.ResourceVersion = 0
	for path, text := range map[string]string{
		"status.state": "neither below metadata nor below spec", "spec.colour": `no field "colour"`,
		"spec.volumes.name": "has no parts of its own", "metadata.name": "cannot be changed",
	} {
		_, err = c.Update(t.Context(), &v1alpha1.UpdateRequest{Object: off, Mask: &fieldmaskpb.FieldMask{Paths: []string{path}}})
		wantError(t, err, codes.InvalidArgument, "Invalid", text)
	}

	off.Metadata.Labels = map[string]string{"tier": "back"}
	after, err = c.Update(t.Context(), &v1alpha1.UpdateRequest{Object: off, Mask: &fieldmaskpb.FieldMask{Paths: []string{"metadata.labels.tier"}}})
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "labels", map[string]string{"tier": "back"}, after.Metadata.Labels)
}

func TestDeleteWaitsForFinalizersAndMindsTheUID(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base+"---"+machine)
	key := resource.Key{Kind: api.Machine, Project: "shop", Name: "web"}
	w.write("machine", store.Op{Type: store.AddFinalizer, Resource: &resource.Resource{Meta: resource.Meta{Key: key}}, Finalizer: "machine"})
	req := &v1alpha1.DeleteRequest{Kind: "Machine", Namespace: "shop", Name: "web", Uid: "another"}
	_, err := c.Delete(t.Context(), req)
	wantError(t, err, codes.FailedPrecondition, "OtherObject", "it is another object")
	req.Uid = getMachine(t, c).Metadata.Uid
	for range 2 { // the second one changes nothing
		o, err := c.Delete(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		diff(t, "terminating", true, o.Metadata.Terminating)
	}
	diff(t, "state", "Terminating", machineStatus(t, getMachine(t, c)).State)
	_, err = c.Apply(t.Context(), &v1alpha1.ApplyRequest{Object: one(t, machine)})
	wantError(t, err, codes.FailedPrecondition, "Terminating", "it is being deleted, waiting for [machine]")
	w.write("machine", store.Op{Type: store.RemoveFinalizer, Resource: &resource.Resource{Meta: resource.Meta{Key: key}}, Finalizer: "machine"})
	_, err = c.Delete(t.Context(), req)
	wantError(t, err, codes.NotFound, "NotFound", "Machine/shop/web")
	if !errors.Is(err, fault.NotFound) {
		t.Errorf("%v is not a fault.NotFound", err)
	}
}

func TestARequestIDMakesOneObjectHoweverOftenItIsSent(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base)
	req := &v1alpha1.CreateRequest{Object: one(t, machine), RequestId: "r1"}
	uids := make([]string, 8)
	var wait sync.WaitGroup
	for i := range uids {
		wait.Go(func() {
			o, err := c.Create(t.Context(), req)
			if err != nil {
				t.Error(err)
				return
			}
			uids[i] = o.Metadata.Uid
		})
	}
	wait.Wait()
	for _, uid := range uids {
		diff(t, "uid", uids[0], uid)
	}
	_, err := c.Create(t.Context(), &v1alpha1.CreateRequest{Object: req.Object, RequestId: "r2"})
	wantError(t, err, codes.AlreadyExists, "Exists", "Machine/shop/web")
	_, err = c.Create(t.Context(), &v1alpha1.CreateRequest{Object: one(t, strings.Replace(machine, "front", "back", 1)), RequestId: "r1"})
	wantError(t, err, codes.InvalidArgument, "Invalid", "requestId: was used for another request, which made Machine/shop/web")

	if _, err := c.Delete(t.Context(), &v1alpha1.DeleteRequest{Kind: "Machine", Namespace: "shop", Name: "web"}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also when another one was made since
		_, err = c.Create(t.Context(), req)
		wantError(t, err, codes.FailedPrecondition, "Deleted", "Machine/shop/web was made by this request and is deleted since")
		apply(t, c, machine)
	}
}

func TestAListShowsOneRevisionInPages(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	const n = 25
	for i := range n {
		apply(t, c, manifest("core", "Project", fmt.Sprintf("p%02d", i), "spec: {description: old}"))
	}
	req := &v1alpha1.ListRequest{Kind: "Project", Limit: 10}
	var got []string
	for page := 0; ; page++ {
		resp, err := c.List(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range resp.Items {
			spec, _ := api.Spec(o)
			got = append(got, o.Metadata.Name+" "+spec.(*v1alpha1.ProjectSpec).Description)
		}
		apply(t, c, manifest("core", "Project", fmt.Sprintf("p%02dx", page), "")+"---\n"+manifest("core", "Project", "p20", "spec: {description: new}"))
		if req.Continue = resp.Continue; req.Continue == "" {
			break
		}
	}
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("p%02d old", i))
	}
	diff(t, "items", want, got)

	for _, token := range []string{"nonsense", "OTk5LjE"} {
		_, err := c.List(t.Context(), &v1alpha1.ListRequest{Kind: "Project", Continue: token})
		if err == nil {
			t.Errorf("token %q was taken", token)
		}
	}
	resp, err := c.List(t.Context(), &v1alpha1.ListRequest{Kind: "Project", Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.List(t.Context(), &v1alpha1.ListRequest{Kind: "MachineClass", Continue: resp.Continue})
	wantError(t, err, codes.InvalidArgument, "Invalid", "continue: belongs to another list")
}

func TestListSelectsByLabels(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	for name, labels := range map[string]string{"a": "tier: front", "b": "tier: back, old: 'yes'", "c": "other: x"} {
		apply(t, c, fmt.Sprintf("apiVersion: core.ironcore.dev/v1alpha1\nkind: Project\nmetadata: {name: %s, labels: {%s}}\n", name, labels))
	}
	expr := func(key, op string, values ...string) *v1alpha1.LabelSelector {
		return &v1alpha1.LabelSelector{MatchExpressions: []*v1alpha1.LabelRequirement{{Key: key, Operator: op, Values: values}}}
	}
	for _, test := range []struct {
		selector *v1alpha1.LabelSelector
		want     []string
	}{
		{&v1alpha1.LabelSelector{MatchLabels: map[string]string{"tier": "back"}}, []string{"b"}},
		{expr("tier", "In", "front", "back"), []string{"a", "b"}},
		{expr("tier", "NotIn", "front"), []string{"b", "c"}},
		{expr("tier", "Exists"), []string{"a", "b"}},
		{expr("old", "DoesNotExist"), []string{"a", "c"}},
	} {
		resp, err := c.List(t.Context(), &v1alpha1.ListRequest{Kind: "Project", LabelSelector: test.selector})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range resp.Items {
			got = append(got, o.Metadata.Name)
		}
		diff(t, test.selector.String(), test.want, got)
	}
	_, err := c.List(t.Context(), &v1alpha1.ListRequest{Kind: "Project", LabelSelector: expr("a", "Like")})
	wantError(t, err, codes.InvalidArgument, "Invalid", "labelSelector.matchExpressions")
}

func TestSecretsComeWithTheirDataFromGetOnly(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base)
	created := apply(t, c, manifest("core", "Secret", "s", "stringData: {user: root}\ndata: {pass: c2VjcmV0}")).Object
	data := func(o *v1alpha1.Object) map[string]string {
		spec, err := api.Spec(o)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for k, v := range spec.(*v1alpha1.SecretSpec).Data {
			out[k] = string(v)
		}
		return out
	}
	hidden := map[string]string{"user": "", "pass": ""}
	diff(t, "apply", hidden, data(created))
	list, err := c.List(t.Context(), &v1alpha1.ListRequest{Kind: "Secret", Namespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "list", hidden, data(list.Items[0]))
	watch, err := c.WatchObjects(t.Context(), &v1alpha1.WatchRequest{Kind: "Secret", Namespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	change, err := watch.Next()
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "watch", hidden, data(change.Events[0].Object))
	o, err := c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "Secret", Namespace: "shop", Name: "s"})
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "get", map[string]string{"user": "root", "pass": "secret"}, data(o))

	// What a list showed, applied again, keeps the bytes; text makes them empty.
	if _, err := c.Apply(t.Context(), &v1alpha1.ApplyRequest{Object: list.Items[0]}); err != nil {
		t.Fatal(err)
	}
	apply(t, c, manifest("core", "Secret", "s", "stringData: {user: ''}\ndata: {pass: ''}"))
	if o, err = c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "Secret", Namespace: "shop", Name: "s"}); err != nil {
		t.Fatal(err)
	}
	diff(t, "what a list showed", map[string]string{"user": "", "pass": "secret"}, data(o))
}

func TestStatusJoinsWhatControllersAndHostsSay(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base+"---"+machine)
	o := getMachine(t, c)
	diff(t, "state of what nobody has looked at", "Pending", machineStatus(t, o).State)

	condition := func(kind string) []*v1alpha1.Condition {
		return []*v1alpha1.Condition{{Type: kind, Status: "True"}}
	}
	place := placement("shop", "web", "h1", o.Metadata.Uid)
	resource.Spec[*v1alpha1.MachinePlacementSpec](place).Conditions = condition("Scheduled")
	w.write("scheduler", store.Op{Resource: place})
	w.write("hostview", store.Op{Resource: &resource.Resource{Meta: metaOf(api.MachineProgress, "shop", "web"),
		Spec: &v1alpha1.MachineProgressSpec{MachineUid: o.Metadata.Uid, Conditions: condition("Prepared")}}})
	host := &v1alpha1.MachineStatus{State: "Running", MachineId: "id", MachineUid: o.Metadata.Uid, Conditions: condition("Ready"),
		MachinePoolRef: &v1alpha1.LocalRef{Name: "h1"}}
	w.write("host/h1", store.Op{Resource: &resource.Resource{Meta: metaOf(api.MachineStatus, "shop", "web"), Spec: host}})
	want := &v1alpha1.MachineStatus{State: "Running", MachineId: "id", MachinePoolRef: &v1alpha1.LocalRef{Name: "h1"},
		Conditions: append(append(condition("Ready"), condition("Scheduled")...), condition("Prepared")...)}
	diff(t, "status", want, machineStatus(t, getMachine(t, c)), protocmp.Transform())

	if _, err := c.Delete(t.Context(), &v1alpha1.DeleteRequest{Kind: "Machine", Namespace: "shop", Name: "web"}); err != nil {
		t.Fatal(err)
	}
	apply(t, c, machine)
	diff(t, "status of the next one of the name", &v1alpha1.MachineStatus{State: "Pending"}, machineStatus(t, getMachine(t, c)), protocmp.Transform())
}

func TestPoolStatusShowsPresenceAndWhatIsFree(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, manifest("compute", "MachinePool", "h1", "spec: {}"))
	w.write("host/h1", store.Op{Resource: &resource.Resource{Meta: metaOf(api.MachinePoolStatus, "", "h1"),
		Spec: &v1alpha1.MachinePoolStatus{State: "Ready", Capacity: map[string]string{"cpu": "8", "memory": "16Gi", "gpu": "1"}}}})
	w.write("scheduler", store.Op{Resource: &resource.Resource{Meta: metaOf(api.MachinePoolUsage, "", "h1"),
		Spec: &v1alpha1.MachinePoolUsageSpec{Used: map[string]string{"cpu": "6", "memory": "2Gi", "gpu": "2"}}}})
	w.write("presence", store.Op{Resource: &resource.Resource{Meta: metaOf(api.MachinePoolPresence, "", "h1"),
		Spec: &v1alpha1.MachinePoolPresenceSpec{State: "Offline"}}})
	o, err := c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "MachinePool", Name: "h1"})
	if err != nil {
		t.Fatal(err)
	}
	status, err := api.Status(o)
	if err != nil {
		t.Fatal(err)
	}
	want := &v1alpha1.MachinePoolStatus{State: "Offline", Capacity: map[string]string{"cpu": "8", "memory": "16Gi", "gpu": "1"},
		Allocatable: map[string]string{"cpu": "2", "memory": "14Gi", "gpu": "0"},
		Conditions: []*v1alpha1.Condition{{Type: "Ready", Status: "Unknown", Reason: "HostAway",
			Message: "nothing is heard of the host's agent; its machines may well run"}}}
	if d := cmp.Diff(want, status, protocmp.Transform()); d != "" {
		t.Errorf("status (-want +got):\n%s", d)
	}
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base)
	for _, test := range []struct {
		name string
		call func() error
		code codes.Code
		text string
	}{
		{"an unknown kind", func() error { _, err := c.List(t.Context(), &v1alpha1.ListRequest{Kind: "Pod"}); return err },
			codes.InvalidArgument, `kind: no such kind "Pod"`},
		{"no object", func() error { _, err := c.Create(t.Context(), &v1alpha1.CreateRequest{}); return err },
			codes.InvalidArgument, "kind: no such kind"},
		{"a spec of another kind", func() error {
			o := one(t, machine)
			o.Kind = "Network"
			o.ApiVersion = ""
			_, err := c.Create(t.Context(), &v1alpha1.CreateRequest{Object: o})
			return err
		}, codes.InvalidArgument, "spec: not a NetworkSpec"},
		{"no name", func() error {
			_, err := c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "Machine", Namespace: "shop"})
			return err
		}, codes.InvalidArgument, "name: required"},
		{"no project", func() error {
			_, err := c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "Machine", Name: "web"})
			return err
		}, codes.InvalidArgument, "namespace: Machine objects are in projects"},
		{"a project too many", func() error {
			_, err := c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "MachineClass", Namespace: "shop", Name: "small"})
			return err
		}, codes.InvalidArgument, "metadata.namespace: MachineClass objects are outside projects"},
		{"an object that is too large", func() error {
			o := one(t, machine)
			o.Metadata.Annotations = map[string]string{"a": strings.Repeat("x", 2<<20)}
			_, err := c.Create(t.Context(), &v1alpha1.CreateRequest{Object: o})
			return err
		}, codes.InvalidArgument, "at most 1048576 are kept"},
		{"a request that is too large", func() error {
			o := one(t, machine)
			o.Metadata.Annotations = map[string]string{"a": strings.Repeat("x", 5<<20)}
			_, err := c.Create(t.Context(), &v1alpha1.CreateRequest{Object: o})
			return err
		}, codes.ResourceExhausted, "larger than max"},
	} {
		t.Run(test.name, func(t *testing.T) { wantError(t, test.call(), test.code, "", test.text) })
	}
}
