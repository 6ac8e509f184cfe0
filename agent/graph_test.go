package agent

import (
	"flag"
	"log/slog"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/agent/network"
	"ingot/agent/poollet"
	"ingot/agent/view"
	"ingot/runtime/controller"
	"ingot/runtime/store/mem"
)

var update = flag.Bool("update", false, "write testdata/graph.txt anew")

// TestGraph shows a change of what the agent's controllers read and write in review.
func TestGraph(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	e := controller.New(mem.New(view.Schema(), mem.Config{}), log, controller.Config{})
	n := network.New(network.Config{Log: log}, nil, nil)
	if err := e.Add(controllers(poollet.New(nil, nil, log), n, nil)...); err != nil {
		t.Fatal(err)
	}
	const file = "testdata/graph.txt"
	if *update {
		if err := os.WriteFile(file, []byte(e.Graph()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), e.Graph()); diff != "" {
		t.Errorf("graph; go test -run TestGraph -update . writes it anew (-want +got):\n%s", diff)
	}
}
