package server

import (
	"context"
	"errors"
	"fmt"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// stateKey is the one ServerState object.
var stateKey = resource.Key{Kind: api.ServerState, Name: "server"}

// epoch names the life of the store: revisions of another epoch mean nothing. It is the uid of the
// ServerState object, which a new store gets here.
func epoch(ctx context.Context, st store.Store, version string) (string, error) {
	_, err := st.Txn(ctx, store.Txn{Ops: []store.Op{{Type: store.Create, Resource: &resource.Resource{
		Meta: resource.Meta{Key: stateKey}, Spec: &v1alpha1.ServerStateSpec{Version: version},
	}}}})
	if err != nil && !errors.Is(err, fault.Exists) {
		return "", fmt.Errorf("start epoch: %w", err)
	}
	r, err := st.Get(ctx, stateKey)
	if err != nil {
		return "", fmt.Errorf("read epoch: %w", err)
	}
	return r.UID, nil
}
