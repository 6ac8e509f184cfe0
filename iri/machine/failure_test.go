package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"

	"ingot/iri/machine/domain"
	"ingot/runtime/fault"
)

func TestFailedPullIsToldAndHeals(t *testing.T) {
	w := newWorld(t)
	w.images.fail(errors.New("manifest unknown"))
	x := newWire(t, w)
	id := x.create(wanted("uid-1")).Metadata.Id
	x.await("event", func() bool { return len(x.events(&api.EventFilter{Id: id})) > 0 })
	spec := x.events(&api.EventFilter{LabelSelector: map[string]string{UIDLabel: "uid-1"}})[0].Spec
	if spec.Reason != "ImagePullFailed" || spec.Type != "Warning" || spec.InvolvedObjectMeta.Labels[UIDLabel] != "uid-1" ||
		spec.Message != "volume root: pull example.org/os:1: manifest unknown" {
		t.Errorf("event %v", spec)
	}
	m := x.awaitState(id, pending)
	if c := m.Status.MachineConditions[0]; c.Type != "DisksReady" || c.Status != "False" || c.Reason != "ImagePullFailed" {
		t.Errorf("condition %v", c)
	}
	w.images.fail(nil)
	x.awaitState(id, running)
}

func TestPortThatIsNotThereKeepsTheMachinePending(t *testing.T) {
	w := newWorld(t)
	w.ports.fail(fmt.Errorf("network not known yet: %w", fault.Unavailable))
	x := newWire(t, w)
	id := x.create(wanted("uid-1")).Metadata.Id
	x.await("condition", func() bool {
		conditions := x.get(id).Status.MachineConditions
		for _, c := range conditions {
			if c.Type == "NetworkReady" && c.Reason == "PortPending" {
				return true
			}
		}
		return false
	})
	if m := x.get(id); m.Status.State != pending {
		t.Errorf("state %v", m.Status.State)
	}
	w.ports.fail(nil)
	x.awaitState(id, running)
}

func TestUnreachableHypervisorChangesNothing(t *testing.T) {
	w := newWorld(t)
	x := newWire(t, w)
	id := x.create(wanted("uid-1")).Metadata.Id
	x.awaitState(id, running)
	w.hypervisor.SetUnavailable(true)
	x.s.Retry(id)
	x.await("condition", func() bool {
		conditions := x.get(id).Status.MachineConditions
		return conditions[len(conditions)-1].Status == "Unknown"
	})
	x.stop()
	w.ports.forget()
	x = newWire(t, w) // blind from its first moment
	if m := x.get(id); m.Status.State != running {
		t.Errorf("unreachable is reported as %v", m.Status.State)
	}
	x.await("port, which needs no hypervisor", func() bool { return len(w.ports.names()) > 0 })
	w.hypervisor.SetUnavailable(false)
	x.awaitState(id, running)
	if n := w.hypervisor.Starts(id); n != 1 {
		t.Errorf("started %d times", n)
	}
}

func TestEndsAreToldApart(t *testing.T) {
	tests := []struct {
		name    string
		reason  domain.Reason
		restart bool
		want    api.MachineState
		event   string
		starts  int
	}{
		{name: "guest's own poweroff stays off", reason: domain.GuestShutdown, want: suspended, event: "GuestPoweredOff", starts: 1},
		{name: "guest's own poweroff restarts if configured", reason: domain.GuestShutdown, restart: true, want: running, event: "GuestPoweredOff", starts: 2},
		{name: "crash restarts", reason: domain.Crashed, want: running, event: "Crashed", starts: 2},
		{name: "destroyed by hand restarts", reason: domain.Destroyed, want: running, event: "Crashed", starts: 2},
		{name: "rebooted host restarts", reason: domain.Unknown, want: running, event: "Interrupted", starts: 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			x := newWire(t, w, func(c *Config) { c.RestartGuestPoweroff = test.restart; c.CrashMax = time.Second })
			id := x.create(wanted("uid-1")).Metadata.Id
			x.awaitState(id, running)
			w.hypervisor.End(id, test.reason)
			x.await(test.event, func() bool {
				for _, e := range x.events(&api.EventFilter{Id: id}) {
					if e.Spec.Reason == test.event {
						return w.hypervisor.Starts(id) == test.starts
					}
				}
				return false
			})
			x.awaitState(id, test.want)
		})
	}
}

func TestCorruptRecordCostsItsOwnMachineOnly(t *testing.T) {
	w := newWorld(t)
	x := newWire(t, w)
	good, bad := x.create(wanted("uid-1")).Metadata.Id, x.create(wanted("uid-2")).Metadata.Id
	x.awaitState(good, running)
	x.awaitState(bad, running)
	x.stop()
	record := filepath.Join(w.dir, "host", "records", bad, "record.json")
	data, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	x = newWire(t, w)
	if machines := x.list(nil); len(machines) != 1 || machines[0].Metadata.Id != good {
		t.Fatalf("listed %v", machines)
	}
	if _, ok := x.s.corrupt[bad]; !ok {
		t.Error("the corrupt record is not reported")
	}
	// Created again by its client, the machine takes its running domain over.
	x.await("orphan found", func() bool {
		x.s.mu.RLock()
		defer x.s.mu.RUnlock()
		return len(x.s.orphans) == 1
	})
	if again := x.create(wanted("uid-2")).Metadata.Id; again != bad {
		t.Errorf("machine %s, its domain is %s", again, bad)
	}
	x.awaitState(bad, running)
	if n := w.hypervisor.Starts(bad); n != 1 {
		t.Errorf("started %d times", n)
	}
}

func TestSecretsAreNeitherReadableNorInTheDefinition(t *testing.T) {
	w := newWorld(t)
	x := newWire(t, w)
	id := x.create(wanted("uid-1")).Metadata.Id
	x.awaitState(id, running)
	for _, test := range []struct {
		path string
		want os.FileMode
	}{
		{"records", 0o700 | os.ModeDir}, {"records/" + id, 0o700 | os.ModeDir}, {"records/" + id + "/record.json", 0o600},
		{"machines/" + id, 0o710 | os.ModeDir}, {"machines/" + id + "/ignition", 0o600}, {"machines/" + id + "/disk-root.raw", 0o600},
	} {
		info, err := os.Stat(filepath.Join(w.dir, "host", test.path))
		if err != nil || info.Mode() != test.want {
			t.Errorf("%s: %v, %v, want %v", test.path, info.Mode(), err, test.want)
		}
	}
	spec, _ := w.hypervisor.Spec(id)
	ignition, err := os.ReadFile(spec.Ignition)
	if err != nil || !bytes.Equal(ignition, wanted("").Spec.IgnitionData) {
		t.Errorf("ignition %q, %v", ignition, err)
	}
}

func TestEventsWindowIsInclusive(t *testing.T) {
	ring := []event{{Time: 10, Reason: "a"}, {Time: 11, Reason: "b"}, {Time: 12, Reason: "c"}}
	m := &api.Machine{Metadata: newMetadata("id", nil)}
	for _, test := range []struct {
		name     string
		from, to int64
		want     string
	}{
		{name: "open", want: "abc"}, {name: "both ends", from: 10, to: 11, want: "ab"},
		{name: "one second", from: 11, to: 11, want: "b"}, {name: "from", from: 12, want: "c"}, {name: "none", from: 13},
	} {
		got := ""
		for _, e := range listEvents(m, ring, test.from, test.to) {
			got += e.Spec.Reason
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
