package machine

import (
	"github.com/prometheus/client_golang/prometheus"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
)

var (
	machinesDesc = prometheus.NewDesc("ingot_machines", "Machines by the state that IRI clients see.", []string{"state"}, nil)
	corruptDesc  = prometheus.NewDesc("ingot_machine_records_corrupt", "Machine records that cannot be read; a person must look.", nil, nil)
	orphansDesc  = prometheus.NewDesc("ingot_machine_domains_orphaned", "Domains of this runtime whose machine record is lost.", nil, nil)
	capacityDesc = prometheus.NewDesc("ingot_machine_capacity", "What machines may use, reserve taken off.", []string{"resource"}, nil)
	usedDesc     = prometheus.NewDesc("ingot_machine_used", "What machines were given.", []string{"resource"}, nil)
)

// Describe implements prometheus.Collector.
func (s *Server) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{machinesDesc, corruptDesc, orphansDesc, capacityDesc, usedDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector, from memory.
func (s *Server) Collect(out chan<- prometheus.Metric) {
	states := map[api.MachineState]int{}
	for _, e := range s.snapshot() {
		if m := e.view.Load(); m != nil {
			states[m.Status.State]++
		}
	}
	s.mu.RLock()
	corrupt, orphans, used := len(s.corrupt), len(s.orphans), s.used
	s.mu.RUnlock()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for state := api.MachineState_MACHINE_PENDING; state <= api.MachineState_MACHINE_TERMINATING; state++ {
		gauge(machinesDesc, float64(states[state]), stateNames[state])
	}
	gauge(corruptDesc, float64(corrupt))
	gauge(orphansDesc, float64(orphans))
	gauge(capacityDesc, float64(s.capacity.CPUs), "cpu")
	gauge(capacityDesc, float64(s.capacity.MemoryBytes), "memory")
	gauge(usedDesc, float64(used.CPUs), "cpu")
	gauge(usedDesc, float64(used.MemoryBytes), "memory")
}

var stateNames = map[api.MachineState]string{
	api.MachineState_MACHINE_PENDING:     "pending",
	api.MachineState_MACHINE_RUNNING:     "running",
	api.MachineState_MACHINE_SUSPENDED:   "suspended",
	api.MachineState_MACHINE_TERMINATED:  "terminated",
	api.MachineState_MACHINE_TERMINATING: "terminating",
}
