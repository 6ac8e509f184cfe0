// Package agent is the daemon of one hypervisor. It joins the machine runtime, the dataplane,
// routing and the host view; each of them knows nothing of the others. Everything that must
// survive it is in libvirt, in the kernel, or in its state directory: it may be killed at any
// instruction.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	iri "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"ingot/agent/network"
	"ingot/agent/poollet"
	"ingot/agent/view"
	"ingot/controlplane/api/client"
	"ingot/dataplane"
	"ingot/iri/machine"
	"ingot/iri/machine/accel"
	"ingot/iri/machine/domain"
	"ingot/iri/machine/image"
	"ingot/iri/machine/libvirt"
	"ingot/routing"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/group"
	"ingot/runtime/store"
	"ingot/runtime/store/bolt"
	"ingot/runtime/store/seal"
	"ingot/runtime/version"
)

// An Agent is one host's daemon.
type Agent struct {
	cfg        Config
	log        *slog.Logger
	lock       *os.File
	dataplane  *dataplane.Manager
	network    *network.Network
	speaker    *routing.Speaker // nil on the only host of a cloud
	hypervisor *libvirt.Hypervisor
	machines   *machine.Server
	irictl     *grpc.ClientConn

	// The rest is nil for a standalone agent.
	store      store.Store
	engine     *controller.Engine
	poollet    *poollet.Poollet
	view       *view.Client
	control    *client.Client
	identity   *client.Context
	lastStatus poolMemory
}

// New opens everything and starts nothing. Packets of machines that an earlier process left flow on.
func New(ctx context.Context, cfg Config, log *slog.Logger) (_ *Agent, err error) {
	a := &Agent{cfg: cfg, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	for _, dir := range []string{cfg.StateDir, cfg.RunDir} {
		// Below lie disks that the emulator opens as another user; it cannot list them.
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	if a.lock, err = lock(filepath.Join(cfg.StateDir, "agent.lock")); err != nil {
		return nil, err
	}
	if a.dataplane, err = dataplane.Open(cfg.dataplane()); err != nil {
		return nil, err
	}
	if !cfg.Standalone {
		if err := a.openView(); err != nil {
			return nil, err
		}
	}
	a.network = network.New(network.Config{UnderlayPrefix: cfg.Underlay.Prefix, DNS: cfg.DNS, Log: log},
		a.dataplane, viewInterfaces{a.store})
	if err := a.openRouting(); err != nil {
		return nil, err
	}
	if err := a.openMachines(ctx); err != nil {
		return nil, err
	}
	if !cfg.Standalone {
		return a, a.openControllers()
	}
	return a, nil
}

// lock keeps a second agent away from this host's state.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		return nil, errors.Join(fmt.Errorf("another agent (pid %s) runs on %s: %w", holder, filepath.Dir(path), fault.Exists), f.Close())
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprint(f, os.Getpid())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock state directory: %w", err), f.Close())
		}
	}
	return f, nil
}

func (a *Agent) openView() (err error) {
	if a.identity, err = client.LoadContext(a.cfg.contextFile()); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("this host has not joined a control plane: run `ingot-agent join`, or set standalone: true: %w", err)
		}
		return err
	}
	if a.identity.Name != a.cfg.Host {
		return fmt.Errorf("host %q has joined as %q: correct `host` in the configuration, or join again: %w",
			a.cfg.Host, a.identity.Name, fault.Invalid)
	}
	if a.control, err = client.Dial(a.identity); err != nil {
		return err
	}
	sealer, err := seal.FromFile(filepath.Join(a.cfg.StateDir, "view.key"))
	if err != nil {
		return err
	}
	a.store, err = bolt.Open(view.Schema(), bolt.Config{Path: filepath.Join(a.cfg.StateDir, "view.db"), Sealer: sealer})
	if err != nil {
		return err
	}
	a.view = view.New(view.Config{Hosts: a.control.Hosts, Store: a.store, Version: version.String(),
		ProviderID: "ingot://" + a.cfg.Host, Log: a.log})
	return nil
}

