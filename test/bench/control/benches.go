package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/test/bench/result"
)

const base = `
apiVersion: core.ironcore.dev/v1alpha1
kind: Project
metadata: {name: shop}
---
apiVersion: compute.ironcore.dev/v1alpha1
kind: MachineClass
metadata: {name: small}
capabilities: {cpu: 1, memory: 1Gi}
---
apiVersion: networking.ironcore.dev/v1alpha1
kind: Network
metadata: {name: lan, namespace: shop}
---
apiVersion: compute.ironcore.dev/v1alpha1
kind: Machine
metadata: {name: web, namespace: shop}
spec:
  machineClassRef: {name: small}
  image: registry/guest:1
  networkInterfaces:
  - name: eth0
    ephemeral: {networkInterfaceTemplate: {metadata: {labels: {app: web}}, spec: {networkRef: {name: lan}, ipFamilies: [IPv4], ips: [{value: 10.0.0.4}]}}}
`

const policy = `
apiVersion: networking.ironcore.dev/v1alpha1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {networkRef: {name: lan}, networkInterfaceSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: %d}]}]}
`

func apply(ctx context.Context, c *client.Client, manifests string) error {
	objects, err := api.ReadManifests(strings.NewReader(manifests))
	if err != nil {
		return err
	}
	for _, o := range objects {
		if _, err := c.Apply(ctx, &v1alpha1.ApplyRequest{Object: o}); err != nil {
			return fmt.Errorf("apply %s: %w", api.Key(o), err)
		}
	}
	return nil
}

// apiToHost measures from the apply of a changed policy until the host of the machine has the new
// rules, in ms: admission, fsync, two controllers with a fsync each, and the stream.
func apiToHost(ctx context.Context) ([]result.Result, error) {
	p, err := start(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	admin, err := p.admin()
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	host, err := p.connect(ctx, "h1")
	if err != nil {
		return nil, err
	}
	defer host.conn.Close()
	if err := host.stream.Send(&v1alpha1.HostReport{Pool: &v1alpha1.MachinePoolStatus{
		State: "Ready", Capacity: map[string]string{"cpu": "64", "memory": "256Gi", "disk": "1Ti", "machines": "100"},
		AvailableMachineClasses: []*v1alpha1.LocalRef{{Name: "small"}},
	}}); err != nil {
		return nil, err
	}
	if err := apply(ctx, admin, base); err != nil {
		return nil, err
	}
	var runs []float64
	for i := range 200 {
		port := uint32(1000 + i)
		begin := time.Now()
		if err := apply(ctx, admin, fmt.Sprintf(policy, port)); err != nil {
			return nil, err
		}
		if err := host.until(func(v *v1alpha1.HostView) bool { return opens(v, port) }); err != nil {
			return nil, err
		}
		runs = append(runs, float64(time.Since(begin).Microseconds())/1000)
	}
	runs = runs[10:] // the machine is placed and warm then
	sorted := slices.Sorted(slices.Values(runs))
	return []result.Result{
		result.New("control/api_to_host_p50", "ms", result.AtMost(50), runs...),
		result.New("control/api_to_host_p99", "ms", result.AtMost(250), sorted[len(sorted)*99/100]),
	}, nil
}

// opens reports whether a view has an interface with a rule for the port.
func opens(v *v1alpha1.HostView, port uint32) bool {
	return slices.ContainsFunc(v.Upserts, func(o *v1alpha1.Object) bool {
		spec, err := api.Spec(o)
		nic, ok := spec.(*v1alpha1.HostInterfaceSpec)
		return err == nil && ok && slices.ContainsFunc(nic.GetIngress().GetRules(), func(r *v1alpha1.CompiledRule) bool { return r.PortFirst == port })
	})
}

func create(s store.Store, rs []*resource.Resource) error {
	tx := store.Txn{}
	for _, r := range rs {
		tx.Ops = append(tx.Ops, store.Op{Resource: r})
	}
	_, err := s.Txn(context.Background(), tx)
	return err
}

func at(kind resource.Kind, project, name string) resource.Meta {
	return resource.Meta{Key: resource.Key{Kind: kind, Project: project, Name: name}}
}

// list measures how long a user waits for 25,000 objects in pages, in ms. They are of a kind that no
// controller works on meanwhile.
func list(ctx context.Context) ([]result.Result, error) {
	const n = 25_000
	p, err := start(ctx, func(_ context.Context, dir *pki.Dir) error {
		return openStore(dir, func(put func(...*resource.Resource) error) error {
			if err := put(&resource.Resource{Meta: at(api.Project, "", "shop"), Spec: &v1alpha1.ProjectSpec{}}); err != nil {
				return err
			}
			for from := 0; from < n; from += 500 {
				var rs []*resource.Resource
				for i := from; i < from+500; i++ {
					rs = append(rs, &resource.Resource{Meta: at(api.Secret, "shop", fmt.Sprintf("secret-%05d", i)),
						Spec: &v1alpha1.SecretSpec{Type: "opaque", Data: map[string][]byte{"password": []byte("secret")}}})
				}
				if err := put(rs...); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	defer p.stop()
	admin, err := p.admin()
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	var runs []float64
	for range 11 {
		begin, got := time.Now(), 0
		req := &v1alpha1.ListRequest{Kind: "Secret", Namespace: "shop", Limit: 5000}
		for {
			resp, err := admin.List(ctx, req)
			if err != nil {
				return nil, err
			}
			got += len(resp.Items)
			if req.Continue = resp.Continue; req.Continue == "" {
				break
			}
		}
		if got != n {
			return nil, fmt.Errorf("listed %d objects, want %d", got, n)
		}
		runs = append(runs, float64(time.Since(begin).Microseconds())/1000)
	}
	return []result.Result{result.New("control/list_25k", "ms", result.AtMost(100), runs[1:]...)}, nil
}

// reconnect measures how long 1,000 hosts take that come at once, each with a TLS handshake and its
// whole view, in s; as when the control plane was started anew.
func reconnect(ctx context.Context) ([]result.Result, error) {
	const n = 1000
	p, err := start(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	round := func(one func(ctx context.Context, i int) (*client.Client, error)) (float64, error) {
		var g errgroup.Group
		g.SetLimit(n)
		conns := make([]*client.Client, n)
		begin := time.Now()
		for i := range n {
			g.Go(func() (err error) {
				conns[i], err = one(ctx, i)
				return err
			})
		}
		err := g.Wait()
		took := time.Since(begin).Seconds()
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		return took, err
	}
	var hosts, bare []float64
	for range 3 {
		took, err := round(func(ctx context.Context, i int) (*client.Client, error) {
			l, err := p.connect(ctx, fmt.Sprintf("h%04d", i))
			if err != nil {
				return nil, err
			}
			return l.conn, nil
		})
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, took)
		took, err = round(func(ctx context.Context, i int) (*client.Client, error) {
			c, err := p.dial(pki.Identity{Role: pki.Host, Name: fmt.Sprintf("h%04d", i)})
			if err == nil {
				_, err = c.Version(ctx, &v1alpha1.VersionRequest{})
			}
			return c, err
		})
		if err != nil {
			return nil, err
		}
		bare = append(bare, took)
	}
	return []result.Result{result.New("control/reconnect_1000", "s", result.AtMost(10), hosts...).Against("TLS and one empty call", bare...)}, nil
}
