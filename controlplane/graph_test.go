package controlplane

import (
	"flag"
	"log/slog"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/controlplane/api"
	"ingot/runtime/controller"
	"ingot/runtime/store/mem"
)

var update = flag.Bool("update", false, "write testdata/graph.txt anew")

// TestGraph shows a change of who reads and writes what in review.
func TestGraph(t *testing.T) {
	e := controller.New(mem.New(api.Schema(), mem.Config{}), slog.New(slog.DiscardHandler), controller.Config{})
	if err := e.Add(Controllers(Config{})...); err != nil {
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
