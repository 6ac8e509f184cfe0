package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// joinWriter owns JoinTokenStatus.
const joinWriter = "join"

// joinService is JoinService.
type joinService struct {
	v1alpha1.UnimplementedJoinServiceServer
	*Server
}

// Join implements JoinService. A token is used by creating its JoinTokenStatus, which can be done
// once; the same key may come again until the token expires, because the answer may have been lost.
func (s joinService) Join(ctx context.Context, req *v1alpha1.JoinRequest) (*v1alpha1.JoinResponse, error) {
	name, err := s.redeem(ctx, req)
	if err != nil {
		s.log.Warn("join refused", "err", err)
		return nil, err
	}
	s.log.Info("host joined", "host", name)
	return s.certify(name, req.Csr)
}

// redeem uses the token and returns the name of its host.
func (s joinService) redeem(ctx context.Context, req *v1alpha1.JoinRequest) (string, error) {
	token, err := pki.ParseToken(req.Token)
	if err != nil {
		return "", because("TokenRefused", "%w: %v", errUnauthenticated, err)
	}
	r, err := s.store.Get(ctx, resource.Key{Kind: api.JoinToken, Name: token.ID})
	if err != nil && !errors.Is(err, fault.NotFound) {
		return "", err
	}
	if err != nil || !token.Matches(resource.Spec[*v1alpha1.JoinTokenSpec](r).SecretHash) {
		return "", because("TokenRefused", "join token %s is unknown: %w", token.ID, errUnauthenticated)
	}
	spec := resource.Spec[*v1alpha1.JoinTokenSpec](r)
	if until := spec.Expires.AsTime(); time.Now().After(until) {
		return "", because("TokenRefused", "join token %s expired at %s: %w", token.ID, until.Format(time.RFC3339), errUnauthenticated)
	}
	key, err := pki.RequestKey(req.Csr)
	if err != nil {
		return "", err
	}
	public, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fault.Fields{{Path: "csr", Detail: err.Error()}}
	}
	keyHash := sha256.Sum256(public)
	use := &resource.Resource{
		Meta: resource.Meta{Key: resource.Key{Kind: api.JoinTokenStatus, Name: token.ID}},
		Spec: &v1alpha1.JoinTokenStatus{KeyHash: keyHash[:], Used: timestamppb.Now()},
	}
	_, err = s.store.Txn(ctx, store.Txn{
		Writer:   joinWriter,
		Compares: []store.Compare{{Key: r.Key, Revision: r.Revision}},
		Ops:      []store.Op{{Type: store.Create, Resource: use}},
	})
	if errors.Is(err, fault.Exists) {
		used, err := s.store.Get(ctx, use.Key)
		if err != nil {
			return "", fmt.Errorf("read use of join token: %w", err)
		}
		if !bytes.Equal(resource.Spec[*v1alpha1.JoinTokenStatus](used).KeyHash, keyHash[:]) {
			return "", because("TokenRefused", "join token %s was used before: %w", token.ID, errUnauthenticated)
		}
		return spec.Host, nil
	}
	return spec.Host, err
}

// certify answers with a certificate of the key in csr for a host.
func (s *Server) certify(name string, csr []byte) (*v1alpha1.JoinResponse, error) {
	cert, err := s.keys.Authority.IssueRequest(pki.Identity{Role: pki.Host, Name: name}, csr, s.cfg.HostLife)
	if err != nil {
		return nil, err
	}
	return &v1alpha1.JoinResponse{Certificate: cert, Ca: s.keys.Authority.PEM(), Host: name}, nil
}
