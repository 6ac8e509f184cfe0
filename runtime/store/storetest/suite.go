package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Suite checks a backend against the contract of package store. Open returns an empty store of
// Schema that keeps at most 64 changes of history; the suite closes it.
func Suite(t *testing.T, open func(t *testing.T) store.Store) {
	tests := []struct {
		name string
		run  func(b bench)
	}{
		{"a created resource is found as it was stored", testCreate},
		{"what can never be stored is invalid", testInvalid},
		{"an update counts generations by spec", testUpdate},
		{"an update that changes nothing writes nothing", testNoOp},
		{"only the owner changes a resource", testOwner},
		{"finalizers hold a deletion back", testFinalizers},
		{"a transaction is all or nothing", testAtomic},
		{"operations of a transaction build on each other", testSequence},
		{"compares see revisions", testCompares},
		{"lists are ordered, selected and paged", testList},
		{"a list of many is complete after churn", testListMany},
		{"a watch starts with the present state", testWatchInitial},
		{"a watch tells what enters and leaves the selection", testWatchSelection},
		{"a watch coalesces by resource and not by name", testWatchCoalesces},
		{"a watch of every state skips none, or is reset", testWatchEvery},
		{"a watch resumes from a revision", testWatchResume},
		{"a watch that is too far behind is reset", testWatchReset},
		{"a watcher knows where to resume although nothing matched", testWatchRevision},
		{"a watch ends with its context and with the store", testWatchEnds},
		{"a closed store refuses", testClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() { s.Close() })
			tt.run(bench{t, s})
		})
	}
}

func testCreate(b bench) {
	want := New(Server, "p", "a", "host", "h1")
	want.Labels = map[string]string{"tier": "web"}
	want.Annotations = map[string]string{"note": "first"}
	want.Finalizers = []string{"x"}
	created := b.txn("scheduler", store.Op{Type: store.Create, Resource: want}).Resources[0]
	if created.UID == "" || created.Revision != b.Revision() || created.Generation != 1 || created.Owner != "scheduler" || created.Created.IsZero() {
		b.Errorf("metadata set by the store: %+v", created.Meta)
	}
	got, err := b.Get(b.Context(), want.Key)
	if err != nil {
		b.Fatal(err)
	}
	want.UID, want.Revision, want.Generation, want.Owner, want.Created = got.UID, 1, 1, "scheduler", got.Created
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		b.Errorf("stored resource (-want +got):\n%s", diff)
	}
	again := New(Server, "p", "a")
	b.refused(fault.Exists, store.Txn{Ops: []store.Op{{Type: store.Create, Resource: again}}})
	if _, err := b.Get(b.Context(), resource.Key{Kind: Server, Project: "q", Name: "a"}); !errors.Is(err, fault.NotFound) {
		b.Errorf("get of another project: %v, want not found", err)
	}
}

func testInvalid(b bench) {
	noSpec := New(Server, "p", "a")
	noSpec.Spec = nil
	for name, r := range map[string]*resource.Resource{
		"no name": New(Server, "p", ""), "no project": New(Server, "", "a"), "project of a global kind": New(Zone, "p", "a"),
		"NUL in the name": New(Server, "p", "a\x00b"), "no spec": noSpec, "no resource": nil, "unknown kind": New("Nothing", "p", "a"),
	} {
		b.Log(name)
		b.refused(fault.Invalid, store.Txn{Ops: []store.Op{{Type: store.Create, Resource: r}}})
	}
	for _, q := range []store.Query{{Kind: "Nothing"}, {Kind: Server, Index: "nothing"}} {
		if _, err := b.List(b.Context(), q); !errors.Is(err, fault.Invalid) {
			b.Errorf("list %+v: %v, want invalid", q, err)
		}
		if _, err := b.Watch(b.Context(), 0, q); !errors.Is(err, fault.Invalid) {
			b.Errorf("watch %+v: %v, want invalid", q, err)
		}
	}
}