func (a *Agent) openRouting() error {
	if a.cfg.BGP.off() {
		return nil
	}
	cfg, err := a.cfg.routing()
	if err != nil {
		return err
	}
	cfg.ForwardingPreserved = len(a.dataplane.Ports()) > 0
	cfg.Logger = a.log
	a.speaker, err = routing.New(cfg, func(updates []routing.RouteUpdate) { a.network.Learn(updates) })
	return err
}

func (a *Agent) openMachines(ctx context.Context) error {
	cfg := a.cfg.machine()
	cfg.Accel = domain.Accel(a.cfg.Machines.Accelerator)
	if a.cfg.Machines.Accelerator == "auto" {
		found, err := accel.Detect(ctx, accel.Config{CacheDir: a.cfg.RunDir, Log: a.log})
		if err != nil {
			return err
		}
		cfg.Accel = found
	}
	images, err := image.Open(image.Config{Dir: filepath.Join(a.cfg.StateDir, "images"),
		LayoutDirs: a.cfg.Machines.ImageLayouts, Log: a.log})
	if err != nil {
		return err
	}
	if a.hypervisor, err = libvirt.New(libvirt.Config{URI: a.cfg.Machines.LibvirtURI, Log: a.log}); err != nil {
		return err
	}
	a.machines, err = machine.New(machine.Deps{Hypervisor: a.hypervisor, Images: images, Ports: a.network,
		Changed: a.machineChanged, Log: a.log}, cfg)
	if err != nil {
		return err
	}
	// Our own poollet uses the socket, as any other would.
	a.irictl, err = grpc.NewClient("unix://"+a.cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return err
}

func (a *Agent) openControllers() error {
	a.engine = controller.New(a.store, a.log, controller.Config{BackoffMost: 10 * time.Second})
	a.poollet = poollet.New(iri.NewMachineRuntimeClient(a.irictl), a.view, a.log)
	return a.engine.Add(controllers(a.poollet, a.network, a.machines.SetClasses)...)
}

// machineChanged has the poollet report a machine at once.
func (a *Agent) machineChanged(labels map[string]string) {
	if a.engine != nil {
		a.engine.Wake(view.Finalizer, poollet.Key(labels))
	}
}

// Run does everything until ctx ends. Machines and their packets go on.
func (a *Agent) Run(ctx context.Context) error {
	g := group.New(ctx)
	g.Go("dataplane", a.dataplane.Run)
	if a.speaker != nil {
		g.Go("routing", a.speaker.Run)
		g.Go("network", func(ctx context.Context) error { return a.network.Run(ctx, a.speaker) })
	} else {
		g.Go("network", func(ctx context.Context) error { return a.network.Run(ctx, network.Alone()) })
	}
	g.Go("libvirt", a.hypervisor.Run)
	g.Go("machines", a.machines.Run)
	g.Go("iri socket", func(ctx context.Context) error { return a.machines.Serve(ctx, a.cfg.Socket) })
	g.Go("settle", a.settle)
	g.Go("http", a.serveHTTP)
	if a.view != nil {
		g.Go("controllers", a.engine.Run)
		g.Go("view", a.view.Run)
		g.Go("events", a.poollet.RunEvents)
		g.Go("pool", a.reportPool)
		g.Go("certificate", a.renewCertificate)
	}
	a.log.Info("agent started", "host", a.cfg.Host, "ports", len(a.dataplane.Ports()), "version", version.String())
	return g.Wait()
}

// settle removes ports without machines once the runtime can tell which machines there are.
func (a *Agent) settle(ctx context.Context) error {
	for {
		alive, err := a.machines.Known(ctx)
		if err == nil {
			err = a.network.Settle(ctx, alive)
		}
		if err == nil || ctx.Err() != nil {
			return nil
		}
		a.log.Debug("ports not settled", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// Close lets go of files and connections; it is for after Run.
func (a *Agent) Close() error {
	var errs []error
	if a.irictl != nil {
		errs = append(errs, a.irictl.Close())
	}
	if a.control != nil {
		errs = append(errs, a.control.Close())
	}
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	if a.dataplane != nil {
		errs = append(errs, a.dataplane.Close())
	}
	if a.lock != nil {
		errs = append(errs, a.lock.Close())
	}
	return errors.Join(errs...)
}
