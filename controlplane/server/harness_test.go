package server_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/controlplane/server"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
)

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

// world is a running server with its keys and store.
type world struct {
	t       *testing.T
	keys    *pki.Dir
	store   store.Store
	address string
	stop    func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	keys, _, err := pki.Init(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return startWorld(t, keys, mem.New(api.Schema(), mem.Config{}), server.Config{})
}

// startWorld serves st until the test ends or stop is called; the store is closed then.
func startWorld(t *testing.T, keys *pki.Dir, st store.Store, cfg server.Config) *world {
	t.Helper()
	if cfg.Grace == 0 {
		cfg.Grace = 100 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv, err := server.New(ctx, server.Deps{
		Store: st, Keys: keys, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, lis) }()
	w := &world{t: t, keys: keys, store: st, address: lis.Addr().String()}
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(<-served, st.Close()); err != nil {
			t.Errorf("stop server: %v", err)
		}
	}
	t.Cleanup(w.stop)
	return w
}

// contextOf makes a context for id, whose certificate is good for life.
func (w *world) contextOf(id pki.Identity, life time.Duration) *client.Context {
	w.t.Helper()
	return contextFrom(w.t, w.keys, w.address, id, life)
}

func contextFrom(t *testing.T, keys *pki.Dir, address string, id pki.Identity, life time.Duration) *client.Context {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := keys.Authority.Issue(id, key.Public(), life)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &client.Context{Server: address, CertificateAuthority: string(keys.Authority.PEM()), Certificate: string(cert), Key: string(keyPEM)}
}

func (w *world) dial(c *client.Context) *client.Client {
	w.t.Helper()
	conn, err := client.Dial(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

func (w *world) as(id pki.Identity) *client.Client { return w.dial(w.contextOf(id, time.Hour)) }

func (w *world) admin() *client.Client {
	return w.as(pki.Identity{Role: pki.Admin, Name: "admin"})
}

func (w *world) host(name string) *client.Client {
	return w.as(pki.Identity{Role: pki.Host, Name: name})
}

// objects reads manifests.
func objects(t *testing.T, manifests string) []*v1alpha1.Object {
	t.Helper()
	list, err := api.ReadManifests(strings.NewReader(manifests))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func one(t *testing.T, manifest string) *v1alpha1.Object {
	t.Helper()
	list := objects(t, manifest)
	if len(list) != 1 {
		t.Fatalf("%d manifests, want one", len(list))
	}
	return list[0]
}

// apply applies manifests in order and returns the last answer.
func apply(t *testing.T, c *client.Client, manifests string) *v1alpha1.ApplyResponse {
	t.Helper()
	var last *v1alpha1.ApplyResponse
	for _, o := range objects(t, manifests) {
		resp, err := c.Apply(t.Context(), &v1alpha1.ApplyRequest{Object: o})
		if err != nil {
			t.Fatalf("apply %s: %v", api.Key(o), err)
		}
		last = resp
	}
	return last
}

// write stores as a controller would.
func (w *world) write(writer string, ops ...store.Op) []*resource.Resource {
	w.t.Helper()
	res, err := w.store.Txn(w.t.Context(), store.Txn{Writer: writer, Ops: ops})
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Resources
}

// wantError checks an error's code, reason (unless empty) and a part of its text.
func wantError(t *testing.T, err error, code codes.Code, reason, text string) {
	t.Helper()
	e := (*client.Error)(nil)
	if !errors.As(err, &e) {
		t.Fatalf("error is %v (%T), want %s %s %q", err, err, code, reason, text)
	}
	if e.Code != code || reason != "" && e.Reason != reason || !strings.Contains(e.Error(), text) {
		t.Fatalf("error is %s %s %q, want %s %s %q", e.Code, e.Reason, e.Error(), code, reason, text)
	}
}

func diff(t *testing.T, what string, want, got any, opts ...cmp.Option) {
	t.Helper()
	if d := cmp.Diff(want, got, opts...); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func metaOf(kind resource.Kind, project, name string) resource.Meta {
	return resource.Meta{Key: resource.Key{Kind: kind, Project: project, Name: name}}
}

// base is what most tests start from.
const base = `
apiVersion: core.ironcore.dev/v1alpha1
kind: Project
metadata: {name: shop}
---
apiVersion: compute.ironcore.dev/v1alpha1
kind: MachineClass
metadata: {name: small}
capabilities: {cpu: 2, memory: 1Gi}
---
apiVersion: networking.ironcore.dev/v1alpha1
kind: Network
metadata: {name: lan, namespace: shop}
---
apiVersion: ipam.ironcore.dev/v1alpha1
kind: Prefix
metadata: {name: block, namespace: shop}
spec: {prefix: 10.1.0.0/16}
`

const machine = `
apiVersion: compute.ironcore.dev/v1alpha1
kind: Machine
metadata: {name: web, namespace: shop, labels: {tier: front}}
spec:
  machineClassRef: {name: small}
  image: registry/guest:1
  networkInterfaces:
  - name: eth0
    ephemeral:
      networkInterfaceTemplate:
        spec:
          networkRef: {name: lan}
          ipFamilies: [IPv4]
          ips: [{ephemeral: {prefixTemplate: {spec: {parentRef: {name: block}}}}}]
`
