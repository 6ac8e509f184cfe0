package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/controlplane/server"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
)

// next is the next change of a watch as text: "reset +a =b -c".
func next(t *testing.T, w *client.Watcher) string {
	t.Helper()
	type answer struct {
		change client.Change
		err    error
	}
	got := make(chan answer, 1)
	go func() {
		change, err := w.Next()
		got <- answer{change, err}
	}()
	select {
	case a := <-got:
		if a.err != nil {
			t.Fatal(a.err)
		}
		var parts []string
		if a.change.Reset {
			parts = append(parts, "reset")
		}
		for _, e := range a.change.Events {
			sign := "+"
			if e.Deleted {
				sign = "-"
			}
			parts = append(parts, sign+e.Object.Metadata.Name)
		}
		return strings.Join(parts, " ")
	case <-time.After(patience):
		t.Fatal("the watch says nothing")
	}
	return ""
}

func watchOf(t *testing.T, c *client.Client, req *v1alpha1.WatchRequest) *client.Watcher {
	t.Helper()
	w, err := c.WatchObjects(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func project(name, labels string) string {
	return fmt.Sprintf("apiVersion: core.ironcore.dev/v1alpha1\nkind: Project\nmetadata: {name: %s, labels: {%s}}\n", name, labels)
}

func (w *world) deleteProject(c *client.Client, name string) {
	w.t.Helper()
	if _, err := c.Delete(w.t.Context(), &v1alpha1.DeleteRequest{Kind: "Project", Name: name}); err != nil {
		w.t.Fatal(err)
	}
}

func TestAWatchStartsWithTheStateAndResumes(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, project("a", ""))
	watch := watchOf(t, c, &v1alpha1.WatchRequest{Kind: "Project"})
	diff(t, "state", "reset +a", next(t, watch))
	apply(t, c, project("b", ""))
	diff(t, "creation", "+b", next(t, watch))
	apply(t, c, project("b", "x: one"))
	diff(t, "change", "+b", next(t, watch))
	w.deleteProject(c, "a")
	diff(t, "deletion", "-a", next(t, watch))
	at := watch.Revision()

	apply(t, c, project("c", ""))
	resumed := watchOf(t, c, &v1alpha1.WatchRequest{Kind: "Project", Revision: at})
	diff(t, "what was missed", "+c", next(t, resumed))
	ahead := watchOf(t, c, &v1alpha1.WatchRequest{Kind: "Project", Revision: at + 1000})
	diff(t, "a revision that never was", "reset +b +c", next(t, ahead))
	apply(t, c, project("b", "x: two"))
	single := watchOf(t, c, &v1alpha1.WatchRequest{Kind: "Project", Name: "b"})
	diff(t, "one object", "reset +b", next(t, single))
}

func TestAWatchThatMissedTooMuchStartsAnew(t *testing.T) {
	keys, _, err := pki.Init(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	w := startWorld(t, keys, mem.New(api.Schema(), mem.Config{History: 4}), server.Config{})
	c := w.admin()
	apply(t, c, project("a", ""))
	at := w.store.Revision()
	for i := range 20 {
		apply(t, c, project("b", fmt.Sprintf("n: x%d", i)))
	}
	diff(t, "state", "reset +a +b", next(t, watchOf(t, c, &v1alpha1.WatchRequest{Kind: "Project", Revision: at})))
}

func TestAWatchBySelectorTellsWhatLeaves(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, project("in", "tier: front")+"---\n"+project("out", "tier: back"))
	sel := &v1alpha1.LabelSelector{MatchExpressions: []*v1alpha1.LabelRequirement{{Key: "tier", Operator: "In", Values: []string{"front"}}}}
	watch := watchOf(t, c, &v1alpha1.WatchRequest{Kind: "Project", LabelSelector: sel})
	diff(t, "state", "reset +in", next(t, watch))
	apply(t, c, project("out", "tier: back, more: x")) // says nothing
	apply(t, c, project("out", "tier: front"))
	got := next(t, watch)
	for got == "" {
		got = next(t, watch)
	}
	diff(t, "entry", "+out", got)
	apply(t, c, project("in", "tier: back"))
	diff(t, "leaving", "-in", next(t, watch))
}

func TestAChangeOfTheStatusSendsTheObject(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base+"---"+machine)
	o := getMachine(t, c)
	watch := watchOf(t, c, &v1alpha1.WatchRequest{Kind: "Machine", Namespace: "shop"})
	diff(t, "state", "reset +web", next(t, watch))
	w.write("host/h1", store.Op{Resource: &resource.Resource{Meta: metaOf(api.MachineStatus, "shop", "web"),
		Spec: &v1alpha1.MachineStatus{State: "Running", MachineUid: o.Metadata.Uid}}})
	change, err := watch.Next()
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "events", 1, len(change.Events))
	diff(t, "state", "Running", machineStatus(t, change.Events[0].Object).State)
}

func TestAQuietWatchIsToldHowFarItIs(t *testing.T) {
	keys, _, err := pki.Init(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	w := startWorld(t, keys, mem.New(api.Schema(), mem.Config{}), server.Config{Bookmark: 20 * time.Millisecond})
	c := w.admin()
	apply(t, c, project("a", ""))
	watch := watchOf(t, c, &v1alpha1.WatchRequest{Kind: "MachineClass"})
	diff(t, "state", "reset", next(t, watch))
	before := watch.Revision()
	apply(t, c, project("b", ""))
	diff(t, "bookmark", "", next(t, watch))
	if watch.Revision() <= before {
		t.Errorf("revision %d, was %d", watch.Revision(), before)
	}
}

func TestASlowWatchGetsTheNewestOfEachObject(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, project("a", ""))
	watch := watchOf(t, c, &v1alpha1.WatchRequest{Kind: "Project"})
	diff(t, "state", "reset +a", next(t, watch))
	const changes = 3000
	long := strings.Repeat("x", 8<<10) // fills what the connection buffers
	key := resource.Key{Kind: api.Project, Name: "a"}
	for i := range changes {
		r, err := w.store.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		r = r.Clone()
		r.Annotations = map[string]string{"n": fmt.Sprint(i), "long": long}
		w.write("", store.Op{Type: store.Update, Resource: r})
	}
	got := 0
	for {
		change, err := watch.Next()
		if err != nil {
			t.Fatal(err)
		}
		got += len(change.Events)
		if n := len(change.Events); n > 0 && change.Events[n-1].Object.Metadata.Annotations["n"] == fmt.Sprint(changes-1) {
			break
		}
	}
	if got >= changes {
		t.Errorf("%d events for %d changes: nothing was coalesced", got, changes)
	}
}

func TestALargeStateComesInParts(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	var ops []store.Op
	const n = 2500
	for i := range n {
		meta := metaOf(api.Project, "", fmt.Sprintf("p%04d", i))
		meta.Annotations = map[string]string{"long": strings.Repeat("x", 4<<10)}
		ops = append(ops, store.Op{Resource: &resource.Resource{Meta: meta, Spec: &v1alpha1.ProjectSpec{}}})
	}
	w.write("", ops...)
	change, err := watchOf(t, c, &v1alpha1.WatchRequest{Kind: "Project"}).Next()
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "reset", true, change.Reset)
	diff(t, "events", n, len(change.Events))
}
