package agent

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"ingot/dataplane"
)

// metrics collects at scrape time what the parts count themselves.
type metrics struct{ a *Agent }

var (
	portPackets = prometheus.NewDesc("ingot_port_packets_total",
		"Packets forwarded; a GSO packet is one.", []string{"port", "direction"}, nil)
	portBytes = prometheus.NewDesc("ingot_port_bytes_total",
		"Bytes of the machine's own frames.", []string{"port", "direction"}, nil)
	portDrops = prometheus.NewDesc("ingot_port_drops_total",
		"Packets dropped, by numbered reason; port is empty where none could be told.", []string{"port", "reason"}, nil)
	bgpSession = prometheus.NewDesc("ingot_bgp_session_up",
		"1 while the session is established.", []string{"reflector"}, nil)
	bgpRoutes = prometheus.NewDesc("ingot_bgp_routes",
		"Paths held from a reflector.", []string{"reflector"}, nil)
	bgpFlaps = prometheus.NewDesc("ingot_bgp_flaps_total",
		"How often an established session went down.", []string{"reflector"}, nil)
	bgpAnnounced = prometheus.NewDesc("ingot_bgp_announced",
		"Prefixes that this host announces.", nil, nil)
	controlUp = prometheus.NewDesc("ingot_control_plane_connected",
		"1 while the control plane is connected.", nil, nil)
	reportsPending = prometheus.NewDesc("ingot_reports_pending",
		"Reports that the control plane has not acknowledged.", nil, nil)
	orphans = prometheus.NewDesc("ingot_machines_orphaned",
		"Machines that run here although the control plane no longer knows them.", nil, nil)
	libvirtUp = prometheus.NewDesc("ingot_libvirt_connected",
		"1 while libvirt is connected.", nil, nil)
	queueDepth = prometheus.NewDesc("ingot_controller_queue_depth",
		"Keys that wait to be reconciled.", []string{"controller"}, nil)
	reconcileErrors = prometheus.NewDesc("ingot_controller_errors_total",
		"Reconciles that failed.", []string{"controller"}, nil)
)

// Describe implements prometheus.Collector.
func (metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{portPackets, portBytes, portDrops, bgpSession, bgpRoutes, bgpFlaps,
		bgpAnnounced, controlUp, reportsPending, orphans, libvirtUp, queueDepth, reconcileErrors} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m metrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	ports, err := m.a.dataplane.Counters()
	if err != nil {
		out <- prometheus.NewInvalidMetric(portPackets, err)
	}
	for _, p := range ports {
		for direction, t := range map[string]dataplane.Traffic{"from-machine": p.FromMachine, "to-machine": p.ToMachine} {
			counter(portPackets, t.Packets, p.PortID, direction)
			counter(portBytes, t.Bytes, p.PortID, direction)
		}
		for reason, n := range p.Drops {
			counter(portDrops, n, p.PortID, reason)
		}
	}
	if m.a.speaker != nil {
		routing := m.a.speaker.Status()
		gauge(bgpAnnounced, float64(routing.Announced))
		for _, s := range routing.Sessions {
			up := s.State == "Established" || s.State == "Synced"
			gauge(bgpSession, truth(up), s.Reflector.String())
			gauge(bgpRoutes, float64(s.RoutesIn), s.Reflector.String())
			counter(bgpFlaps, s.Flaps, s.Reflector.String())
		}
	}
	gauge(libvirtUp, truth(m.a.hypervisor.Connected()))
	if m.a.view == nil {
		return
	}
	status := m.a.view.Status()
	gauge(controlUp, truth(status.Connected))
	gauge(reportsPending, float64(status.Pending))
	if n, err := m.a.view.Orphans(context.Background()); err == nil {
		gauge(orphans, float64(n))
	} else {
		out <- prometheus.NewInvalidMetric(orphans, err)
	}
	for _, c := range m.a.engine.Status() {
		gauge(queueDepth, float64(c.Waiting), c.Name)
		counter(reconcileErrors, c.Errors, c.Name)
	}
}

func truth(holds bool) float64 {
	if holds {
		return 1
	}
	return 0
}
