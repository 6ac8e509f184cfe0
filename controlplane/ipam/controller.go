package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/cidr"
	"ingot/controlplane/condition"
	"ingot/controlplane/waiting"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Name is that of the controller that allocates prefixes, and of its finalizer.
const Name = "ipam"

// Phases of a Prefix.
const (
	Pending   = "Pending"
	Allocated = "Allocated"
	Failed    = "Failed"
)

const (
	conditionAllocated = "Allocated"
	// retry is when a prefix that waits looks again although nothing that it knows of has changed.
	retry = time.Minute
)

type allocator struct {
	waiting waiting.List // prefixes without a block, by project
}

// New returns the controller that gives prefixes their block and takes it back.
func New() controller.Controller {
	a := &allocator{}
	return controller.Each{
		Name:    Name,
		Primary: api.Prefix,
		Inputs: []controller.Input{
			{Kind: api.Prefix, Strong: true},
			{Kind: api.PrefixStatus, Map: a.concerns},
		},
		Outputs:   []controller.Output{{Kind: api.PrefixStatus}, {Kind: api.PrefixAllocation}},
		Reconcile: a.reconcile,
	}
}

// concerns are the prefix of the status, and those that could be parts of it once something is free.
func (a *allocator) concerns(status *resource.Resource) []resource.Key {
	return append(a.waiting.On(status.Project), resource.Key{Kind: api.Prefix, Project: status.Project, Name: status.Name})
}

func (a *allocator) reconcile(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
	a.waiting.For(key, key.Project)
	p, err := rw.Get(ctx, key)
	if errors.Is(err, fault.NotFound) {
		a.waiting.Done(key)
		return controller.Result{}, nil
	}
	if err != nil {
		return controller.Result{}, err
	}
	status, err := statusOf(ctx, rw, p)
	if err != nil {
		return controller.Result{}, err
	}
	if p.Phase == resource.TearingDown {
		a.waiting.Done(key)
		return controller.Result{}, release(ctx, rw, p, status)
	}
	if status.spec.GetPhase() == Allocated {
		a.waiting.Done(key)
		return controller.Result{}, nil
	}
	err = allocate(ctx, rw, p, status)
	switch {
	case err == nil:
		a.waiting.Done(key)
		return controller.Result{}, nil
	case errors.Is(err, fault.Invalid):
		return controller.Result{}, refuse(ctx, rw, p, status, Failed, "Invalid", err)
	case errors.Is(err, fault.Exhausted):
		return controller.Result{RequeueAfter: retry}, refuse(ctx, rw, p, status, Pending, "Exhausted", err)
	case errors.Is(err, fault.Unavailable):
		return controller.Result{RequeueAfter: retry}, refuse(ctx, rw, p, status, Pending, "ParentNotReady", err)
	}
	return controller.Result{}, err
}

// A statusAt is a PrefixStatus and the revision it was read at; 0 when there is none.
type statusAt struct {
	spec     *v1alpha1.PrefixStatus
	key      resource.Key
	revision uint64
}

func (s statusAt) compare() store.Compare { return store.Compare{Key: s.key, Revision: s.revision} }

// write stores spec in place of what was read.
func (s statusAt) write(spec *v1alpha1.PrefixStatus) store.Op {
	r := &resource.Resource{Meta: resource.Meta{Key: s.key, Revision: s.revision}, Spec: spec}
	if s.revision == 0 {
		return store.Op{Type: store.Create, Resource: r}
	}
	return store.Op{Type: store.Update, Resource: r}
}

func statusOf(ctx context.Context, rw *controller.ReadWriter, p *resource.Resource) (statusAt, error) {
	s := statusAt{key: resource.Key{Kind: api.PrefixStatus, Project: p.Project, Name: p.Name}, spec: &v1alpha1.PrefixStatus{}}
	r, err := rw.Get(ctx, s.key)
	if errors.Is(err, fault.NotFound) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.spec, s.revision = resource.Spec[*v1alpha1.PrefixStatus](r), r.Revision
	return s, nil
}

func finalizer(t store.OpType, p *resource.Resource) store.Op {
	return store.Op{Type: t, Resource: &resource.Resource{Meta: resource.Meta{Key: p.Key}}, UID: p.UID, Finalizer: Name}
}

// refuse writes why p has no block.
func refuse(ctx context.Context, rw *controller.ReadWriter, p *resource.Resource, status statusAt, phase, reason string, why error) error {
	next := &v1alpha1.PrefixStatus{Phase: phase,
		Conditions: condition.One(status.spec.GetConditions(), conditionAllocated, condition.False, reason, condition.Message(why))}
	if status.revision != 0 && proto.Equal(next, status.spec) {
		return nil
	}
	_, err := rw.Txn(ctx, []store.Compare{status.compare()}, finalizer(store.AddFinalizer, p), status.write(next))
	return err
}

