package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serveHTTP answers /healthz and /metrics.
func (a *Agent) serveHTTP(ctx context.Context) error {
	if a.cfg.Listen == "off" {
		return nil
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		a.machines, metrics{a})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", a.healthz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	listener, err := net.Listen("tcp", a.cfg.Listen)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// healthz says of each part how it is. The agent is healthy while it can run machines and route
// their packets; the control plane may be away.
func (a *Agent) healthz(w http.ResponseWriter, _ *http.Request) {
	answer := struct {
		Healthy      bool   `json:"healthy"`
		Libvirt      string `json:"libvirt"`
		BGP          string `json:"bgp"`
		ControlPlane string `json:"controlPlane"`
	}{Healthy: true, Libvirt: "connected", BGP: "synced", ControlPlane: "connected"}
	if !a.hypervisor.Connected() {
		answer.Healthy, answer.Libvirt = false, "away"
	}
	switch {
	case a.speaker == nil:
		answer.BGP = "none (only host)"
	case !a.speaker.Status().Synced:
		answer.BGP = "no full table yet"
	}
	switch {
	case a.view == nil:
		answer.ControlPlane = "none (standalone)"
	case !a.view.Status().Connected:
		answer.ControlPlane = "away: " + a.view.Status().LastError
	}
	w.Header().Set("Content-Type", "application/json")
	if !answer.Healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer)
}
