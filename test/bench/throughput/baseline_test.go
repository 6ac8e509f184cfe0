package throughput

import (
	"testing"
	"time"

	"ingot/test/need"
)

// The measuring itself must not depend on the dataplane.
func TestBaselinesCarryTraffic(t *testing.T) {
	need.Root(t)
	need.Commands(t, "go")
	values, err := streams(t.Context(), 1, 100*time.Millisecond, bridge, plain)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{bridge.name, plain.name} {
		if values[i][0].rate < 0.1 {
			t.Errorf("%s carries %.3f Gbit/s", name, values[i][0].rate)
		}
	}
	values, err = packetCosts(t.Context(), 1, 100*time.Millisecond, bridge)
	if err != nil {
		t.Fatal(err)
	}
	if cost := values[0][0].cost * 1e9; cost < 500 || cost > 500_000 {
		t.Errorf("a packet costs %.0f ns", cost)
	}
	values, err = tapStreams(t.Context(), 1, 100*time.Millisecond, bridge)
	if err != nil {
		t.Fatal(err)
	}
	if values[0][0].rate < 0.1 {
		t.Errorf("%s carries %.3f Gbit/s between taps", bridge.name, values[0][0].rate)
	}
}