func testUpdate(b bench) {
	r := b.create(New(Server, "p", "a", "v", "1")).Clone()
	r.Spec = New(Server, "p", "a", "v", "2").Spec
	second := b.update(r)
	if second.Generation != 2 || second.Revision != 2 || second.UID != r.UID || !second.Created.Equal(r.Created) {
		b.Errorf("after a change of the spec: %+v", second.Meta)
	}
	third := second.Clone()
	third.Labels = map[string]string{"a": "b"}
	if third = b.update(third); third.Generation != 2 || third.Revision != 3 || third.Labels["a"] != "b" {
		b.Errorf("after a change of labels: %+v", third.Meta)
	}
	b.refused(fault.Conflict, store.Txn{Ops: []store.Op{{Type: store.Update, Resource: second}}})
	b.refused(fault.Conflict, store.Txn{Ops: []store.Op{{Type: store.Update, Resource: third, UID: "other"}}})
	b.refused(fault.NotFound, store.Txn{Ops: []store.Op{{Type: store.Update, Resource: New(Server, "p", "none")}}})
	unconditional := New(Server, "p", "a", "v", "4")
	if fourth := b.update(unconditional); fourth.Generation != 3 || len(fourth.Labels) != 0 {
		b.Errorf("after an update without revision: %+v", fourth.Meta)
	}
}

func testNoOp(b bench) {
	r := b.create(New(Server, "p", "a", "v", "1"))
	w := b.watch(b.Revision(), store.Query{Kind: Server})
	same := b.update(New(Server, "p", "a", "v", "1"))
	if same.Revision != r.Revision || b.Revision() != r.Revision {
		b.Errorf("revision after an equal update is %d, want %d", b.Revision(), r.Revision)
	}
	b.txn("any", store.Op{Type: store.RemoveFinalizer, Resource: r, Finalizer: "none"})
	b.silent(w)
}

func testOwner(b bench) {
	r := New(Server, "p", "a")
	r.Owner = "scheduler" // from the writer, not from here
	b.txn("ipam", store.Op{Type: store.Create, Resource: r})
	for _, writer := range []string{"", "scheduler"} {
		b.refused(fault.Denied, store.Txn{Writer: writer, Ops: []store.Op{{Type: store.Update, Resource: New(Server, "p", "a", "v", "2")}}})
		b.refused(fault.Denied, store.Txn{Writer: writer, Ops: []store.Op{{Type: store.Delete, Resource: r}}})
	}
	b.txn("scheduler", store.Op{Type: store.AddFinalizer, Resource: r, Finalizer: "scheduler"})
	b.create(New(Server, "p", "user"))
	b.refused(fault.Denied, store.Txn{Writer: "ipam", Ops: []store.Op{{Type: store.Update, Resource: New(Server, "p", "user", "v", "2")}}})
	if gone := b.txn("ipam", store.Op{Type: store.Delete, Resource: New(Server, "p", "user")}).Resources[0]; gone != nil {
		b.Errorf("a controller deleted a user's resource; it is still %v", gone)
	}
}

func testFinalizers(b bench) {
	r := b.create(New(Server, "p", "a"))
	finalizer := func(t store.OpType, name string) *resource.Resource {
		return b.txn("any", store.Op{Type: t, Resource: r, Finalizer: name}).Resources[0]
	}
	finalizer(store.AddFinalizer, "one")
	finalizer(store.AddFinalizer, "two")
	if got := finalizer(store.AddFinalizer, "two"); fmt.Sprint(got.Finalizers) != "[one two]" || got.Generation != 1 {
		b.Errorf("finalizers added: %+v", got.Meta)
	}
	torn := b.delete(r)
	if torn == nil || torn.Phase != resource.TearingDown {
		b.Fatalf("deleted with finalizers: %+v, want tearing down", torn)
	}
	if again := b.delete(r); again.Revision != torn.Revision {
		b.Errorf("second delete wrote revision %d over %d", again.Revision, torn.Revision)
	}
	b.refused(fault.Precondition, store.Txn{Ops: []store.Op{{Type: store.AddFinalizer, Resource: r, Finalizer: "late"}}})
	b.refused(fault.Precondition, store.Txn{Ops: []store.Op{{Type: store.Update, Resource: New(Server, "p", "a", "v", "2")}}})
	b.refused(fault.Exists, store.Txn{Ops: []store.Op{{Type: store.Create, Resource: New(Server, "p", "a")}}})
	relabel := torn.Clone()
	relabel.Labels = map[string]string{"still": "possible"}
	b.update(relabel)
	if got := finalizer(store.RemoveFinalizer, "one"); got == nil {
		b.Fatal("gone with a finalizer left")
	}
	if got := finalizer(store.RemoveFinalizer, "two"); got != nil {
		b.Errorf("after the last finalizer: %+v, want nothing", got)
	}
	if b.names(store.Query{Kind: Server}) != "" {
		b.Error("it is still listed")
	}
	if next := b.create(New(Server, "p", "a")); next.UID == r.UID {
		b.Error("the successor has the same UID")
	}
}

