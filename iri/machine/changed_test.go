package machine

import (
	"io"
	"log/slog"
	"testing"
	"time"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
)

// A client that looks only when it was told of a change misses no state.
func TestEveryChangeIsTold(t *testing.T) {
	w := newWorld(t)
	changed := make(chan string, 1024)
	s, err := New(Deps{
		Hypervisor: w.hypervisor, Images: w.images, Ports: w.ports, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Changed: func(labels map[string]string) { changed <- labels[UIDLabel] },
	}, w.config())
	if err != nil {
		t.Fatal(err)
	}
	defer run(s)()
	deadline := time.After(time.Minute)
	until := func(what string, ok func([]*api.Machine) bool) {
		t.Helper()
		for {
			select {
			case uid := <-changed:
				if uid != "uid-1" {
					t.Fatalf("told of %q", uid)
				}
			case <-deadline:
				t.Fatalf("not told when the machine was %s", what)
			}
			answer, err := s.ListMachines(t.Context(), &api.ListMachinesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if ok(answer.Machines) {
				return
			}
		}
	}
	created, err := s.CreateMachine(t.Context(), &api.CreateMachineRequest{Machine: wanted("uid-1")})
	if err != nil {
		t.Fatal(err)
	}
	until("running", func(m []*api.Machine) bool {
		return len(m) == 1 && m[0].Status.State == api.MachineState_MACHINE_RUNNING
	})
	_, err = s.DeleteMachine(t.Context(), &api.DeleteMachineRequest{MachineId: created.Machine.Metadata.Id})
	if err != nil {
		t.Fatal(err)
	}
	until("gone", func(m []*api.Machine) bool { return len(m) == 0 })
}
