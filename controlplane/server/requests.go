package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
)

// requestLife is for how long a Create with a request id may be retried.
const requestLife = time.Hour

// requestRecord is what remembers that id has asked for want under a request id. It is stored with
// the object, in one transaction, so that a retry finds it however the first try ended.
func requestRecord(id pki.Identity, requestID string, want *resource.Resource) *resource.Resource {
	name := sha256.Sum256([]byte(id.String() + "\x00" + requestID))
	return &resource.Resource{
		Meta: resource.Meta{Key: resource.Key{Kind: api.Request, Name: hex.EncodeToString(name[:])}},
		Spec: &v1alpha1.RequestSpec{Kind: string(want.Kind), Namespace: want.Project, Name: want.Name, Digest: digest(want)},
	}
}

// digest is SHA-256 of what a request asks for.
func digest(r *resource.Resource) []byte {
	o := &v1alpha1.Object{Metadata: &v1alpha1.ObjectMeta{
		Name: r.Key.String(), Labels: r.Labels, Annotations: r.Annotations,
	}}
	h := sha256.New()
	for _, m := range []proto.Message{o, r.Spec} {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			panic(fmt.Sprintf("marshal %s: %v", r.Key, err)) // it was unmarshalled a moment ago
		}
		h.Write(b)
	}
	return h.Sum(nil)
}

// replay answers a request that was answered before: with the object that it made. nil when the
// request is new.
func (s *Server) replay(ctx context.Context, remember *resource.Resource) (*resource.Resource, error) {
	record, err := s.store.Get(ctx, remember.Key)
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	was, is := resource.Spec[*v1alpha1.RequestSpec](record), resource.Spec[*v1alpha1.RequestSpec](remember)
	key := resource.Key{Kind: resource.Kind(was.Kind), Project: was.Namespace, Name: was.Name}
	if !proto.Equal(was, is) {
		return nil, fault.Fields{{Path: "requestId", Detail: fmt.Sprintf("was used for another request, which made %s", key)}}
	}
	r, err := s.store.Get(ctx, key)
	if err == nil && !r.Created.After(record.Created) { // made with the record, not after it
		return r, nil
	}
	if err == nil || errors.Is(err, fault.NotFound) {
		return nil, because("Deleted", "%s was made by this request and is deleted since: %w", key, fault.Precondition)
	}
	return nil, err
}
