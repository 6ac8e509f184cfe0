package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

func testList(b bench) {
	for _, name := range []string{"p/b", "p/a", "q/a", "p/c"} {
		project, name, _ := strings.Cut(name, "/")
		r := New(Server, project, name, "host", "h-"+name, "tags", "all "+name)
		r.Labels = map[string]string{"name": name}
		b.create(r)
	}
	b.create(New(Zone, "", "a"))
	after := func(project, name string) *resource.Key {
		return &resource.Key{Kind: Server, Project: project, Name: name}
	}
	for _, tt := range []struct {
		name  string
		query store.Query
		want  string
	}{
		{"all", store.Query{Kind: Server}, "p/a p/b p/c q/a"},
		{"project", store.Query{Kind: Server, Project: "p"}, "p/a p/b p/c"},
		{"project without any", store.Query{Kind: Server, Project: "none"}, ""},
		{"name in a project", store.Query{Kind: Server, Project: "p", Name: "a"}, "p/a"},
		{"name in any project", store.Query{Kind: Server, Name: "a"}, "p/a q/a"},
		{"index", store.Query{Kind: Server, Index: "host", Value: "h-a"}, "p/a q/a"},
		{"index with two values each", store.Query{Kind: Server, Index: "tag", Value: "all"}, "p/a p/b p/c q/a"},
		{"index in a project", store.Query{Kind: Server, Project: "q", Index: "tag", Value: "all"}, "q/a"},
		{"index and name", store.Query{Kind: Server, Project: "p", Name: "b", Index: "host", Value: "h-a"}, ""},
		{"prefix of a value", store.Query{Kind: Server, Index: "host", Value: "h-"}, ""},
		{"labels", store.Query{Kind: Server, Labels: map[string]string{"name": "a"}}, "p/a q/a"},
		{"label that is missing", store.Query{Kind: Server, Labels: map[string]string{"none": ""}}, ""},
		{"after", store.Query{Kind: Server, After: after("p", "b")}, "p/c q/a"},
		{"after in an index", store.Query{Kind: Server, Index: "tag", Value: "all", After: after("p", "b")}, "p/c q/a"},
		{"after in a project", store.Query{Kind: Server, Project: "p", After: after("p", "b")}, "p/c"},
		{"after another project", store.Query{Kind: Server, Project: "q", After: after("p", "b")}, "q/a"},
		{"after itself", store.Query{Kind: Server, Project: "p", Name: "b", After: after("p", "b")}, ""},
		{"global", store.Query{Kind: Zone}, "a"},
	} {
		if got := b.names(tt.query); got != tt.want {
			b.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if tt.query.After != nil {
			continue
		}
		if got := b.paged(tt.query); got != tt.want {
			b.Errorf("%s, in pages: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// paged lists one resource at a time; the last page must say that it is the last.
func (b bench) paged(q store.Query) string {
	b.Helper()
	var all []string
	for q.Limit = 1; ; {
		page, err := b.List(b.Context(), q)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, names(page))
		if page.Next == nil {
			return strings.Join(all, " ")
		}
		q.After = page.Next
	}
}

func testListMany(b bench) {
	const n = 3000
	random := rand.New(rand.NewPCG(1, 2))
	have := map[int]bool{}
	for range n / 5 {
		ops := make([]store.Op, 20)
		for j := range ops {
			i := random.IntN(n)
			ops[j] = store.Op{Type: store.Create, Resource: New(Server, "p", fmt.Sprintf("%05d", i), "host", fmt.Sprint(i%7))}
			if have[i] {
				ops[j].Type = store.Delete
			}
			have[i] = !have[i]
		}
		b.txn("", ops...)
	}
	for _, host := range []string{"", "3"} {
		q := store.Query{Kind: Server}
		var want []string
		for i := range n {
			if have[i] && (host == "" || host == fmt.Sprint(i%7)) {
				want = append(want, fmt.Sprintf("p/%05d", i))
			}
		}
		if host != "" {
			q.Index, q.Value = "host", host
		}
		if got := b.names(q); got != strings.Join(want, " ") {
			b.Errorf("list of host %q has %d names, want %d, or another order", host, len(strings.Fields(got)), len(want))
		}
	}
}

func testWatchInitial(b bench) {
	b.create(New(Server, "p", "a", "host", "h1", "tags", "x y"))
	b.create(New(Server, "p", "b", "host", "h2"))
	b.create(New(Zone, "", "z"))
	for _, tt := range []struct {
		name    string
		queries []store.Query
		want    string
	}{
		{"kind", []store.Query{{Kind: Server}}, "reset +a +b"},
		{"index", []store.Query{{Kind: Server, Index: "host", Value: "h2"}}, "reset +b"},
		{"each once", []store.Query{{Kind: Server, Index: "tag", Value: "x"}, {Kind: Server, Index: "tag", Value: "y"}, {Kind: Zone}}, "reset +a +z"},
		{"nothing", []store.Query{{Kind: Token}}, "reset"},
		{"no query", nil, "reset"},
	} {
		if got := b.next(b.watch(0, tt.queries...)); got != tt.want {
			b.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	late := b.watch(0, store.Query{Kind: Server})
	b.create(New(Server, "p", "c"))
	if got := b.next(late) + "; " + b.next(late); got != "reset +a +b; +c" {
		b.Errorf("change before the first fetch: %q", got)
	}
}

func testWatchSelection(b bench) {
	web := New(Server, "p", "a", "host", "h1", "v", "1")
	web.Labels = map[string]string{"tier": "web"}
	b.create(web)
	index := b.watch(b.Revision(), store.Query{Kind: Server, Index: "host", Value: "h1"})
	label := b.watch(b.Revision(), store.Query{Kind: Server, Labels: map[string]string{"tier": "web"}})
	name := b.watch(b.Revision(), store.Query{Kind: Server, Project: "p", Name: "a"}, store.Query{Kind: Server, Project: "p"})
	other := b.watch(b.Revision(), store.Query{Kind: Server, Index: "host", Value: "h3"}, store.Query{Kind: Server, Project: "q"})
	check := func(w store.Watcher, want string) {
		b.Helper()
		if got := b.next(w); got != want {
			b.Errorf("told %q, want %q", got, want)
		}
	}
	b.update(New(Server, "p", "a", "host", "h2", "v", "2"))
	check(index, "-a=1")
	check(label, "-a=1")
	check(name, "+a=2")
	b.update(New(Server, "p", "a", "host", "h1", "v", "3"))
	check(index, "+a=3")
	check(name, "+a=3")
	b.delete(web)
	check(index, "-a=3")
	check(name, "-a=3")
	b.silent(label)
	b.silent(other)
}

func testWatchCoalesces(b bench) {
	seen := b.create(New(Server, "p", "seen", "v", "0"))
	w := b.watch(0, store.Query{Kind: Server})
	b.next(w)
	for i := range 100 {
		r := b.create(New(Server, "p", "brief"))
		b.update(New(Server, "p", "seen", "v", fmt.Sprint(i)))
		b.delete(r)
	}
	b.delete(seen)
	b.create(New(Server, "p", "new"))
	b.create(New(Server, "p", "seen", "v", "again"))
	if got := b.next(w); got != "-seen=99 +new +seen=again" {
		b.Errorf("told %q", got)
	}
	b.txn("", store.Op{Type: store.Delete, Resource: seen}, store.Op{Type: store.Create, Resource: New(Server, "p", "seen", "v", "third")})
	if got := b.next(w); got != "-seen=again +seen=third" {
		b.Errorf("re-created in one transaction: told %q", got)
	}
	b.silent(w)
}

func testWatchResume(b bench) {
	a := b.create(New(Server, "p", "a", "v", "1"))
	from := b.Revision()
	b.update(New(Server, "p", "a", "v", "2"))
	b.create(New(Server, "p", "b"))
	b.create(New(Zone, "", "z"))
	b.delete(a)
	w := b.watch(from, store.Query{Kind: Server})
	if got := b.next(w); got != "+b -a=2" {
		b.Errorf("resumed with %q", got)
	}
	if w.Revision() != b.Revision() {
		b.Errorf("watcher is at %d, the store at %d", w.Revision(), b.Revision())
	}
	b.silent(b.watch(b.Revision(), store.Query{Kind: Server}))
}

func testWatchReset(b bench) {
	b.create(New(Server, "p", "a", "v", "0"))
	for i := range 100 {
		b.update(New(Server, "p", "a", "v", fmt.Sprint(i+1)))
	}
	if got := b.next(b.watch(1, store.Query{Kind: Server})); got != "reset +a=100" {
		b.Errorf("from far behind: %q", got)
	}
	if got := b.next(b.watch(b.Revision()-10, store.Query{Kind: Server})); got != "+a=100" {
		b.Errorf("from little behind: %q", got)
	}
	if got := b.next(b.watch(b.Revision()+1, store.Query{Kind: Server})); got != "reset +a=100" {
		b.Errorf("from the future: %q", got)
	}
}

func testWatchRevision(b bench) {
	w := b.watch(0, store.Query{Kind: Zone})
	if w.Revision() != 0 {
		b.Errorf("watcher is at %d before the first batch", w.Revision())
	}
	b.next(w)
	b.create(New(Server, "p", "a"))
	if w.Revision() != 1 {
		b.Errorf("watcher is at %d after a change of no concern, want 1", w.Revision())
	}
	b.create(New(Zone, "", "z"))
	if w.Revision() != 1 {
		b.Errorf("watcher is at %d with a batch to fetch, want 1", w.Revision())
	}
	b.next(w)
	if w.Revision() != 2 {
		b.Errorf("watcher is at %d after the batch, want 2", w.Revision())
	}
}

func testWatchEnds(b bench) {
	ctx, cancel := context.WithCancel(b.Context())
	w, err := b.Watch(ctx, 0, store.Query{Kind: Server})
	if err != nil {
		b.Fatal(err)
	}
	cancelled := make(chan error)
	go func() {
		for {
			if _, err := w.Next(context.Background()); err != nil {
				cancelled <- err
				return
			}
		}
	}()
	cancel()
	if err := <-cancelled; !errors.Is(err, context.Canceled) {
		b.Errorf("next of an ended watch: %v", err)
	}
	closed := b.watch(0, store.Query{Kind: Server})
	closed.Close()
	if _, err := closed.Next(b.Context()); !errors.Is(err, context.Canceled) {
		b.Errorf("next of a closed watch: %v", err)
	}
	open := b.watch(0, store.Query{Kind: Server})
	if err := b.Store.Close(); err != nil {
		b.Fatal(err)
	}
	if _, err := open.Next(b.Context()); !errors.Is(err, fault.Unavailable) {
		b.Errorf("next of a closed store: %v", err)
	}
}

func testWatchEvery(b bench) {
	w := b.watch(0, store.Query{Kind: Server, Every: true})
	b.next(w)
	r := b.create(New(Server, "p", "a", "v", "1"))
	b.update(New(Server, "p", "a", "v", "2"))
	b.delete(r)
	if got := b.next(w); got != "+a=1 +a=2 -a=2" {
		b.Errorf("told %q", got)
	}
	b.silent(w)
	if w.Revision() != 3 {
		b.Errorf("watcher is at %d, want 3", w.Revision())
	}
	ops := make([]store.Op, 1<<16+1)
	for i := range ops {
		ops[i] = store.Op{Type: store.Create, Resource: New(Server, "p", fmt.Sprint(i))}
	}
	b.txn("", ops...)
	batch, err := w.Next(b.Context())
	if err != nil || !batch.Reset || len(batch.Events) != len(ops) {
		b.Errorf("far behind: reset %t, %d events, %v", batch.Reset, len(batch.Events), err)
	}
	b.silent(w)
}
