package server

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

type metrics struct {
	calls    *prometheus.CounterVec   // method, code
	duration *prometheus.HistogramVec // method
	panics   prometheus.Counter
	hosts    prometheus.Gauge
	reports  prometheus.Counter
	rejected prometheus.Counter
	watches  prometheus.Gauge
}

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ingot_api_calls_total", Help: "Calls of the API that have ended.",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ingot_api_call_seconds", Help: "Duration of unary calls.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}, []string{"method"}),
		panics:   prometheus.NewCounter(prometheus.CounterOpts{Name: "ingot_api_panics_total", Help: "Calls that panicked."}),
		hosts:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "ingot_hosts_connected", Help: "Hosts with an open stream."}),
		reports:  prometheus.NewCounter(prometheus.CounterOpts{Name: "ingot_host_reports_total", Help: "Reports of hosts that were stored."}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{Name: "ingot_host_reports_rejected_total", Help: "Machine reports of hosts that do not run the machine."}),
		watches:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "ingot_api_watches", Help: "Open watches of users."}),
	}
	r.MustRegister(m.calls, m.duration, m.panics, m.hosts, m.reports, m.rejected, m.watches)
	return m
}

func (s *Server) mux() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		if _, err := s.store.Get(ctx, stateKey); err != nil {
			http.Error(w, "store: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
