// Package state owns what all backends share: the multi-version state in memory, the evaluation of
// transactions, group commit and watches. It never touches a disk; a Journal does.
//
// One batch of transactions is committed at a time: it is evaluated over the present view, given to
// the journal, and only then published as the next view and handed to the watchers. Readers load
// the view and take no lock.
package state

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// A Journal makes batches durable.
type Journal interface {
	// Encode returns what Write shall keep; an error refuses only the transaction that wants it.
	Encode(r *resource.Resource) ([]byte, error)
	// Write returns once the changes, which end at revision, are durable. After an error that is
	// not a Refusal, nobody knows whether they are, and the store takes no more transactions.
	Write(revision uint64, changes []Change) error
	Close() error
}

// A Change is what became of one key; Record is what Encode made of it, nil when it is gone.
type Change struct {
	Key    resource.Key
	Record []byte
}

// A Refusal is an error of a journal that wrote nothing, such as a full disk.
type Refusal struct{ Err error }

func (r Refusal) Error() string { return r.Err.Error() }

// Unwrap returns the cause.
func (r Refusal) Unwrap() error { return r.Err }

// Config says what a store starts from; the zero value is an empty store in memory.
type Config struct {
	// Journal makes batches durable; nil for a store in memory only.
	Journal Journal
	// Revision and Resources are what a journal has kept.
	Revision  uint64
	Resources []*resource.Resource
	// History is how many changes are kept for watches to resume from; 0: 8192.
	History int
	// MaxBatch bounds the transactions of a batch; 0: 512.
	MaxBatch int
	// Linger is how long a batch waits for as many writers as the one before it had.
	Linger time.Duration
}

// Store implements store.Store.
type Store struct {
	catalog *catalog
	journal Journal
	view    atomic.Pointer[view]
	hub     hub
	commits committer
	broken  error // what the journal failed with; only the leader looks
}

// New returns a store of the kinds in schema.
func New(schema *resource.Schema, cfg Config) (*Store, error) {
	c := newCatalog(schema)
	changes := make([]change, len(cfg.Resources))
	for i, r := range cfg.Resources {
		number, err := c.number(r.Kind)
		if err != nil {
			return nil, fmt.Errorf("load %s: %w", r.Key, err)
		}
		changes[i] = change{kind: number, revision: r.Revision, new: r, newValues: c.values(number, r)}
	}
	s := &Store{catalog: c, journal: cfg.Journal}
	s.view.Store(emptyView(c, cfg.Revision).with(cfg.Revision, changes))
	s.hub = hub{
		catalog:  c,
		topics:   map[topic]map[*watcher]struct{}{},
		watchers: map[*watcher]struct{}{},
		history:  history{limit: orDefault(cfg.History, 8192), before: cfg.Revision},
	}
	s.hub.complete.Store(cfg.Revision)
	s.commits = committer{limit: orDefault(cfg.MaxBatch, 512), linger: cfg.Linger}
	return s, nil
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key resource.Key) (*resource.Resource, error) {
	number, err := s.catalog.number(key.Kind)
	if err != nil {
		return nil, err
	}
	if r := s.view.Load().get(number, key); r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("get %s: %w", key, fault.NotFound)
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, q store.Query) (store.Page, error) {
	checked, err := s.catalog.query(q)
	if err != nil {
		return store.Page{}, err
	}
	return s.view.Load().list(&checked), nil
}

// Revision implements store.Store.
func (s *Store) Revision() uint64 { return s.view.Load().revision }

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, from uint64, queries ...store.Query) (store.Watcher, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &watcher{hub: &s.hub, wake: make(chan struct{}, 1)}
	for _, q := range queries {
		if q.Limit != 0 || q.After != nil {
			return nil, fmt.Errorf("watch %s: limit and after are for lists: %w", q.Kind, fault.Invalid)
		}
		checked, err := s.catalog.query(q)
		if err != nil {
			return nil, err
		}
		w.queries = append(w.queries, checked)
		w.every = w.every || q.Every
	}
	if err := s.start(w, from); err != nil {
		return nil, err
	}
	w.stop = context.AfterFunc(ctx, func() {
		s.hub.remove(w)
		w.end(ctx.Err())
	})
	return w, nil
}

// start takes the present view and subscribes to what follows it, in one step.
func (s *Store) start(w *watcher, from uint64) error {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.hub.closed != nil {
		return s.hub.closed
	}
	s.hub.add(w, s.view.Load(), from)
	return nil
}

var errClosed = fmt.Errorf("store is closed: %w", fault.Unavailable)

// Close ends all watches and refuses what comes later.
func (s *Store) Close() error {
	if !s.commits.close(errClosed) {
		return nil
	}
	s.hub.close(errClosed)
	if s.journal == nil {
		return nil
	}
	return s.journal.Close()
}

// Txn implements store.Store. Once it has been queued its outcome is awaited: an ended context
// never leaves it unknown.
func (s *Store) Txn(ctx context.Context, tx store.Txn) (store.Result, error) {
	if err := ctx.Err(); err != nil {
		return store.Result{}, err
	}
	r := &request{tx: &tx, wake: make(chan role, 1)}
	if err := s.commits.enqueue(r); err != nil {
		return store.Result{}, err
	}
	if <-r.wake == leader {
		s.commit(s.commits.collect())
		s.commits.handOver()
	}
	return r.result, r.err
}

// commit makes one batch durable and visible, and answers its requests.
func (s *Store) commit(batch []*request) {
	base := s.view.Load()
	st := newStage(s.catalog, s.journal, base)
	for _, r := range batch {
		r.result, r.err = st.run(r.tx)
	}
	err := s.broken
	if err == nil {
		err = s.write(st)
	}
	var refusal Refusal
	if err != nil && !errors.As(err, &refusal) {
		s.broken = err
	}
	if err == nil && len(st.changes) > 0 {
		s.publish(base, st)
	}
	for _, r := range batch {
		if err != nil {
			// Refused ones too: what they were refused for may never have come to be.
			r.result, r.err = store.Result{}, fmt.Errorf("write to store: %w (%w)", err, fault.Unavailable)
		}
	}
	s.commits.answer(batch)
}

func (s *Store) write(st *stage) (err error) {
	if s.journal == nil || len(st.changes) == 0 {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	changes := make([]Change, 0, len(st.changes))
	place := make(map[resource.Key]int, len(st.changes))
	for i := range st.changes {
		c := &st.changes[i]
		key, record := c.key(), c.record
		c.record = nil
		if at, again := place[key]; again {
			changes[at].Record = record
			continue
		}
		place[key] = len(changes)
		changes = append(changes, Change{Key: key, Record: record})
	}
	return s.journal.Write(st.revision, changes)
}

func (s *Store) publish(base *view, st *stage) {
	next := base.with(st.revision, st.changes)
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.view.Store(next)
	s.hub.deliver(next, st.changes)
}
