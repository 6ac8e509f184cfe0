// Package control measures the control plane through its API, over mutual TLS on loopback: what
// users and hosts wait for.
package control

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"ingot/controlplane"
	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/runtime/resource"
	"ingot/runtime/store/bolt"
	"ingot/runtime/store/seal"
	"ingot/test/bench/result"
)

// Benches are the benchmarks of this package.
func Benches() []result.Bench {
	return []result.Bench{
		{Names: []string{"control/api_to_host_p50", "control/api_to_host_p99"}, Run: apiToHost},
		{Names: []string{"control/api_to_packet_2_hosts_p50", "control/api_to_packet_2_hosts_p99",
			"control/api_to_packet_p50", "control/api_to_packet_p99"}, Run: apiToPacket},
		{Names: []string{"machine/apply_to_start", "machine/apply_to_start_overhead"}, Run: applyToStart},
		{Names: []string{"control/placements"}, Run: placements},
		{Names: []string{"control/list_25k"}, Run: list},
		{Names: []string{"control/reconnect_1000"}, Run: reconnect},
	}
}

// plane is a control plane that runs as it does in production: bolt store, all controllers.
type plane struct {
	keys    *pki.Dir
	address string
	stop    func() error
}

// start runs a control plane; prepare, when given, fills its store before.
func start(ctx context.Context, prepare func(ctx context.Context, dir *pki.Dir) error) (*plane, error) {
	path, err := os.MkdirTemp("", "ingot-bench-")
	if err != nil {
		return nil, err
	}
	keys, _, err := pki.Init(path, []string{"127.0.0.1"})
	if err == nil && prepare != nil {
		err = prepare(ctx, keys)
	}
	if err != nil {
		os.RemoveAll(path)
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- controlplane.Run(ctx, slog.New(slog.DiscardHandler), controlplane.Config{
			Dir: path, Listen: "127.0.0.1:0", Ready: func(a net.Addr) { ready <- a },
		})
	}()
	stop := func() error {
		cancel()
		err := <-done
		os.RemoveAll(path)
		return err
	}
	select {
	case a := <-ready:
		return &plane{keys: keys, address: a.String(), stop: stop}, nil
	case err := <-done:
		cancel()
		os.RemoveAll(path)
		return nil, err
	}
}

// dial connects as an identity with a certificate of its own.
func (p *plane) dial(id pki.Identity) (*client.Client, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	cert, err := p.keys.Authority.Issue(id, key.Public(), time.Hour)
	if err != nil {
		return nil, err
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return client.Dial(&client.Context{
		Server: p.address, CertificateAuthority: string(p.keys.Authority.PEM()), Certificate: string(cert), Key: string(keyPEM),
	})
}

func (p *plane) admin() (*client.Client, error) {
	return p.dial(pki.Identity{Role: pki.Admin, Name: "admin"})
}

// store opens the store of a directory that no server uses.
func openStore(dir *pki.Dir, fill func(apply func(...*resource.Resource) error) error) error {
	sealer, err := seal.New(dir.SealKey)
	if err != nil {
		return err
	}
	s, err := bolt.Open(api.Schema(), bolt.Config{Path: filepath.Join(dir.Path, "store.db"), Sealer: sealer})
	if err != nil {
		return err
	}
	defer s.Close()
	return fill(func(rs ...*resource.Resource) error { return create(s, rs) })
}

// link is a host's stream.
type link struct {
	conn   *client.Client
	stream v1alpha1.HostService_SyncClient
}

// connect opens a host's stream and waits for the whole of its view.
func (p *plane) connect(ctx context.Context, host string) (*link, error) {
	conn, err := p.dial(pki.Identity{Role: pki.Host, Name: host})
	if err != nil {
		return nil, err
	}
	l := &link{conn: conn}
	if l.stream, err = conn.Hosts.Sync(ctx); err == nil {
		err = l.stream.Send(&v1alpha1.HostReport{Hello: &v1alpha1.HostHello{ProviderId: "ingot://" + host}})
	}
	if err == nil {
		err = l.until(func(v *v1alpha1.HostView) bool { return v.Revision != 0 })
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect host %s: %w", host, err)
	}
	return l, nil
}

// until receives until a message is what is waited for.
func (l *link) until(is func(*v1alpha1.HostView) bool) error {
	for {
		v, err := l.stream.Recv()
		if err != nil {
			return err
		}
		if is(v) {
			return nil
		}
	}
}
