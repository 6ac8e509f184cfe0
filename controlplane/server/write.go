package server

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/admission"
	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

const (
	// maxObject bounds a stored object; etcd-like backends refuse more.
	maxObject = 1 << 20
	// maxAttempts is how often a write that lost a race is tried again.
	maxAttempts = 10
)

// Create implements ResourceService.
func (s resources) Create(ctx context.Context, req *v1alpha1.CreateRequest) (*v1alpha1.Object, error) {
	info, want, err := s.wanted(ctx, req.Object)
	if err != nil {
		return nil, err
	}
	var remember *resource.Resource
	if req.RequestId != "" && !req.DryRun {
		remember = requestRecord(caller(ctx), req.RequestId, want)
		if before, err := s.replay(ctx, remember); err != nil || before != nil {
			return s.answer(ctx, info, before, err)
		}
	}
	r, err := s.create(ctx, want, remember, req.DryRun)
	if remember != nil && errors.Is(err, fault.Exists) { // a twin of this request may have been faster
		if before, rerr := s.replay(ctx, remember); rerr != nil || before != nil {
			return s.answer(ctx, info, before, rerr)
		}
	}
	return s.answer(ctx, info, r, err)
}

func (s resources) answer(ctx context.Context, info api.Info, r *resource.Resource, err error) (*v1alpha1.Object, error) {
	if err != nil {
		return nil, err
	}
	return s.redacted(ctx, info, r)
}

// wanted is the object of a request, once the caller may write it.
func (s resources) wanted(ctx context.Context, o *v1alpha1.Object) (api.Info, *resource.Resource, error) {
	info, err := authorize(ctx, write, o.GetKind(), o.GetMetadata().GetNamespace())
	if err != nil {
		return info, nil, err
	}
	if size := proto.Size(o); size > maxObject {
		return info, nil, fault.Fields{{Path: "spec", Detail: fmt.Sprintf("object has %d bytes; at most %d are kept", size, maxObject)}}
	}
	r, err := api.FromObject(o)
	return info, r, err
}

// create admits and stores a new resource, and remember with it. With dryRun it only admits.
func (s *Server) create(ctx context.Context, want, remember *resource.Resource, dryRun bool) (*resource.Resource, error) {
	if err := authorizeNew(caller(ctx), want); err != nil {
		return nil, err
	}
	r := want.Clone()
	r.UID, r.Revision = "", 0
	defer s.locks.lock(admission.Claims(nil, r))()
	if err := s.admission.Admit(ctx, nil, r); err != nil {
		return nil, err
	}
	if _, err := s.store.Get(ctx, r.Key); !errors.Is(err, fault.NotFound) {
		if err == nil {
			err = fmt.Errorf("create %s: %w", r.Key, fault.Exists)
		}
		return nil, err
	}
	if dryRun {
		return r, nil
	}
	tx := store.Txn{Ops: []store.Op{{Type: store.Create, Resource: r}}}
	if remember != nil {
		tx.Ops = append(tx.Ops, store.Op{Type: store.Create, Resource: remember})
	}
	res, err := s.store.Txn(ctx, tx)
	if err != nil {
		return nil, err
	}
	return res.Resources[0], nil
}

// Update implements ResourceService.
func (s resources) Update(ctx context.Context, req *v1alpha1.UpdateRequest) (*v1alpha1.Object, error) {
	info, want, err := s.wanted(ctx, req.Object)
	if err != nil {
		return nil, err
	}
	var r *resource.Resource
	err = retry(ctx, want.Revision == 0, func() error {
		old, err := s.find(ctx, info, want.Project, want.Name)
		if err != nil {
			return err
		}
		next := old.Clone()
		if err := applyMask(next, want, req.Mask.GetPaths()); err != nil {
			return err
		}
		r, err = s.update(ctx, old, next, want, req.DryRun)
		return err
	})
	return s.answer(ctx, info, r, err)
}

