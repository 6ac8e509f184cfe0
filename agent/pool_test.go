package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/iri/machine"
)

func TestALogLineChangesNoReportedQuantity(t *testing.T) {
	resources := machine.Resources{CPUs: 4, MemoryBytes: 8 << 30}
	want := map[string]string{"cpu": "4", "memory": "8Gi", "disk": "10Gi"}
	for _, disk := range []int64{10 << 30, 10<<30 + 4096} {
		if diff := cmp.Diff(want, quantities(resources, disk)); diff != "" {
			t.Errorf("%d bytes of disk (-want +got):\n%s", disk, diff)
		}
	}
}