// allocate gives p its block in one transaction. Errors: fault.Invalid, fault.Exhausted, or
// fault.Unavailable when no parent is ready.
func allocate(ctx context.Context, rw *controller.ReadWriter, p *resource.Resource, status statusAt) error {
	want, err := readRequest(resource.Spec[*v1alpha1.PrefixSpec](p))
	if err != nil {
		return err
	}
	if want.root() {
		return commit(ctx, rw, p, status, want.block, nil, nil)
	}
	parents, err := want.parents(ctx, rw, p)
	if err != nil {
		return err
	}
	var refusals []error
	for _, parent := range parents {
		block, err := want.choose(parent.space)
		if err == nil {
			return commit(ctx, rw, p, status, block, parent, parent.space.Used)
		}
		refusals = append(refusals, err)
	}
	return joinRefusals(refusals)
}

// joinRefusals is Exhausted when any is: what is in use may be given back.
func joinRefusals(refusals []error) error {
	class := fault.Invalid
	texts := make([]string, len(refusals))
	for i, err := range refusals {
		if errors.Is(err, fault.Exhausted) {
			class = fault.Exhausted
		}
		texts[i] = condition.Message(err)
	}
	return fmt.Errorf("%s: %w", strings.Join(texts, "; "), class)
}

// commit stores that p has block and, of a part, that its parent has it in use.
func commit(ctx context.Context, rw *controller.ReadWriter, p *resource.Resource, status statusAt, block netip.Prefix, parent *parent, used []netip.Prefix) error {
	next := &v1alpha1.PrefixStatus{Phase: Allocated, Prefix: block.String(),
		Conditions: condition.One(status.spec.GetConditions(), conditionAllocated, condition.True, "Allocated", "")}
	compares := []store.Compare{status.compare()}
	ops := []store.Op{finalizer(store.AddFinalizer, p), status.write(next)}
	if parent != nil {
		compares = append(compares, parent.status.compare(), store.Compare{Key: parent.prefix.Key, Revision: parent.prefix.Revision})
		ops = append(ops, parent.status.write(withUsed(parent.status.spec, Take(used, block))),
			store.Op{Type: store.Create, Resource: &resource.Resource{
				Meta: resource.Meta{Key: allocationKey(p)},
				Spec: &v1alpha1.PrefixAllocationSpec{
					PrefixRef: &v1alpha1.LocalRef{Name: parent.prefix.Name}, PrefixUid: parent.prefix.UID, Prefix: block.String(),
					HolderKind: string(p.Kind), HolderName: p.Name, HolderUid: p.UID,
				},
			}})
	}
	_, err := rw.Txn(ctx, compares, ops...)
	return err
}

// allocationKey is named by the holder, so that a holder has one part at most.
func allocationKey(p *resource.Resource) resource.Key {
	return resource.Key{Kind: api.PrefixAllocation, Project: p.Project, Name: p.Name}
}

func withUsed(status *v1alpha1.PrefixStatus, used []netip.Prefix) *v1alpha1.PrefixStatus {
	next := proto.CloneOf(status)
	next.Used = cidr.Strings(used)
	return next
}

// release gives p's block back once no part of it is in use, and lets go of p.
func release(ctx context.Context, rw *controller.ReadWriter, p *resource.Resource, status statusAt) error {
	if !p.HasFinalizer(Name) || len(status.spec.GetUsed()) > 0 {
		return nil
	}
	var compares []store.Compare
	ops := []store.Op{finalizer(store.RemoveFinalizer, p)}
	if status.revision != 0 {
		compares = append(compares, status.compare())
		ops = append(ops, store.Op{Type: store.Delete, Resource: &resource.Resource{Meta: resource.Meta{Key: status.key}}})
	}
	allocation, err := rw.Get(ctx, allocationKey(p))
	if err != nil && !errors.Is(err, fault.NotFound) {
		return err
	}
	if err == nil {
		ops = append(ops, store.Op{Type: store.Delete, Resource: allocation, UID: allocation.UID})
		spec := resource.Spec[*v1alpha1.PrefixAllocationSpec](allocation)
		parent, err := rw.Get(ctx, resource.Key{Kind: api.Prefix, Project: p.Project, Name: spec.GetPrefixRef().GetName()})
		if err != nil {
			return err
		}
		at, err := statusOf(ctx, rw, parent)
		if err != nil {
			return err
		}
		used, err := cidr.Parse(at.spec.GetUsed()...)
		if err != nil {
			return err
		}
		block, err := cidr.Parse(spec.GetPrefix())
		if err != nil {
			return err
		}
		compares = append(compares, at.compare())
		ops = append(ops, at.write(withUsed(at.spec, Release(used, block[0]))))
	}
	_, err = rw.Txn(ctx, compares, ops...)
	return err
}
