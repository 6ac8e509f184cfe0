package server_test

import (
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/controlplane/server"
	"ingot/runtime/store/bolt"
	"ingot/runtime/store/seal"
)

func TestARestartLosesNothing(t *testing.T) {
	dir := t.TempDir()
	start := func() *world {
		keys, _, err := pki.Init(dir, []string{"127.0.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		sealer, err := seal.New(keys.SealKey)
		if err != nil {
			t.Fatal(err)
		}
		st, err := bolt.Open(api.Schema(), bolt.Config{Path: filepath.Join(dir, "store.db"), Sealer: sealer})
		if err != nil {
			t.Fatal(err)
		}
		return startWorld(t, keys, st, server.Config{})
	}
	w := start()
	c := w.admin()
	apply(t, c, base+"---\n"+manifest("core", "Secret", "s", "stringData: {a: b}"))
	req := &v1alpha1.CreateRequest{Object: one(t, machine), RequestId: "r1"}
	made, err := c.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	token := w.token("h1")
	key := mustKey(t)
	joined, err := client.Join(t.Context(), w.address, token.Text(), key)
	if err != nil {
		t.Fatal(err)
	}
	epoch := openLink(t, w.dial(joined), &v1alpha1.HostHello{}).recv().Epoch
	w.stop()

	w = start()
	c = w.admin()
	again, err := c.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "uid after a retry", made.Metadata.Uid, again.Metadata.Uid)
	_, err = client.Join(t.Context(), w.address, token.Text(), mustKey(t))
	wantError(t, err, codes.Unauthenticated, "TokenRefused", "was used before")
	if _, err := client.Join(t.Context(), w.address, token.Text(), key); err != nil {
		t.Errorf("join again with the same key: %v", err)
	}
	joined.Server = w.address
	view := openLink(t, w.dial(joined), &v1alpha1.HostHello{}).recv()
	diff(t, "epoch", epoch, view.Epoch)
	o, err := c.Get(t.Context(), &v1alpha1.GetRequest{Kind: "Secret", Namespace: "shop", Name: "s"})
	if err != nil {
		t.Fatal(err)
	}
	spec, _ := api.Spec(o)
	diff(t, "secret", "b", string(spec.(*v1alpha1.SecretSpec).Data["a"]))
}
