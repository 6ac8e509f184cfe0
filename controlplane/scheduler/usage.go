package scheduler

import (
	"context"
	"errors"
	"fmt"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// remove deletes the placement of a machine that is gone and gives its resources back.
func remove(ctx context.Context, rw *controller.ReadWriter, placement placementAt) error {
	compares := []store.Compare{placement.compare()}
	ops := []store.Op{{Type: store.Delete, Resource: &resource.Resource{Meta: resource.Meta{Key: placement.key}}}}
	if pool := placement.spec.GetPool(); pool != "" {
		op, compare, err := usage(ctx, rw, pool, placement.key, nil)
		if err != nil {
			return err
		}
		ops, compares = append(ops, op), append(compares, compare)
	}
	_, err := rw.Txn(ctx, compares, ops...)
	return err
}

// usage is the operation that makes a pool's usage the sum of its placements, with that at key
// replaced by placed, or taken away when placed is nil.
func usage(ctx context.Context, rw *controller.ReadWriter, pool string, key resource.Key, placed *v1alpha1.MachinePlacementSpec) (store.Op, store.Compare, error) {
	usageKey := resource.Key{Kind: api.MachinePoolUsage, Name: pool}
	present, err := rw.Get(ctx, usageKey)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return store.Op{}, store.Compare{}, err
	}
	list, err := rw.List(ctx, store.Query{Kind: api.MachinePlacement, Index: api.ByPool, Value: pool})
	if err != nil {
		return store.Op{}, store.Compare{}, err
	}
	sum := Resources{}
	add := func(p *v1alpha1.MachinePlacementSpec) error {
		r, err := ParseResources(p.GetResources())
		sum = sum.Plus(r)
		return err
	}
	for _, r := range list {
		if r.Key == key {
			continue
		}
		if err := add(resource.Spec[*v1alpha1.MachinePlacementSpec](r)); err != nil {
			return store.Op{}, store.Compare{}, fmt.Errorf("read resources of %s: %w", r.Key, err)
		}
	}
	next := &v1alpha1.MachinePoolUsageSpec{}
	if placed != nil {
		if err := add(placed); err != nil {
			return store.Op{}, store.Compare{}, err
		}
	} else {
		next.Released = 1
	}
	next.Used = sum.Format()
	r := &resource.Resource{Meta: resource.Meta{Key: usageKey}, Spec: next}
	if present == nil {
		return store.Op{Type: store.Create, Resource: r}, store.Compare{Key: usageKey}, nil
	}
	next.Released += resource.Spec[*v1alpha1.MachinePoolUsageSpec](present).GetReleased()
	r.Revision = present.Revision
	return store.Op{Type: store.Update, Resource: r}, store.Compare{Key: usageKey, Revision: present.Revision}, nil
}
