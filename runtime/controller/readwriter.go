package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"google.golang.org/protobuf/proto"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// A ReadWriter is a controller's access to the store during one reconcile. Reads come from memory
// and see the newest state; what they return is frozen. Access to a kind that the controller has
// not declared is fault.Denied.
type ReadWriter struct {
	store   store.Store
	spec    *spec
	applied map[resource.Key]bool
}

// Get returns the resource at key, of an input or output; fault.NotFound when there is none.
func (rw *ReadWriter) Get(ctx context.Context, key resource.Key) (*resource.Resource, error) {
	if err := rw.mayRead(key.Kind); err != nil {
		return nil, err
	}
	return rw.store.Get(ctx, key)
}

// List returns what matches q, of an input or output, in key order.
func (rw *ReadWriter) List(ctx context.Context, q store.Query) ([]*resource.Resource, error) {
	if err := rw.mayRead(q.Kind); err != nil {
		return nil, err
	}
	page, err := rw.store.List(ctx, q)
	return page.Items, err
}

// Apply makes the output at desired's key have desired's spec, labels and annotations: it creates
// the resource, updates it, or, when it is equal already, writes nothing. It returns what is stored.
// Errors: fault.Denied when another owns it; fault.Precondition when it has to change but is being
// torn down.
func (rw *ReadWriter) Apply(ctx context.Context, desired *resource.Resource) (*resource.Resource, error) {
	if err := rw.mayWrite(desired.Kind); err != nil {
		return nil, err
	}
	present, err := rw.store.Get(ctx, desired.Key)
	op := store.Op{Type: store.Update, Resource: desired}
	switch {
	case errors.Is(err, fault.NotFound):
		op.Type = store.Create
	case err != nil:
		return nil, err
	case present.Owner == rw.spec.name && equal(present, desired):
		rw.noteApplied(desired.Key)
		return present, nil
	default:
		// Whatever revision desired was made from: the owner is the only one who writes it.
		next := *desired
		next.Revision = present.Revision
		op.Resource, op.UID = &next, present.UID
	}
	result, err := rw.Txn(ctx, nil, op)
	if errors.Is(err, fault.Exists) && present == nil {
		err = fmt.Errorf("%w: %w", fault.Conflict, err) // it came between the look and the write
	}
	if err != nil {
		return nil, fmt.Errorf("apply %s: %w", desired.Key, err)
	}
	rw.noteApplied(desired.Key)
	return result.Resources[0], nil
}

func equal(a, b *resource.Resource) bool {
	return maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) && proto.Equal(a.Spec, b.Spec)
}

func (rw *ReadWriter) noteApplied(key resource.Key) {
	if rw.applied == nil {
		rw.applied = map[resource.Key]bool{}
	}
	rw.applied[key] = true
}

// Delete deletes the output at key; it reports whether it is gone, or waits for finalizers.
func (rw *ReadWriter) Delete(ctx context.Context, key resource.Key) (gone bool, err error) {
	if err := rw.mayWrite(key.Kind); err != nil {
		return false, err
	}
	result, err := rw.Txn(ctx, nil, store.Op{Type: store.Delete, Resource: keyOnly(key)})
	switch {
	case errors.Is(err, fault.NotFound):
		return true, nil
	case err != nil:
		return false, err
	}
	return result.Resources[0] == nil, nil
}

// Prune deletes the outputs matching q that the controller owns and has not applied in this
// reconcile. It reports whether all of them are gone.
func (rw *ReadWriter) Prune(ctx context.Context, q store.Query) (gone bool, err error) {
	if err := rw.mayWrite(q.Kind); err != nil {
		return false, err
	}
	outputs, err := rw.List(ctx, q)
	if err != nil {
		return false, err
	}
	gone = true
	for _, r := range outputs {
		if r.Owner != rw.spec.name || rw.applied[r.Key] {
			continue
		}
		one, err := rw.Delete(ctx, r.Key)
		if err != nil {
			return false, err
		}
		gone = gone && one
	}
	return gone, nil
}

// AddFinalizer puts the controller's finalizer, which is its name, on a strong input.
// Errors: fault.NotFound, fault.Precondition when it is being torn down already.
func (rw *ReadWriter) AddFinalizer(ctx context.Context, key resource.Key) error {
	r, err := rw.Get(ctx, key)
	if err != nil {
		return err
	}
	if r.HasFinalizer(rw.spec.name) {
		return nil
	}
	_, err = rw.Txn(ctx, nil, store.Op{Type: store.AddFinalizer, Resource: keyOnly(key), UID: r.UID, Finalizer: rw.spec.name})
	return err
}

// RemoveFinalizer takes the controller's finalizer off a strong input; not there is fine.
func (rw *ReadWriter) RemoveFinalizer(ctx context.Context, key resource.Key) error {
	r, err := rw.Get(ctx, key)
	if errors.Is(err, fault.NotFound) || (err == nil && !r.HasFinalizer(rw.spec.name)) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = rw.Txn(ctx, nil, store.Op{Type: store.RemoveFinalizer, Resource: keyOnly(key), UID: r.UID, Finalizer: rw.spec.name})
	return err
}

// Txn writes several outputs at once, with the controller as writer. Finalizers may only be the
// controller's own, on strong inputs or outputs.
func (rw *ReadWriter) Txn(ctx context.Context, compares []store.Compare, ops ...store.Op) (store.Result, error) {
	for _, c := range compares {
		if err := rw.mayRead(c.Key.Kind); err != nil {
			return store.Result{}, err
		}
	}
	for i := range ops {
		if err := rw.mayDo(&ops[i]); err != nil {
			return store.Result{}, err
		}
	}
	return rw.store.Txn(ctx, store.Txn{Writer: rw.spec.name, Compares: compares, Ops: ops})
}

func (rw *ReadWriter) mayDo(op *store.Op) error {
	if op.Resource == nil {
		return fmt.Errorf("operation without a resource: %w", fault.Invalid)
	}
	kind := op.Resource.Kind
	if op.Type != store.AddFinalizer && op.Type != store.RemoveFinalizer {
		return rw.mayWrite(kind)
	}
	if !rw.spec.strong(kind) && !rw.spec.writes(kind) {
		return rw.denied(op.Type.String(), kind, "a strong input or an output")
	}
	if op.Finalizer != rw.spec.name {
		return fmt.Errorf("controller %s: finalizer %q of another: %w", rw.spec.name, op.Finalizer, fault.Denied)
	}
	return nil
}

func (rw *ReadWriter) mayRead(kind resource.Kind) error {
	if !rw.spec.reads(kind) && !rw.spec.writes(kind) {
		return rw.denied("read", kind, "an input or output")
	}
	return nil
}

func (rw *ReadWriter) mayWrite(kind resource.Kind) error {
	if !rw.spec.writes(kind) {
		return rw.denied("write", kind, "an output")
	}
	return nil
}

func (rw *ReadWriter) denied(verb string, kind resource.Kind, want string) error {
	return fmt.Errorf("controller %s: %s %s: it is not declared as %s: %w", rw.spec.name, verb, kind, want, fault.Denied)
}

func keyOnly(key resource.Key) *resource.Resource {
	return &resource.Resource{Meta: resource.Meta{Key: key}}
}