func testAtomic(b bench) {
	b.create(New(Server, "p", "taken"))
	b.refused(fault.Exists, store.Txn{Ops: []store.Op{
		{Type: store.Create, Resource: New(Server, "p", "new")},
		{Type: store.Delete, Resource: New(Server, "p", "taken")},
		{Type: store.Create, Resource: New(Zone, "", "z")},
		{Type: store.Create, Resource: New(Zone, "", "z")},
	}})
	if got := b.names(store.Query{Kind: Server}); got != "p/taken" {
		b.Errorf("servers after a refused transaction: %s", got)
	}
	result := b.txn("", store.Op{Type: store.Create, Resource: New(Server, "p", "b")}, store.Op{Type: store.Create, Resource: New(Zone, "", "z")})
	if result.Revision != 2 || result.Resources[0].Revision != 2 || result.Resources[1].Revision != 2 {
		b.Errorf("revisions of one transaction: %d, %d in %d", result.Resources[0].Revision, result.Resources[1].Revision, result.Revision)
	}
	if result := b.txn(""); result.Revision != 2 {
		b.Errorf("an empty transaction has revision %d", result.Revision)
	}
}

func testSequence(b bench) {
	w := b.watch(0, store.Query{Kind: Server})
	b.next(w)
	a := New(Server, "p", "a", "v", "1")
	result := b.txn("", store.Op{Type: store.Create, Resource: a},
		store.Op{Type: store.Update, Resource: New(Server, "p", "a", "v", "2")},
		store.Op{Type: store.AddFinalizer, Resource: a, Finalizer: "f"},
		store.Op{Type: store.Create, Resource: New(Server, "p", "b")}, store.Op{Type: store.Delete, Resource: New(Server, "p", "b")})
	if result.Resources[2].Generation != 2 || result.Resources[4] != nil || result.Revision != 1 {
		b.Errorf("results: %+v in %d", result.Resources[2].Meta, result.Revision)
	}
	if got := b.next(w); got != "+a=2" {
		b.Errorf("told %q", got)
	}
	if result := b.txn("", store.Op{Type: store.Create, Resource: New(Server, "p", "c")}, store.Op{Type: store.Delete, Resource: New(Server, "p", "c")}); result.Revision != 1 {
		b.Errorf("what came and went took revision %d", result.Revision)
	}
}

func testCompares(b bench) {
	a := b.create(New(Server, "p", "a"))
	create := []store.Op{{Type: store.Create, Resource: New(Server, "p", "b")}}
	missing := resource.Key{Kind: Server, Project: "p", Name: "none"}
	for _, c := range []store.Compare{{Key: a.Key}, {Key: a.Key, Revision: a.Revision + 1}, {Key: missing, Revision: 1}} {
		b.refused(fault.Conflict, store.Txn{Compares: []store.Compare{c}, Ops: create})
	}
	ctx := b.Context()
	if _, err := b.Txn(ctx, store.Txn{Compares: []store.Compare{{Key: a.Key, Revision: a.Revision}, {Key: missing}}, Ops: create}); err != nil {
		b.Errorf("transaction whose compares hold: %v", err)
	}
}

func testClosed(b bench) {
	if err := b.Close(); err != nil {
		b.Fatal(err)
	}
	if _, err := b.Txn(b.Context(), store.Txn{}); !errors.Is(err, fault.Unavailable) {
		b.Errorf("transaction on a closed store: %v", err)
	}
	if _, err := b.Watch(b.Context(), 0); !errors.Is(err, fault.Unavailable) {
		b.Errorf("watch on a closed store: %v", err)
	}
	if err := b.Close(); err != nil {
		b.Errorf("second close: %v", err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	if _, err := b.Txn(ctx, store.Txn{}); !errors.Is(err, context.Canceled) {
		b.Errorf("transaction of an ended context: %v", err)
	}
}
