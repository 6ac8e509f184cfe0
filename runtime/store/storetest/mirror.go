package storetest

import (
	"context"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// A mirror is what a watcher of one query can know.
type mirror struct {
	query   store.Query
	watcher store.Watcher
	have    map[resource.Key]*resource.Resource
}

// watch starts a watcher, of the present or of a former revision.
func (m *model) watch(rt *rapid.T) {
	if len(m.watchers) == 8 {
		return
	}
	query := rapid.SampledFrom([]store.Query{
		{Kind: Server}, {Kind: Server, Project: "a"}, {Kind: Server, Project: "a", Name: "b"}, {Kind: Server, Name: "b"},
		{Kind: Server, Index: "host", Value: "1"}, {Kind: Server, Labels: map[string]string{"l": "2"}},
		{Kind: Server, Index: "host", Value: "2", Every: true},
	}).Draw(rt, "query")
	w := &mirror{query: query, have: map[resource.Key]*resource.Resource{}}
	w.open(rt, m.store, 0)
	m.watchers = append(m.watchers, w)
}

func (w *mirror) open(rt *rapid.T, s store.Store, from uint64) {
	watcher, err := s.Watch(context.Background(), from, w.query)
	if err != nil {
		rt.Fatal(err)
	}
	w.watcher = watcher
}

// resume goes on in a store that was opened again, from where the watcher stood.
func (w *mirror) resume(rt *rapid.T, s store.Store) {
	from := w.watcher.Revision()
	w.watcher.Close()
	w.open(rt, s, from)
}

// fetch lets one watcher catch up; now and then it starts again from where it stands.
func (m *model) fetch(rt *rapid.T) {
	if len(m.watchers) == 0 {
		return
	}
	w := rapid.SampledFrom(m.watchers).Draw(rt, "watcher")
	w.drain(rt)
	w.compare(rt, m.have)
	if at := w.watcher.Revision(); at != m.revision {
		rt.Fatalf("watcher of %+v is at %d, the store at %d", w.query, at, m.revision)
	}
	if rapid.Bool().Draw(rt, "resume") {
		w.resume(rt, m.store)
	}
}

// drain takes what there is.
func (w *mirror) drain(rt *rapid.T) {
	ended, end := context.WithCancel(context.Background())
	end()
	for {
		batch, err := w.watcher.Next(ended)
		if err != nil {
			return
		}
		if batch.Reset {
			clear(w.have)
		}
		last := uint64(0)
		for _, e := range batch.Events {
			w.event(rt, e)
			if !e.Deleted && !batch.Reset && e.Resource.Revision < last {
				rt.Fatalf("event of revision %d after one of %d", e.Resource.Revision, last)
			}
			last = max(last, e.Resource.Revision)
		}
	}
}

func (w *mirror) event(rt *rapid.T, e store.Event) {
	old := w.have[e.Resource.Key]
	if !e.Deleted {
		if old != nil && old.UID != e.Resource.UID {
			rt.Fatalf("%s was re-created, and the watcher did not hear that it went", old.Key)
		}
		w.have[e.Resource.Key] = e.Resource
		return
	}
	if old == nil || old.UID != e.Resource.UID {
		rt.Fatalf("%s went, and the watcher never had it", e.Resource.Key)
	}
	delete(w.have, e.Resource.Key)
}

// compare checks the mirror against the model.
func (w *mirror) compare(rt *rapid.T, have map[resource.Key]entry) {
	want, got := map[resource.Key]entry{}, map[resource.Key]entry{}
	for key, e := range have {
		q := &w.query
		if (q.Project == "" || q.Project == key.Project) && (q.Name == "" || q.Name == key.Name) &&
			(q.Index == "" || q.Value == e.host) && (q.Labels == nil || q.Labels["l"] == e.label) {
			want[key] = e
		}
	}
	for key, r := range w.have {
		got[key] = entryOf(r)
	}
	if diff := cmp.Diff(want, got, compareEntries...); diff != "" {
		rt.Fatalf("mirror of %+v (-want +got):\n%s", w.query, diff)
	}
}
