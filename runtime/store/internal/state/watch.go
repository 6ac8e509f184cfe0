package state

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// everyLimit bounds the events that a watcher of every state keeps.
const everyLimit = 1 << 16

// A topic is what subscriptions hang on: a write looks up its own topics and touches nobody else.
type topic struct {
	kind, index    int // index: of the kind, or one of the below
	project, value string
}

const (
	wholeKind = -1 - iota
	wholeProject
	oneName
)

func (q *query) topic() topic {
	switch {
	case q.index >= 0:
		return topic{q.kind, q.index, "", q.Value}
	case q.Project != "" && q.Name != "":
		return topic{q.kind, oneName, q.Project, q.Name}
	case q.Project != "":
		return topic{q.kind, wholeProject, q.Project, ""}
	}
	return topic{q.kind, wholeKind, "", ""}
}

// A hub hands the changes of each batch to the watchers that asked for them.
type hub struct {
	catalog *catalog

	mu       sync.Mutex // guards all below; publishing holds it
	topics   map[topic]map[*watcher]struct{}
	watchers map[*watcher]struct{}
	history  history
	sequence uint64 // of the change being delivered
	touched  []*watcher
	closed   error // why no watch is possible any more

	// complete is the revision up to which every watcher has what it asked for.
	complete atomic.Uint64
}

// add starts w: from the state of v, or with what changed after revision from when history still
// has that.
func (h *hub) add(w *watcher, v *view, from uint64) {
	h.watchers[w] = struct{}{}
	for i := range w.queries {
		t := w.queries[i].topic()
		if h.topics[t] == nil {
			h.topics[t] = map[*watcher]struct{}{}
		}
		h.topics[t][w] = struct{}{}
	}
	if from == 0 || !h.history.covers(from, v.revision) {
		w.initial = v
		return
	}
	w.fetched = from
	h.history.since(from, func(c change) {
		if w.concerns(c.kind) {
			c.oldValues, c.newValues = h.catalog.values(c.kind, c.old), h.catalog.values(c.kind, c.new)
			w.stage(&c)
		}
	})
	w.flush(v)
}

func (h *hub) remove(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
	for i := range w.queries {
		t := w.queries[i].topic()
		delete(h.topics[t], w)
		if len(h.topics[t]) == 0 {
			delete(h.topics, t)
		}
	}
}

// close ends all watches, and those that come later, with err.
func (h *hub) close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = err
	for w := range h.watchers {
		w.end(err)
	}
}

// deliver hands changes, which lead to v, to watchers: all of them at once to each one.
func (h *hub) deliver(v *view, changes []change) {
	for i := range changes {
		c := &changes[i]
		h.history.add(c)
		h.sequence++
		h.offer(c, topic{c.kind, wholeKind, "", ""})
		key := c.key()
		h.offer(c, topic{c.kind, wholeProject, key.Project, ""})
		h.offer(c, topic{c.kind, oneName, key.Project, key.Name})
		for index := range c.oldValues {
			for _, value := range c.oldValues[index] {
				h.offer(c, topic{c.kind, index, "", value})
			}
		}
		for index := range c.newValues {
			for _, value := range c.newValues[index] {
				if c.old == nil || !slices.Contains(c.oldValues[index], value) {
					h.offer(c, topic{c.kind, index, "", value})
				}
			}
		}
	}
	for i, w := range h.touched {
		w.flush(v)
		h.touched[i] = nil
	}
	h.touched = h.touched[:0]
	h.complete.Store(v.revision)
}

func (h *hub) offer(c *change, t topic) {
	for w := range h.topics[t] {
		if w.sequence == h.sequence {
			continue
		}
		w.sequence = h.sequence
		if !w.stage(c) {
			continue
		}
		if !w.touched {
			w.touched = true
			h.touched = append(h.touched, w)
		}
	}
}

// A pending event is one that a watcher has not fetched yet.
type pending struct {
	store.Event
	revision uint64
	// unseen says that the watcher never heard of the resource: when it goes before the watcher
	// looked, nothing needs to be told.
	unseen bool
}

// A watcher keeps the newest event of each resource until it is fetched; so its memory is bounded
// by what it watches, however slow it is.
type watcher struct {
	hub     *hub
	queries []query
	every   bool        // one of the queries says so
	stop    func() bool // frees what ties the watcher to its context

	// Guarded by hub.mu.
	sequence uint64
	staged   []pending
	touched  bool

	mu       sync.Mutex         // guards all below
	initial  *view              // the state to deliver first
	pending  map[string]pending // by UID; or, with every:
	log      []pending
	revision uint64 // of the last batch in pending
	fetched  uint64 // of the last batch fetched
	err      error
	wake     chan struct{} // holds one token when there is something to fetch
}

