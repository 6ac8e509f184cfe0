package state

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// A change is what one transaction did to one key. Old and new have different UIDs when the
// transaction re-created the resource.
type change struct {
	kind                 int
	revision             uint64
	old, new             *resource.Resource // nil: there is none
	oldValues, newValues [][]string         // index values
	record               []byte             // new, encoded for the journal
}

// A stage evaluates transactions, one on top of the other, over a view that it does not change.
type stage struct {
	catalog  *catalog
	journal  Journal // nil: nothing is encoded
	base     *view
	revision uint64
	changes  []change // in order of revision
	// staged is what the first mapped of changes lead to, nil for gone. Get brings it up to date:
	// a batch of one transaction never needs it.
	staged map[resource.Key]*resource.Resource
	mapped int
}

func newStage(c *catalog, j Journal, base *view) *stage {
	return &stage{catalog: c, journal: j, base: base, revision: base.revision}
}

// attempt is one transaction on a stage.
type attempt struct {
	*stage
	tx      *store.Txn
	touched []touch
	places  map[resource.Key]int // in touched; nil while there is one at most
}

// A touch is what a transaction makes of one key.
type touch struct {
	key      resource.Key
	old, new *resource.Resource // nil: there is none
}

// run evaluates tx: all of it or, with an error, nothing. A panic of an index function is an error.
func (s *stage) run(tx *store.Txn) (result store.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = store.Result{}, fmt.Errorf("evaluate transaction: panic: %v", p)
		}
	}()
	a := &attempt{stage: s, tx: tx, touched: make([]touch, 0, len(tx.Ops))}
	for _, c := range tx.Compares {
		if err := a.compare(c); err != nil {
			return store.Result{}, err
		}
	}
	result.Resources = make([]*resource.Resource, len(tx.Ops))
	for i := range tx.Ops {
		r, err := a.op(&tx.Ops[i])
		if err != nil {
			return store.Result{}, err
		}
		result.Resources[i] = r
	}
	changes, err := a.changes()
	if err != nil {
		return store.Result{}, err
	}
	if len(changes) > 0 {
		s.revision++
		s.changes = append(s.changes, changes...)
	}
	result.Revision = s.revision
	return result, nil
}

func (c *change) key() resource.Key {
	if c.new != nil {
		return c.new.Key
	}
	return c.old.Key
}

// get is the resource as the transactions before this one leave it.
func (s *stage) get(key resource.Key) (*resource.Resource, error) {
	number, err := s.catalog.number(key.Kind)
	if err != nil {
		return nil, err
	}
	for ; s.mapped < len(s.changes); s.mapped++ {
		if s.staged == nil {
			s.staged = map[resource.Key]*resource.Resource{}
		}
		c := &s.changes[s.mapped]
		s.staged[c.key()] = c.new
	}
	if r, ok := s.staged[key]; ok {
		return r, nil
	}
	return s.base.get(number, key), nil
}

// touch returns the place of key in touched: the resource as the operations before this one leave it.
func (a *attempt) touch(key resource.Key) (*touch, error) {
	if len(a.touched) == 1 && a.touched[0].key == key {
		return &a.touched[0], nil
	}
	if i, ok := a.places[key]; ok {
		return &a.touched[i], nil
	}
	old, err := a.get(key)
	if err != nil {
		return nil, err
	}
	a.touched = append(a.touched, touch{key, old, old})
	if len(a.touched) == 2 {
		a.places = make(map[resource.Key]int, cap(a.touched))
		a.places[a.touched[0].key] = 0
	}
	if a.places != nil {
		a.places[key] = len(a.touched) - 1
	}
	return &a.touched[len(a.touched)-1], nil
}

// changes are those of the attempt against the stage.
func (a *attempt) changes() ([]change, error) {
	var changes []change
	for i := range a.touched {
		t := &a.touched[i]
		if t.new == t.old {
			continue
		}
		number := a.catalog.numbers[t.key.Kind]
		c := change{
			kind: number, revision: a.revision + 1, old: t.old, new: t.new,
			oldValues: a.catalog.values(number, t.old), newValues: a.catalog.values(number, t.new),
		}
		if a.journal != nil && t.new != nil {
			var err error
			if c.record, err = a.journal.Encode(t.new); err != nil {
				return nil, err
			}
		}
		changes = append(changes, c)
	}
	return changes, nil
}

func (a *attempt) compare(c store.Compare) error {
	r, err := a.get(c.Key)
	if err != nil {
		return err
	}
	switch {
	case r == nil && c.Revision != 0:
		return fmt.Errorf("compare %s: it is gone, want revision %d: %w", c.Key, c.Revision, fault.Conflict)
	case r != nil && r.Revision != c.Revision:
		return fmt.Errorf("compare %s: it has revision %d, want %d: %w", c.Key, r.Revision, c.Revision, fault.Conflict)
	}
	return nil
}

// op applies one operation and returns the resource as it is then; nil when it is gone.
func (a *attempt) op(op *store.Op) (*resource.Resource, error) {
	if op.Resource == nil {
		return nil, fmt.Errorf("operation without a resource: %w", fault.Invalid)
	}
	key := op.Resource.Key
	t, err := a.touch(key)
	if err != nil {
		return nil, err
	}
	old := t.new
	if op.Type == store.Create {
		t.new, err = a.create(op.Resource, old)
		return t.new, err
	}
	if old == nil {
		return nil, fmt.Errorf("%s %s: %w", op.Type, key, fault.NotFound)
	}
	if op.UID != "" && op.UID != old.UID {
		return nil, fmt.Errorf("%s %s: uid is %s, want %s: %w", op.Type, key, old.UID, op.UID, fault.Conflict)
	}
	var r *resource.Resource
	switch op.Type {
	case store.Update:
		r, err = a.update(op.Resource, old)
	case store.Delete:
		r, err = a.delete(old)
	case store.AddFinalizer:
		r, err = a.addFinalizer(old, op.Finalizer)
	case store.RemoveFinalizer:
		r = a.removeFinalizer(old, op.Finalizer)
	default:
		err = fmt.Errorf("operation %d: %w", op.Type, fault.Invalid)
	}
	if err != nil {
		return nil, err
	}
	t.new = r
	return r, nil
}

