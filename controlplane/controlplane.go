// Package controlplane wires the control plane of one installation: store, API and controllers. It
// is the only place that knows all of them, and it holds no logic.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sys/unix"

	"ingot/controlplane/api"
	"ingot/controlplane/hostview"
	"ingot/controlplane/pki"
	"ingot/controlplane/scheduler"
	"ingot/controlplane/server"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/group"
	"ingot/runtime/store/bolt"
	"ingot/runtime/store/seal"
)

// Config says what runs where.
type Config struct {
	// Dir holds keys and state; pki.Init has completed it. One process may use it at a time.
	Dir string
	// Listen is host:port of the API.
	Listen string
	// Metrics is host:port of /healthz and /metrics, without authentication: loopback. Empty: none.
	Metrics string
	// Server tunes the API.
	Server server.Config
	// Scheduler and HostView tune the controllers.
	Scheduler scheduler.Config
	HostView  hostview.Config
	// Ready, when set, is called with the address of the API once it answers.
	Ready func(net.Addr)
}

// Run serves until ctx ends. The directory is locked meanwhile; fault.Unavailable when another
// process has it.
func Run(ctx context.Context, log *slog.Logger, cfg Config) (err error) {
	unlock, err := lock(cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	keys, err := pki.OpenDir(cfg.Dir)
	if err != nil {
		return err
	}
	sealer, err := seal.New(keys.SealKey)
	if err != nil {
		return err
	}
	st, err := bolt.Open(api.Schema(), bolt.Config{Path: filepath.Join(cfg.Dir, "store.db"), Sealer: sealer})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()

	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	srv, err := server.New(ctx, server.Deps{Store: st, Keys: keys, Log: log, Metrics: metrics}, cfg.Server)
	if err != nil {
		return err
	}
	engine := controller.New(st, log, controller.Config{})
	if err := engine.Add(Controllers(cfg)...); err != nil {
		return err
	}
	lis, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("serve API: %w", err)
	}
	g := group.New(ctx)
	if cfg.Metrics != "" {
		ml, err := net.Listen("tcp", cfg.Metrics)
		if err != nil {
			return errors.Join(fmt.Errorf("serve metrics: %w", err), lis.Close())
		}
		g.Go("metrics", func(ctx context.Context) error { return srv.ServeHTTP(ctx, ml) })
	}
	g.Go("controllers", engine.Run)
	g.Go("api", func(ctx context.Context) error { return srv.Serve(ctx, lis) })
	log.Info("control plane started", "address", lis.Addr().String(), "revision", st.Revision())
	if cfg.Ready != nil {
		cfg.Ready(lis.Addr())
	}
	err = g.Wait()
	log.Info("control plane stopped")
	return err
}

// lock takes the directory for this process; it is free again when the process ends, however.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open %s: it is missing, run ingot-control init: %w", dir, fault.Precondition)
	}
	if err != nil {
		return nil, fmt.Errorf("lock directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: another ingot-control uses it: %w", dir, fault.Unavailable)
	}
	return func() { f.Close() }, nil
}
