package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	"google.golang.org/grpc"

	"ingot/iri/machine/disk"
	"ingot/iri/machine/domain"
)

// DefaultSocket is where IronCore's machine poollet looks for a runtime.
const DefaultSocket = "/var/run/iri-machineprovider.sock"

// A Server is the MachineRuntime of one host.
type Server struct {
	api.UnimplementedMachineRuntimeServer

	hypervisor Hypervisor
	images     Images
	ports      Ports
	changed    func(labels map[string]string)
	log        *slog.Logger
	cfg        Config
	owner      disk.Owner
	capacity   Resources // total minus reserve
	store      *store
	heavy      chan struct{} // a token per disk being written or domain being started

	mu      sync.RWMutex // guards what follows; never held while something is written
	classes []Class
	entries map[string]*entry
	byUID   map[string]*entry
	used    Resources
	corrupt map[string]error
	// orphans are our domains without a machine here, by UID: their records were lost.
	orphans map[string]string
	start   func(*entry) // starts a reconciler; nil until Run

	wg sync.WaitGroup // reconcilers
}

// New reads the machines in cfg.Dir. Nothing is done to them before Run.
func New(deps Deps, cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure machine runtime: %w", err)
	}
	if deps.Hypervisor == nil || deps.Images == nil || deps.Ports == nil {
		return nil, errors.New("configure machine runtime: hypervisor, images and ports are required")
	}
	if deps.Changed == nil {
		deps.Changed = func(map[string]string) {}
	}
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	cfg = cfg.withDefaults()
	uid, gid, err := cfg.emulatorIDs()
	if err != nil {
		return nil, err
	}
	capacity, err := cfg.hostCapacity()
	if err != nil {
		return nil, err
	}
	// The emulator must reach its files through these; it cannot list them.
	for _, dir := range []string{cfg.Dir, filepath.Join(cfg.Dir, "machines")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make directory of machines: %w", err)
		}
	}
	st, err := openStore(filepath.Join(cfg.Dir, "records"))
	if err != nil {
		return nil, err
	}
	s := &Server{
		hypervisor: deps.Hypervisor, images: deps.Images, ports: deps.Ports, changed: deps.Changed,
		log: deps.Log, cfg: cfg,
		owner: disk.Owner{UserID: uid, GroupID: gid}, capacity: capacity, store: st,
		heavy: make(chan struct{}, cfg.Workers), classes: cfg.Classes,
		entries: map[string]*entry{}, byUID: map[string]*entry{}, orphans: map[string]string{},
	}
	return s, s.load()
}

func (s *Server) load() error {
	machines, corrupt, err := s.store.load()
	if err != nil {
		return err
	}
	s.corrupt = corrupt
	for id, err := range corrupt {
		s.log.Error("machine record is corrupt; its files and its domain are left alone", "machine", id, "error", err)
	}
	for _, m := range machines {
		e := newEntry(m.record.id(), s.store, s.changed, s.log)
		e.record, e.seen.have = m.record, lastKnown(m.record)
		e.events.Store(&m.events)
		e.show()
		close(e.durable)
		s.register(e, m.record)
	}
	return nil
}

// register makes the entry known. s.mu is held, or nobody else has s yet.
func (s *Server) register(e *entry, r *record) {
	s.entries[e.id] = e
	if uid := r.uid(); uid != "" {
		s.byUID[uid] = e
	}
	s.used.CPUs += r.Resources.CPUs
	s.used.MemoryBytes += r.Resources.MemoryBytes
}

// unregister undoes register.
func (s *Server) unregister(e *entry, r *record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, e.id)
	if uid := r.uid(); s.byUID[uid] == e {
		delete(s.byUID, uid)
	}
	s.used.CPUs -= r.Resources.CPUs
	s.used.MemoryBytes -= r.Resources.MemoryBytes
}

// SetClasses replaces the classes. Machines keep the size they were created with.
func (s *Server) SetClasses(classes []Class) error {
	if err := validateClasses(classes); err != nil {
		return fmt.Errorf("set classes: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.classes = classes
	return nil
}

// Retry lets a machine's reconciler try at once what it waits to try again.
func (s *Server) Retry(machineID string) {
	if e := s.entry(machineID); e != nil {
		e.poke()
	}
}

// entry finds a machine that is durable and not gone.
func (s *Server) entry(id string) *entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.entries[id]; e != nil && e.view.Load() != nil {
		return e
	}
	return nil
}

// snapshot lists the entries.
func (s *Server) snapshot() []*entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*entry, 0, len(s.entries))
	for _, e := range s.entries {
		out = append(out, e)
	}
	return out
}

// Run reconciles the machines until ctx ends, then waits for what is under way. Domains run on.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	s.start = func(e *entry) {
		if e.view.Load() != nil && e.started.CompareAndSwap(false, true) {
			s.wg.Go(func() { s.reconcileUntil(ctx, e) })
		}
	}
	for _, e := range s.entries {
		s.start(e)
	}
	s.mu.Unlock()
	relist := make(chan struct{}, 1)
	s.hypervisor.Watch(ctx, func(e domain.Event) {
		if e.ID != "" {
			s.Retry(e.ID)
			return
		}
		for _, e := range s.snapshot() {
			e.poke()
		}
		poke(relist)
	})
	poke(relist)
	logs := time.NewTicker(consoleSweep)
	defer logs.Stop()
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			s.start = nil
			s.mu.Unlock()
			s.wg.Wait()
			return nil
		case <-relist:
			s.findOrphans(ctx)
		case <-logs.C:
			s.rotateConsoles()
		}
	}
}

// findOrphans looks for domains of ours whose machines are not known here. They are left alone; a
// machine that is created with the same UID takes its domain over.
func (s *Server) findOrphans(ctx context.Context) {
	infos, err := s.hypervisor.List(ctx)
	if err != nil {
		s.log.Debug("domains not listed", "error", err)
		return
	}
	orphans := map[string]string{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, info := range infos {
		if s.entries[info.ID] != nil || info.UID == "" {
			continue
		}
		orphans[info.UID] = info.ID
		if s.orphans[info.UID] != info.ID {
			s.log.Error("domain has no machine record; it is left alone", "machine", info.ID, "uid", info.UID)
		}
	}
	s.orphans = orphans
}

// Serve answers IRI calls at a unix socket of mode 0600 until ctx ends.
func (s *Server) Serve(ctx context.Context, socket string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("serve machine runtime: %w", err)
	}
	// Made in a directory of its own and moved, the socket never exists with another mode.
	dir, err := os.MkdirTemp(filepath.Dir(socket), ".iri-")
	if err != nil {
		return fmt.Errorf("serve machine runtime: %w", err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return fmt.Errorf("serve machine runtime: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, socket)); err != nil {
		return errors.Join(fmt.Errorf("serve machine runtime: %w", err), listener.Close())
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxList))
	s.Register(server)
	stop := context.AfterFunc(ctx, server.GracefulStop)
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve machine runtime: %w", err)
	}
	return nil
}

const (
	// maxMessage bounds a request: ignition data and attributes of one machine.
	maxMessage = 16 << 20
	// maxList bounds an answer: all machines with theirs.
	maxList = 1 << 30
)

// Register adds the runtime to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) { api.RegisterMachineRuntimeServer(r, s) }
