package machine

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestMetricsCountMachines(t *testing.T) {
	s := newWorld(t).server(t)
	create(t, s, wanted("uid-1"))
	create(t, s, wanted("uid-2"))
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.Metric {
			line := f.GetName()
			for _, l := range m.Label {
				line += " " + l.GetValue()
			}
			got = append(got, fmt.Sprint(line, " ", m.Gauge.GetValue()))
		}
	}
	slices.Sort(got)
	want := []string{
		"ingot_machine_capacity cpu 8", "ingot_machine_capacity memory 1.7179869184e+10",
		"ingot_machine_domains_orphaned 0", "ingot_machine_records_corrupt 0",
		"ingot_machine_used cpu 2", "ingot_machine_used memory 2.147483648e+09",
		"ingot_machines pending 2", "ingot_machines running 0", "ingot_machines suspended 0",
		"ingot_machines terminated 0", "ingot_machines terminating 0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}