func (a *attempt) create(want, old *resource.Resource) (*resource.Resource, error) {
	if old != nil && old.Phase == resource.TearingDown {
		return nil, fmt.Errorf("create %s: the former one is still being torn down: %w", want.Key, fault.Exists)
	}
	if old != nil {
		return nil, fmt.Errorf("create %s: %w", want.Key, fault.Exists)
	}
	if err := a.check(want); err != nil {
		return nil, err
	}
	r := *want
	r.Kind = a.catalog.kinds[a.catalog.numbers[want.Kind]].Kind // one string for all of them
	r.Project = unique.Make(want.Project).Value()
	r.UID = uuid.NewString()
	r.Owner = a.tx.Writer
	r.Revision = a.revision + 1
	r.Generation = 1
	r.Phase = resource.Running
	r.Created = time.Unix(0, time.Now().UnixNano()).UTC()
	return &r, nil
}

// check refuses what can never be stored.
func (a *attempt) check(r *resource.Resource) error {
	k := &a.catalog.kinds[a.catalog.numbers[r.Kind]]
	switch {
	case r.Name == "" || strings.ContainsRune(r.Name, 0) || strings.ContainsRune(r.Project, 0):
		return fmt.Errorf("name of %s: empty, or with a NUL: %w", r.Key, fault.Invalid)
	case k.Global && r.Project != "":
		return fmt.Errorf("%s: kind %s lives outside projects: %w", r.Key, r.Kind, fault.Invalid)
	case !k.Global && r.Project == "":
		return fmt.Errorf("%s: kind %s lives in a project: %w", r.Key, r.Kind, fault.Invalid)
	case reflect.TypeOf(r.Spec) != k.spec:
		return fmt.Errorf("%s: spec is a %T, want %s: %w", r.Key, r.Spec, k.spec, fault.Invalid)
	}
	return nil
}

func (a *attempt) update(want, old *resource.Resource) (*resource.Resource, error) {
	if old.Owner != a.tx.Writer {
		return nil, a.denied("update", old)
	}
	if want.Revision != 0 && want.Revision != old.Revision {
		return nil, fmt.Errorf("update %s: it has revision %d, want %d: %w", old.Key, old.Revision, want.Revision, fault.Conflict)
	}
	if err := a.check(want); err != nil {
		return nil, err
	}
	sameSpec := proto.Equal(want.Spec, old.Spec)
	if sameSpec && maps.Equal(want.Labels, old.Labels) && maps.Equal(want.Annotations, old.Annotations) {
		return old, nil
	}
	r := a.next(old)
	r.Labels, r.Annotations = want.Labels, want.Annotations
	if !sameSpec {
		if old.Phase == resource.TearingDown {
			return nil, fmt.Errorf("update %s: it is being torn down, its spec is frozen: %w", old.Key, fault.Precondition)
		}
		r.Spec = want.Spec
		r.Generation++
	}
	return r, nil
}

func (a *attempt) delete(old *resource.Resource) (*resource.Resource, error) {
	if old.Owner != "" && old.Owner != a.tx.Writer {
		return nil, a.denied("delete", old)
	}
	if len(old.Finalizers) == 0 {
		return nil, nil
	}
	if old.Phase == resource.TearingDown {
		return old, nil
	}
	r := a.next(old)
	r.Phase = resource.TearingDown
	return r, nil
}

func (a *attempt) addFinalizer(old *resource.Resource, name string) (*resource.Resource, error) {
	if name == "" {
		return nil, fmt.Errorf("add finalizer to %s: it has no name: %w", old.Key, fault.Invalid)
	}
	if old.HasFinalizer(name) {
		return old, nil
	}
	if old.Phase == resource.TearingDown {
		return nil, fmt.Errorf("add finalizer %s to %s: it is being torn down: %w", name, old.Key, fault.Precondition)
	}
	r := a.next(old)
	r.Finalizers = append(slices.Clone(old.Finalizers), name)
	return r, nil
}

func (a *attempt) removeFinalizer(old *resource.Resource, name string) *resource.Resource {
	i := slices.Index(old.Finalizers, name)
	if i < 0 {
		return old
	}
	if len(old.Finalizers) == 1 && old.Phase == resource.TearingDown {
		return nil
	}
	r := a.next(old)
	r.Finalizers = slices.Delete(slices.Clone(old.Finalizers), i, i+1)
	return r
}

// next is a copy of old for this transaction to change.
func (a *attempt) next(old *resource.Resource) *resource.Resource {
	r := *old
	r.Revision = a.revision + 1
	return &r
}

func (a *attempt) denied(verb string, r *resource.Resource) error {
	owner, writer := r.Owner, a.tx.Writer
	if owner == "" {
		owner = "users"
	}
	if writer == "" {
		writer = "a user"
	}
	return fmt.Errorf("%s %s: it is owned by %s, not by %s: %w", verb, r.Key, owner, writer, fault.Denied)
}
