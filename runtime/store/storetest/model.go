package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Model runs random transactions against a store and against a plain map that says what should
// come of them, with watchers that must end up with what a list gives. Reopen, when not nil, is
// called between transactions: it closes the store and opens it again.
func Model(t *testing.T, open func(t *testing.T) store.Store, reopen func(t *testing.T, s store.Store) store.Store) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{store: open(t), have: map[resource.Key]entry{}}
		defer func() { m.store.Close() }()
		actions := map[string]func(*rapid.T){
			"":      m.check,
			"write": m.write,
			"watch": m.watch,
			"fetch": m.fetch,
		}
		if reopen != nil {
			actions["reopen"] = func(*rapid.T) {
				m.store = reopen(t, m.store)
				for _, w := range m.watchers {
					w.resume(rt, m.store)
				}
			}
		}
		rt.Repeat(actions)
		for _, w := range m.watchers {
			w.drain(rt)
			w.compare(rt, m.have)
		}
	})
}

// An entry is what the model knows of a resource.
type entry struct {
	owner, v, host, label string
	finalizers            string // names, each with a space behind
	tearing               bool
	generation            uint64
	version               int // of the model only: another after each operation that changed something
}

var compareEntries = []cmp.Option{cmp.AllowUnexported(entry{}), cmpopts.IgnoreFields(entry{}, "version")}

type model struct {
	store    store.Store
	have     map[resource.Key]entry
	revision uint64
	versions int
	watchers []*mirror
}

var (
	modelNames   = rapid.SampledFrom([]string{"a", "b", "c"})
	modelWriters = rapid.SampledFrom([]string{"", "", "one", "two"})
	modelValues  = rapid.SampledFrom([]string{"", "1", "2"})
	modelOps     = rapid.SampledFrom([]store.OpType{
		store.Create, store.Create, store.Update, store.Update, store.Delete, store.AddFinalizer, store.RemoveFinalizer,
	})
)

// write runs one transaction on both.
func (m *model) write(rt *rapid.T) {
	tx := store.Txn{Writer: modelWriters.Draw(rt, "writer")}
	next := maps.Clone(m.have)
	var want error
	for range rapid.IntRange(1, 3).Draw(rt, "ops") {
		r := New(Server, modelNames.Draw(rt, "project"), modelNames.Draw(rt, "name"),
			"v", modelValues.Draw(rt, "v"), "host", modelValues.Draw(rt, "host"))
		if label := modelValues.Draw(rt, "label"); label != "" {
			r.Labels = map[string]string{"l": label}
		}
		op := store.Op{Type: modelOps.Draw(rt, "op"), Resource: r, Finalizer: modelNames.Draw(rt, "finalizer")}
		tx.Ops = append(tx.Ops, op)
		if want == nil {
			want = m.apply(next, tx.Writer, op)
		}
	}
	result, err := m.store.Txn(context.Background(), tx)
	if (want == nil) != (err == nil) || !errors.Is(err, want) {
		rt.Fatalf("transaction %s: %v, want %v", text(tx), err, want)
	}
	if err != nil {
		return
	}
	if !maps.Equal(m.have, next) {
		m.revision++
	}
	m.have = next
	if result.Revision != m.revision {
		rt.Fatalf("transaction %s has revision %d, want %d", text(tx), result.Revision, m.revision)
	}
}

func text(tx store.Txn) string {
	words := []string{fmt.Sprintf("of %q:", tx.Writer)}
	for _, op := range tx.Ops {
		words = append(words, op.Type.String(), op.Resource.Key.String(), Field(op.Resource, "v"), op.Finalizer+";")
	}
	return strings.Join(words, " ")
}

// apply is what op does to have, by the documentation of package store.
func (m *model) apply(have map[resource.Key]entry, writer string, op store.Op) error {
	key := op.Resource.Key
	e, ok := have[key]
	want := e
	want.v, want.host, want.label = Field(op.Resource, "v"), Field(op.Resource, "host"), op.Resource.Labels["l"]
	specChanges := want.v != e.v || want.host != e.host
	held := strings.Contains(e.finalizers, op.Finalizer+" ")
	switch {
	case op.Type == store.Create && ok:
		return fault.Exists
	case op.Type == store.Create:
		want.owner, want.generation = writer, 1
		m.set(have, key, want)
	case !ok:
		return fault.NotFound
	case op.Type == store.Update && e.owner != writer:
		return fault.Denied
	case op.Type == store.Update && e.tearing && specChanges:
		return fault.Precondition
	case op.Type == store.Update:
		if specChanges {
			want.generation++
		}
		m.set(have, key, want)
	case op.Type == store.Delete && e.owner != "" && e.owner != writer:
		return fault.Denied
	case op.Type == store.Delete && e.finalizers == "":
		delete(have, key)
	case op.Type == store.Delete:
		e.tearing = true
		m.set(have, key, e)
	case op.Type == store.AddFinalizer && e.tearing && !held:
		return fault.Precondition
	case op.Type == store.AddFinalizer && !held:
		e.finalizers += op.Finalizer + " "
		m.set(have, key, e)
	case op.Type == store.RemoveFinalizer:
		e.finalizers = strings.Replace(e.finalizers, op.Finalizer+" ", "", 1)
		m.set(have, key, e)
		if e.tearing && e.finalizers == "" {
			delete(have, key)
		}
	}
	return nil
}

// set makes e the entry at key, as another version when that changes anything.
func (m *model) set(have map[resource.Key]entry, key resource.Key, e entry) {
	if have[key] != e {
		m.versions++
		e.version = m.versions
		have[key] = e
	}
}

// check compares all there is, and one selection, with the model.
func (m *model) check(rt *rapid.T) {
	got := map[resource.Key]entry{}
	page, err := m.store.List(context.Background(), store.Query{Kind: Server})
	if err != nil {
		rt.Fatal(err)
	}
	for _, r := range page.Items {
		got[r.Key] = entryOf(r)
	}
	if diff := cmp.Diff(m.have, got, compareEntries...); diff != "" {
		rt.Fatalf("resources (-want +got):\n%s", diff)
	}
	if !slices.IsSortedFunc(page.Items, func(a, b *resource.Resource) int { return a.Compare(b.Key) }) {
		rt.Fatalf("not in order: %s", names(page))
	}
	if m.store.Revision() != m.revision {
		rt.Fatalf("revision %d, want %d", m.store.Revision(), m.revision)
	}
}

func entryOf(r *resource.Resource) entry {
	e := entry{
		owner: r.Owner, v: Field(r, "v"), host: Field(r, "host"), label: r.Labels["l"],
		tearing: r.Phase == resource.TearingDown, generation: r.Generation,
	}
	for _, f := range r.Finalizers {
		e.finalizers += f + " "
	}
	return e
}
