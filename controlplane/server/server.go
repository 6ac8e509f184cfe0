// Package server answers the control plane's API over gRPC with mutual TLS: ResourceService for
// users, HostService for agents, JoinService for hosts that are not yet known. It authenticates,
// authorises, asks admission, and reads and writes the store. It decides nothing that a controller
// could decide, and it keeps no state of its own: killed anywhere, started again, nothing is lost.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"ingot/controlplane/admission"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/runtime/group"
	"ingot/runtime/store"
)

// Deps are what a server uses; all are required.
type Deps struct {
	Store store.Store
	Keys  *pki.Dir
	Log   *slog.Logger
	// Metrics is where the server registers its own.
	Metrics *prometheus.Registry
}

// Config tunes a server; its zero value is the default.
type Config struct {
	// Version is what Version answers.
	Version string
	// HostLife is the life of host certificates; 0: pki.HostLife.
	HostLife time.Duration
	// Bookmark is how often a quiet stream is told up to where it is complete; 0: 15 s.
	Bookmark time.Duration
	// Grace is how long calls may go on once the server was told to stop; 0: 5 s.
	Grace time.Duration
}

// A Server is the API of one control plane.
type Server struct {
	store     store.Store
	admission *admission.Admission
	keys      *pki.Dir
	log       *slog.Logger
	cfg       Config
	metrics   *metrics
	registry  *prometheus.Registry
	epoch     string
	locks     locks
	pages     pages
	hosts     hosts

	grpc   *grpc.Server
	health *health.Server
	// stopping ends when the server was told to stop: streams end with it.
	stopping context.Context
	stop     context.CancelFunc
}

// New makes a server; it writes the store's epoch when the store is new.
func New(ctx context.Context, deps Deps, cfg Config) (*Server, error) {
	if cfg.HostLife == 0 {
		cfg.HostLife = pki.HostLife
	}
	if cfg.Bookmark == 0 {
		cfg.Bookmark = 15 * time.Second
	}
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	s := &Server{
		store: deps.Store, admission: admission.New(deps.Store), keys: deps.Keys,
		log: deps.Log, cfg: cfg, metrics: newMetrics(deps.Metrics), registry: deps.Metrics,
	}
	var err error
	if s.epoch, err = epoch(ctx, deps.Store, cfg.Version); err != nil {
		return nil, err
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(
		grpc.Creds(newTransport(deps.Keys)),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(1000),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	s.health = health.NewServer()
	healthpb.RegisterHealthServer(s.grpc, s.health)
	v1alpha1.RegisterResourceServiceServer(s.grpc, resources{Server: s})
	v1alpha1.RegisterHostServiceServer(s.grpc, hostService{Server: s})
	v1alpha1.RegisterJoinServiceServer(s.grpc, joinService{Server: s})
	return s, nil
}

// maxRequest bounds a request. Objects are far smaller; the bound keeps a mistake out of memory.
const maxRequest = 4 << 20

// Serve answers on lis until ctx ends, then lets calls finish for the grace period. lis is closed.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	g := group.New(ctx)
	g.Go("tidy up", s.tidy)
	g.Go("serve "+lis.Addr().String(), func(ctx context.Context) error {
		unhook := context.AfterFunc(ctx, s.shutdown)
		defer unhook()
		if err := s.grpc.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	return g.Wait()
}

func (s *Server) shutdown() {
	s.health.Shutdown()
	s.stop()
	hard := time.AfterFunc(s.cfg.Grace, s.grpc.Stop)
	defer hard.Stop()
	s.grpc.GracefulStop()
}

// ServeHTTP answers /healthz and /metrics on lis until ctx ends. There is no authentication: listen
// on loopback only.
func (s *Server) ServeHTTP(ctx context.Context, lis net.Listener) error {
	srv := &http.Server{Handler: s.mux(), ReadHeaderTimeout: 10 * time.Second}
	unhook := context.AfterFunc(ctx, func() { srv.Close() })
	defer unhook()
	if err := srv.Serve(lis); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics on %s: %w", lis.Addr(), err)
	}
	return nil
}
