package machine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	meta "github.com/ironcore-dev/ironcore/iri/apis/meta/v1alpha1"

	"ingot/iri/machine/domain"
	"ingot/iri/machine/domain/domaintest"
	"ingot/iri/machine/image"
)

var (
	_ Hypervisor = (*domaintest.Fake)(nil)
	_ Images     = (*image.Cache)(nil)
)

// world is what outlives a server: the host's directory and everything behind the seams.
type world struct {
	dir        string
	hypervisor *domaintest.Fake
	ports      *fakePorts
	images     *fakeImages
	gate       *gate
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	g := &gate{}
	images := &fakeImages{gate: g, dir: filepath.Join(dir, "images")}
	if err := os.Mkdir(images.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kernel", "initramfs", "disk"} {
		if err := os.WriteFile(filepath.Join(images.dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &world{
		dir: dir, gate: g, images: images,
		hypervisor: &domaintest.Fake{Gate: g.pass},
		ports:      &fakePorts{gate: g, open: map[string]bool{}},
	}
}

func (w *world) config() Config {
	id := fmt.Sprint(max(os.Geteuid(), 65534))
	if os.Geteuid() != 0 {
		id = fmt.Sprint(os.Geteuid())
	}
	return Config{
		Dir: filepath.Join(w.dir, "host"), Version: "1.2.3", Accel: domain.TCG,
		EmulatorUser: id, EmulatorGroup: id,
		Capacity: Resources{CPUs: 8, MemoryBytes: 17 << 30},
		Classes:  []Class{{Name: "small", Capabilities: map[string]int64{"cpu": 1, "memory": 1 << 30}}},
	}
}

func (w *world) server(t testing.TB, adapt ...func(*Config)) *Server {
	t.Helper()
	cfg := w.config()
	for _, f := range adapt {
		f(&cfg)
	}
	s, err := New(Deps{
		Hypervisor: w.hypervisor, Images: w.images, Ports: w.ports, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run starts the server's reconcilers; stop ends them and waits.
func run(s *Server) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx) // always nil
	}()
	return func() {
		cancel()
		<-done
	}
}

// left is everything a machine may leave behind: domains, ports, files; one fact a line.
func (w *world) left() string {
	lines := []string{w.hypervisor.String()}
	for _, port := range w.ports.names() {
		lines = append(lines, "port "+port+"\n")
	}
	for _, pattern := range []string{"host/records/*", "host/machines/*"} {
		names, err := filepath.Glob(filepath.Join(w.dir, pattern))
		if err != nil {
			panic(err)
		}
		for _, name := range names {
			lines = append(lines, strings.TrimPrefix(name, w.dir)+"\n")
		}
	}
	return strings.Join(lines, "")
}

// A gate stands before and after every call to the world. When its count is used up it does what
// kill -9 does: nothing happens any more.
type gate struct {
	mu    sync.Mutex // guards what follows
	armed bool
	count int
	calls []string
}

// arm lets n gates pass and kills at the next; n < 0 disarms.
func (g *gate) arm(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed, g.count, g.calls = n >= 0, n, nil
}

// killed reports whether the count was used up.
func (g *gate) killed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.armed && g.count < 0
}

func (g *gate) pass(ctx context.Context, call string, _ bool) error {
	g.mu.Lock()
	g.calls = append(g.calls, call)
	if g.armed {
		g.count--
	}
	dead := g.armed && g.count < 0
	g.mu.Unlock()
	if dead {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

type fakePorts struct {
	gate *gate

	mu   sync.Mutex // guards what follows
	open map[string]bool
	err  error
}

func (p *fakePorts) EnsurePort(ctx context.Context, r PortRequest) (Port, error) {
	if err := p.gate.pass(ctx, "ensure port", false); err != nil {
		return Port{}, err
	}
	p.mu.Lock()
	err := p.err
	if err == nil {
		p.open[r.MachineID+"/"+r.NIC] = true
	}
	p.mu.Unlock()
	if err != nil {
		return Port{}, err
	}
	return Port{
		Device: "tap0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1400, Handle: r.MachineID + "/" + r.NIC,
	}, p.gate.pass(ctx, "ensure port", true)
}

func (p *fakePorts) ReleasePort(ctx context.Context, id, nic string) error {
	if err := p.gate.pass(ctx, "release port", false); err != nil {
		return err
	}
	p.mu.Lock()
	delete(p.open, id+"/"+nic)
	p.mu.Unlock()
	return p.gate.pass(ctx, "release port", true)
}

func (p *fakePorts) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// forget is a restart of who has the ports.
func (p *fakePorts) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.open)
}

func (p *fakePorts) names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for name := range p.open {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

type fakeImages struct {
	gate *gate
	dir  string

	mu  sync.Mutex // guards err
	err error
}

func (f *fakeImages) Ensure(ctx context.Context, reference string) (image.Image, error) {
	if err := f.gate.pass(ctx, "ensure image", false); err != nil {
		return image.Image{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return image.Image{}, &image.PullError{Reference: reference, RetryAt: time.Now().Add(time.Second), Err: f.err}
	}
	at := func(name string) string { return filepath.Join(f.dir, name) }
	return image.Image{
		Reference: reference, Digest: "sha256:1", Kernel: at("kernel"), Initramfs: at("initramfs"), Disk: at("disk"),
	}, nil
}

func (f *fakeImages) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// wanted is a machine as a client asks for it, with everything that must be echoed.
func wanted(uid string) *api.Machine {
	return &api.Machine{
		Metadata: &meta.ObjectMetadata{
			Labels:      map[string]string{UIDLabel: uid, "empty": ""},
			Annotations: map[string]string{"note": "one"},
		},
		Spec: &api.MachineSpec{
			Class: "small", IgnitionData: []byte{0, 1, 0xff, '{'},
			GuestConfig: &api.GuestConfig{Hostname: "web"},
			Volumes: []*api.Volume{
				{Name: "root", Device: "oda", LocalDisk: &api.LocalDisk{SizeBytes: 4096, Image: &api.ImageSpec{Image: "example.org/os:1"}}},
				{Name: "data", Device: "odb", LocalDisk: &api.LocalDisk{SizeBytes: 8192}},
			},
			NetworkInterfaces: []*api.NetworkInterface{
				{Name: "b", NetworkId: "ingot://vni/7", Ips: []string{"10.0.0.2", "fd00::2"}, Attributes: map[string]string{"k": "v", "": "x"}},
				{Name: "a", NetworkId: "ingot://vni/8"},
			},
		},
	}
}
