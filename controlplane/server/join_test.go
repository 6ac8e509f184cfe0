package server_test

import (
	"crypto"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

func mustKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// token makes a join token as an admin does.
func (w *world) token(host string) pki.Token {
	w.t.Helper()
	token, err := pki.NewToken(w.keys.Authority.Hash())
	if err != nil {
		w.t.Fatal(err)
	}
	o, err := api.ToObject(&resource.Resource{Meta: metaOf(api.JoinToken, "", token.ID), Spec: &v1alpha1.JoinTokenSpec{
		Host: host, SecretHash: token.SecretHash(), Expires: timestamppb.New(time.Now().Add(time.Hour)),
	}}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.admin().Create(w.t.Context(), &v1alpha1.CreateRequest{Object: o}); err != nil {
		w.t.Fatal(err)
	}
	return token
}

func TestAHostJoinsOnceAndRenews(t *testing.T) {
	w := newWorld(t)
	token := w.token("h1")
	key := mustKey(t)
	var joined *client.Context
	for range 2 { // the answer to the first one was lost
		var err error
		if joined, err = client.Join(t.Context(), w.address, token.Text(), key); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := pki.ParseCertificate([]byte(joined.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	id, err := w.keys.Authority.Verify(cert)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "identity", pki.Identity{Role: pki.Host, Name: "h1"}, id)
	if life := time.Until(cert.NotAfter); life > pki.HostLife || life < pki.HostLife-time.Hour {
		t.Errorf("certificate is good for %s", life)
	}

	_, err = client.Join(t.Context(), w.address, token.Text(), mustKey(t))
	wantError(t, err, codes.Unauthenticated, "TokenRefused", "was used before")

	c := w.dial(joined)
	fresh, err := c.Renew(t.Context(), w.address, mustKey(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.dial(fresh).Get(t.Context(), &v1alpha1.GetRequest{Kind: "Machine", Namespace: "shop", Name: "web"})
	wantError(t, err, codes.PermissionDenied, "HostDenied", "host/h1 may not read objects")
	_, err = w.admin().Renew(t.Context(), w.address, mustKey(t))
	wantError(t, err, codes.PermissionDenied, "Denied", "admin/admin is not a host")
}

func TestBadTokensAreRefused(t *testing.T) {
	w := newWorld(t)
	good := w.token("h1")
	wrong := good
	wrong.Secret[0] ^= 1
	unknown, err := pki.NewToken(w.keys.Authority.Hash())
	if err != nil {
		t.Fatal(err)
	}
	late := w.token("h2")
	w.expire(late)
	deleted := w.token("h3")
	if _, err := w.admin().Delete(t.Context(), &v1alpha1.DeleteRequest{Kind: "JoinToken", Name: deleted.ID}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		token pki.Token
		text  string
	}{
		{"a wrong secret", wrong, "is unknown"},
		{"an unknown token", unknown, "is unknown"},
		{"an expired token", late, "expired at"},
		{"a deleted token", deleted, "is unknown"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := client.Join(t.Context(), w.address, test.token.Text(), mustKey(t))
			wantError(t, err, codes.Unauthenticated, "TokenRefused", test.text)
			if strings.Contains(err.Error(), test.token.Text()) {
				t.Error("the error repeats the token")
			}
		})
	}
	t.Run("a token that is damaged", func(t *testing.T) {
		if _, err := client.Join(t.Context(), w.address, good.Text()[:40], mustKey(t)); err == nil || !strings.Contains(err.Error(), "join token") {
			t.Error(err)
		}
	})
	t.Run("a token of another installation does not reach the server", func(t *testing.T) {
		other := good
		other.Authority[0] ^= 1
		_, err := client.Join(t.Context(), w.address, other.Text(), mustKey(t))
		wantError(t, err, codes.Unavailable, "", "does not belong to the installation that the token is for")
	})
	t.Run("a server by another name", func(t *testing.T) {
		_, port, _ := net.SplitHostPort(w.address)
		_, err := client.Join(t.Context(), net.JoinHostPort("localhost", port), good.Text(), mustKey(t))
		wantError(t, err, codes.Unavailable, "", "wanted to match localhost")
	})
	// After all that the good one is still good.
	if _, err := client.Join(t.Context(), w.address, good.Text(), mustKey(t)); err != nil {
		t.Error(err)
	}
}

// expire moves a token's end into the past.
func (w *world) expire(token pki.Token) {
	w.t.Helper()
	r, err := w.store.Get(w.t.Context(), resource.Key{Kind: api.JoinToken, Name: token.ID})
	if err != nil {
		w.t.Fatal(err)
	}
	r = r.Clone()
	resource.Spec[*v1alpha1.JoinTokenSpec](r).Expires = timestamppb.New(time.Now().Add(-time.Second))
	w.write("", store.Op{Type: store.Update, Resource: r})
}

func TestOnlyOneOfManyGetsTheToken(t *testing.T) {
	w := newWorld(t)
	token := w.token("h1")
	const n = 8
	errs := make(chan error, n)
	for range n {
		key := mustKey(t)
		go func() {
			_, err := client.Join(t.Context(), w.address, token.Text(), key)
			errs <- err
		}()
	}
	joined := 0
	for range n {
		if err := <-errs; err == nil {
			joined++
		} else {
			wantError(t, err, codes.Unauthenticated, "TokenRefused", "was used before")
		}
	}
	diff(t, "hosts that joined", 1, joined)
}
