// Package store defines how resources are kept: a multi-version view with one global revision,
// transactions, paged lists and coalescing watches. Backends live below it (mem, bolt) and share
// the conformance suite in storetest.
package store

import (
	"context"
	"fmt"

	"ingot/runtime/resource"
)

// A Store keeps resources. All methods are safe for concurrent use. Resources that go in or
// come out are frozen.
type Store interface {
	// Get returns the resource at key; fault.NotFound when there is none.
	Get(ctx context.Context, key resource.Key) (*resource.Resource, error)
	// List returns what matches q in key order, at one revision.
	List(ctx context.Context, q Query) (Page, error)
	// Txn applies all of tx or nothing, and returns once it is durable.
	// Errors: fault.Conflict (a compare or a Put's revision did not hold), fault.Exists,
	// fault.NotFound, fault.Denied (owned by another), fault.Invalid.
	Txn(ctx context.Context, tx Txn) (Result, error)
	// Watch delivers changes after revision from that match any query. From 0, and when from is too
	// old to resume, the first batch is the present state with Reset set. A watcher that is slow gets
	// the newest state of each object, never an overrun.
	Watch(ctx context.Context, from uint64, queries ...Query) (Watcher, error)
	// Revision is that of the last committed transaction.
	Revision() uint64
	Close() error
}

// A Query selects resources of one kind. Zero fields match anything.
type Query struct {
	Kind    resource.Kind
	Project string
	Name    string
	// Index and Value select by an index of the kind's definition.
	Index, Value string
	// Labels must all be equal.
	Labels map[string]string
	// Limit bounds a page (0: no bound); After continues behind a page's Next. Only for List.
	Limit int
	After *resource.Key
	// Every tells each state instead of the newest alone, to whoever must not miss one that is
	// passed through. A watcher that falls 65,536 events behind is reset. Only for Watch, and for
	// all of its queries when one says so.
	Every bool
}

// A Page is one part of a list.
type Page struct {
	Revision uint64
	Items    []*resource.Resource
	// Next is set when more remains.
	Next *resource.Key
}

// A Txn is a set of compares and operations by one writer.
type Txn struct {
	// Writer is the identity that writes: "" for users, else a controller. A resource may only be
	// changed by its Owner; finalizers and deletion excepted (see Op).
	Writer   string
	Compares []Compare
	Ops      []Op
}

// A Compare holds when the resource at Key has Revision; 0 means that there is none.
type Compare struct {
	Key      resource.Key
	Revision uint64
}

// OpType is what an Op does.
type OpType uint8

const (
	// Create stores a new resource; fault.Exists when there is one. Owner is set to the Txn's writer.
	Create OpType = iota
	// Update replaces spec, labels and annotations. Resource.Revision, when not 0, must be the present one.
	Update
	// Delete removes the resource, or, while finalizers remain, makes it TearingDown. Any writer may
	// delete what users own; else only the owner.
	Delete
	// AddFinalizer and RemoveFinalizer change one finalizer; removing the last one of a
	// TearingDown resource removes the resource. Any writer may.
	AddFinalizer
	RemoveFinalizer
)

// String is the verb.
func (t OpType) String() string {
	verbs := [...]string{"create", "update", "delete", "add finalizer to", "remove finalizer from"}
	if int(t) < len(verbs) {
		return verbs[t]
	}
	return fmt.Sprintf("operation %d", t)
}

// An Op is one operation of a transaction.
type Op struct {
	Type OpType
	// Resource is what Create and Update store; the others use only its Key.
	Resource *resource.Resource
	// UID, when set, must be the present resource's.
	UID string
	// Finalizer is for AddFinalizer and RemoveFinalizer.
	Finalizer string
}

// A Result holds, per Op, the resource as it is now; nil when it is gone.
type Result struct {
	Revision  uint64
	Resources []*resource.Resource
}

// A Watcher delivers batches until its context ends.
type Watcher interface {
	// Next blocks for the next batch; it returns the context's error at the end. One at a time.
	Next(ctx context.Context) (Batch, error)
	// Revision is that up to which Next has delivered everything: where to resume from. Unlike
	// that of the last batch it moves on while nothing that matches happens.
	Revision() uint64
	Close()
}

// A Batch is a set of changes up to and including Revision, in the order they were made. No
// transaction is ever torn between two batches.
type Batch struct {
	Revision uint64
	// Reset says that Events are the whole present state: what is not among them is gone.
	Reset  bool
	Events []Event
}

// An Event is the newest state of one resource; one that was re-created gives two, of two UIDs.
type Event struct {
	Resource *resource.Resource
	// Deleted says that the resource is gone, or out of what is watched; Resource is the last state
	// that was in it.
	Deleted bool
}
