package throughput

import (
	"context"
	"slices"
	"testing"
	"time"

	"ingot/dataplane"
	"ingot/test/bench/result"
	"ingot/test/need"
)

// These tests run next to others, on few processors, so they judge what a unit costs in CPU time:
// what breaks segmentation offload, or copies a packet once more, shows there at any load, and a
// path that waits instead of working shows in the best rate. Rates are what `make bench` reports.
const (
	smokeRounds = 9
	smokeRound  = 200 * time.Millisecond
	attempts    = 3
	// tapLimit: through veth uplinks a stream between taps costs 1.02 to 1.09 of the bridge's, as a
	// veth copies every frame for XDP. Cut once more in front of the tap it costs 1.3.
	tapLimit = 1.2
)

// comparison measures two networks, ours first.
type comparison func(ctx context.Context, rounds int, during time.Duration, networks ...network) ([][]sample, error)

// costs at most limit times what the baseline costs, in one of several attempts.
func (compare comparison) costsAtMost(t *testing.T, limit float64, ours, baseline network) {
	t.Helper()
	need.Root(t)
	need.Commands(t, "go")
	var cost, best float64
	for attempt := range attempts {
		values, err := compare(t.Context(), smokeRounds, smokeRound, ours, baseline)
		if err != nil && attempt == attempts-1 {
			t.Fatal(err)
		} else if err != nil {
			t.Logf("once more: %v", err)
			continue
		}
		ratios := make([]float64, smokeRounds)
		for i := range ratios {
			ratios[i] = values[0][i].cost / values[1][i].cost
		}
		cost = result.Median(ratios)
		best = slices.Max(rates(values[0])) / slices.Max(rates(values[1]))
		t.Logf("%s to %s: cost %.2f, best rate %.2f; costs round by round %.2f", ours.name, baseline.name, cost, best, ratios)
		if cost <= limit && best >= 0.5 {
			return
		}
	}
	t.Errorf("costs %.2f of %s, want at most %.2f; its best rate is %.2f of it", cost, baseline.name, limit, best)
}

func TestTCPCostsNoMoreThanABridgeWithVXLAN(t *testing.T) {
	comparison(streams).costsAtMost(t, 1, ingot(dataplane.ReceiveAuto), bridge)
}

func TestTCPBetweenTapsCostsAsMuchAsABridgeWithVXLAN(t *testing.T) {
	comparison(tapStreams).costsAtMost(t, tapLimit, ingot(dataplane.ReceiveXDP), bridge)
}

func TestSmallPacketsCostHalfOfABridgeWithVXLAN(t *testing.T) {
	comparison(packetCosts).costsAtMost(t, 0.5, ingot(dataplane.ReceiveAuto), bridge)
}