// Apply implements ResourceService. Labels, annotations and spec become what is given; what may be
// set only once stays when it is not given.
func (s resources) Apply(ctx context.Context, req *v1alpha1.ApplyRequest) (*v1alpha1.ApplyResponse, error) {
	info, want, err := s.wanted(ctx, req.Object)
	if err != nil {
		return nil, err
	}
	var r *resource.Resource
	result := "created"
	err = retry(ctx, want.Revision == 0, func() error {
		old, err := s.store.Get(ctx, want.Key)
		if errors.Is(err, fault.NotFound) && want.Revision == 0 && want.UID == "" {
			r, err = s.create(ctx, want, nil, req.DryRun)
			if errors.Is(err, fault.Exists) {
				return fmt.Errorf("%w: %w", fault.Conflict, err) // it came to be since: look again
			}
			return err
		}
		if err != nil {
			return err
		}
		next := old.Clone()
		next.Labels, next.Annotations, next.Spec = want.Labels, want.Annotations, proto.Clone(want.Spec)
		keepSetOnce(old.Spec, next.Spec)
		r, err = s.update(ctx, old, next, want, req.DryRun)
		if err != nil {
			return err
		}
		result = "configured"
		if same(old, r) {
			result = "unchanged"
		}
		return nil
	})
	o, err := s.answer(ctx, info, r, err)
	if err != nil {
		return nil, err
	}
	return &v1alpha1.ApplyResponse{Object: o, Result: result}, nil
}

// update admits and stores next in place of old; want says which revision and uid the caller meant.
func (s *Server) update(ctx context.Context, old, next, want *resource.Resource, dryRun bool) (*resource.Resource, error) {
	switch {
	case want.UID != "" && want.UID != old.UID:
		return nil, because("OtherObject", "update %s: uid is %s, not %s: it is another object: %w", old.Key, old.UID, want.UID, fault.Conflict)
	case want.Revision != 0 && want.Revision != old.Revision:
		return nil, because("Changed", "update %s: resourceVersion is %d, not %d: somebody else changed it; get it again: %w",
			old.Key, old.Revision, want.Revision, fault.Conflict)
	case old.Owner != "":
		return nil, because("ControllerOwned", "update %s: it is owned by controller %q, not by users: %w", old.Key, old.Owner, fault.Denied)
	case old.Phase == resource.TearingDown:
		return nil, because("Terminating", "update %s: it is being deleted, waiting for %v: %w", old.Key, old.Finalizers, fault.Precondition)
	}
	defer s.locks.lock(admission.Claims(old, next))()
	if err := s.admission.Admit(ctx, old, next); err != nil {
		return nil, err
	}
	if dryRun || same(old, next) {
		return next, nil
	}
	res, err := s.store.Txn(ctx, store.Txn{Ops: []store.Op{{Type: store.Update, Resource: next, UID: old.UID}}})
	if err != nil {
		return nil, err
	}
	return res.Resources[0], nil
}

// Delete implements ResourceService.
func (s resources) Delete(ctx context.Context, req *v1alpha1.DeleteRequest) (*v1alpha1.Object, error) {
	info, err := authorize(ctx, write, req.Kind, req.Namespace)
	if err != nil {
		return nil, err
	}
	var r *resource.Resource
	err = retry(ctx, true, func() error {
		old, err := s.find(ctx, info, req.Namespace, req.Name)
		if err != nil {
			return err
		}
		if req.Uid != "" && req.Uid != old.UID {
			return because("OtherObject", "delete %s: uid is %s, not %s: it is another object: %w", old.Key, old.UID, req.Uid, fault.Precondition)
		}
		if old.Owner != "" {
			return because("ControllerOwned", "delete %s: it is owned by controller %q, not by users: %w", old.Key, old.Owner, fault.Denied)
		}
		r, err = s.delete(ctx, old)
		return err
	})
	return s.answer(ctx, info, r, err)
}

// delete admits and asks for the deletion of old; it returns what is left, as terminating.
func (s *Server) delete(ctx context.Context, old *resource.Resource) (*resource.Resource, error) {
	if old.Phase == resource.TearingDown {
		return old, nil
	}
	defer s.locks.lock(admission.Claims(old, nil))()
	if err := s.admission.Admit(ctx, old, nil); err != nil {
		return nil, err
	}
	res, err := s.store.Txn(ctx, store.Txn{Ops: []store.Op{{Type: store.Delete, Resource: old, UID: old.UID}}})
	if err != nil {
		return nil, err
	}
	if left := res.Resources[0]; left != nil {
		return left, nil
	}
	gone := old.Clone()
	gone.Phase = resource.TearingDown
	return gone, nil
}

// same reports that storing b over a would change nothing.
func same(a, b *resource.Resource) bool {
	return proto.Equal(a.Spec, b.Spec) && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations)
}

// retry calls fn again while it loses races and the caller did not ask for one certain revision.
func retry(ctx context.Context, again bool, fn func() error) error {
	for attempt := 1; ; attempt++ {
		err := fn()
		if !again || attempt == maxAttempts || !errors.Is(err, fault.Conflict) || ctx.Err() != nil {
			return err
		}
		if special := (reasonError{}); errors.As(err, &special) {
			return err // the caller's own condition, not a race
		}
	}
}