func (w *watcher) concerns(kind int) bool {
	return slices.ContainsFunc(w.queries, func(q query) bool { return q.kind == kind })
}

func (w *watcher) matches(r *resource.Resource, values [][]string) bool {
	for i := range w.queries {
		if w.queries[i].matches(r, values) {
			return true
		}
	}
	return false
}

// stage notes the events that c means to w; it reports whether there are any. What leaves the
// selection is told as deleted, with its last state inside the selection.
func (w *watcher) stage(c *change) bool {
	was, is := w.matches(c.old, c.oldValues), w.matches(c.new, c.newValues)
	replaced := c.old != nil && c.new != nil && c.old.UID != c.new.UID
	if was && (!is || replaced) {
		w.staged = append(w.staged, pending{store.Event{Resource: c.old, Deleted: true}, c.revision, false})
	}
	if is {
		w.staged = append(w.staged, pending{store.Event{Resource: c.new}, c.revision, !was || replaced})
	}
	return was || is
}

// flush makes what is staged available, in one step.
func (w *watcher) flush(v *view) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.every {
		w.log = append(w.log, w.staged...)
		if len(w.log) > everyLimit {
			w.log, w.initial = nil, v
		}
	} else {
		for _, p := range w.staged {
			w.merge(p)
		}
	}
	clear(w.staged)
	w.staged, w.touched = w.staged[:0], false
	w.revision = v.revision
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) merge(p pending) {
	uid := p.Resource.UID
	before, known := w.pending[uid]
	switch {
	case known && before.unseen && p.Deleted:
		delete(w.pending, uid)
		return
	case known && before.Deleted:
		p.unseen = false // it left the selection and came back: the watcher still knows it
	case known:
		p.unseen = before.unseen
	}
	if w.pending == nil {
		w.pending = map[string]pending{}
	}
	w.pending[uid] = p
}

// Next implements store.Watcher.
func (w *watcher) Next(ctx context.Context) (store.Batch, error) {
	for {
		if batch, ok, err := w.take(); ok || err != nil {
			return batch, err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return store.Batch{}, ctx.Err()
		}
	}
}

// take returns what is there to fetch.
func (w *watcher) take() (store.Batch, bool, error) {
	complete := w.hub.complete.Load() // before the look at pending: see hub.deliver
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return store.Batch{}, false, w.err
	}
	if v := w.initial; v != nil {
		w.initial = nil
		w.fetched = v.revision
		return store.Batch{Revision: v.revision, Reset: true, Events: v.events(w.queries)}, true, nil
	}
	w.fetched = max(w.fetched, w.revision, complete)
	events := w.drain()
	return store.Batch{Revision: w.fetched, Events: events}, len(events) > 0, nil
}

// drain empties pending, or log, into events in order.
func (w *watcher) drain() []store.Event {
	ordered := w.log
	w.log = nil
	if len(w.pending) > 0 {
		ordered = slices.AppendSeq(make([]pending, 0, len(w.pending)), maps.Values(w.pending))
		clear(w.pending)
		slices.SortFunc(ordered, pending.compare)
	}
	events := make([]store.Event, len(ordered))
	for i := range ordered {
		events[i] = ordered[i].Event
	}
	return events
}

// compare orders by revision, then key; at one key the former resource goes before its successor.
func (p pending) compare(o pending) int {
	if c := cmp.Or(cmp.Compare(p.revision, o.revision), p.Resource.Compare(o.Resource.Key)); c != 0 || p.Deleted == o.Deleted {
		return c
	}
	if p.Deleted {
		return -1
	}
	return 1
}

// events are all that any of the queries selects, each resource once.
func (v *view) events(queries []query) []store.Event {
	var events []store.Event
	seen := map[string]bool{}
	for i := range queries {
		for _, r := range v.list(&queries[i]).Items {
			if len(queries) > 1 {
				if seen[r.UID] {
					continue
				}
				seen[r.UID] = true
			}
			events = append(events, store.Event{Resource: r})
		}
	}
	return events
}

// Revision implements store.Watcher.
func (w *watcher) Revision() uint64 {
	complete := w.hub.complete.Load() // before the look at pending: see hub.deliver
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && w.initial == nil && len(w.pending) == 0 && len(w.log) == 0 {
		w.fetched = max(w.fetched, w.revision, complete)
	}
	return w.fetched
}

// Close implements store.Watcher.
func (w *watcher) Close() {
	w.hub.remove(w)
	w.end(context.Canceled)
	w.stop()
}

// end makes Next return err from now on.
func (w *watcher) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return
	}
	w.err, w.pending, w.log, w.initial = err, nil, nil, nil
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
