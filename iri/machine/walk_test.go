package machine

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ingot/iri/machine/domain"
	"ingot/runtime/fault"
)

// settleTime is more than any back-off of the server.
const settleTime = 20 * time.Minute

func create(t testing.TB, s *Server, m *api.Machine) *api.Machine {
	t.Helper()
	answer, err := s.CreateMachine(context.Background(), &api.CreateMachineRequest{Machine: m})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Machine
}

func setPower(t testing.TB, s *Server, id string, p api.Power) {
	t.Helper()
	if _, err := s.UpdateMachinePower(context.Background(), &api.UpdateMachinePowerRequest{MachineId: id, Power: p}); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, s *Server, id string) {
	t.Helper()
	_, err := s.DeleteMachine(context.Background(), &api.DeleteMachineRequest{MachineId: id})
	if err != nil && status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
}

func find(s *Server, id string) *api.Machine {
	for _, m := range s.views(id, nil) {
		return m
	}
	return nil
}

// A server killed between any two calls to the world, before or after their effect, and started
// again, ends where one that lived ends.
func TestKilledAnywhereItEndsTheSame(t *testing.T) {
	stories := []struct {
		name string
		// do acts and lets time pass; the server may die under it.
		do   func(t *testing.T, s *Server, w *world, id string)
		want api.MachineState
		gone bool
	}{
		{name: "create", do: func(*testing.T, *Server, *world, string) {}, want: api.MachineState_MACHINE_RUNNING},
		{name: "off", want: api.MachineState_MACHINE_SUSPENDED, do: func(t *testing.T, s *Server, _ *world, id string) {
			setPower(t, s, id, api.Power_POWER_OFF)
		}},
		{name: "off and on", want: api.MachineState_MACHINE_RUNNING, do: func(t *testing.T, s *Server, _ *world, id string) {
			setPower(t, s, id, api.Power_POWER_OFF)
			time.Sleep(time.Second)
			setPower(t, s, id, api.Power_POWER_ON)
		}},
		{name: "delete", gone: true, do: func(t *testing.T, s *Server, _ *world, id string) { remove(t, s, id) }},
		{name: "crash", want: api.MachineState_MACHINE_RUNNING, do: func(_ *testing.T, _ *Server, w *world, id string) {
			w.hypervisor.End(id, domain.Crashed)
		}},
	}
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) {
			for point, reached := 0, true; reached; point++ {
				synctest.Test(t, func(t *testing.T) { reached = tell(t, story.do, point, story.want, story.gone) })
				if point > 500 {
					t.Fatal("the story does not end")
				}
			}
		})
	}
}

// tell runs a story with a kill at one point and reports whether the point was reached.
func tell(t *testing.T, do func(*testing.T, *Server, *world, string), point int, want api.MachineState, gone bool) bool {
	w := newWorld(t)
	s := w.server(t)
	if point%2 == 0 { // the creation is cut off too, in every other run
		w.gate.arm(point / 2)
	}
	stop := run(s)
	id := create(t, s, wanted("uid-1")).Metadata.Id
	time.Sleep(settleTime)
	if point%2 == 1 {
		w.gate.arm(point / 2)
	}
	do(t, s, w, id)
	time.Sleep(10 * time.Second)
	reached := w.gate.killed()
	stop()
	w.gate.arm(-1)
	s = w.server(t)
	defer run(s)()
	time.Sleep(settleTime)
	m := find(s, id)
	switch {
	case gone && (m != nil || w.left() != ""):
		t.Errorf("killed at %d: left %v\n%s", point, m, w.left())
	case !gone && m.GetStatus().GetState() != want:
		t.Errorf("killed at %d: %v, want %v", point, m.GetStatus(), want)
	}
	return reached
}

// walker takes random steps and remembers what must come of them.
type walker struct {
	t     *testing.T
	rand  *rand.Rand
	w     *world
	s     *Server
	stop  func()
	model map[string]*expected
	n     int
}

type expected struct {
	n            int // the order of creation
	on, guestOff bool
}

// TestRandomWalk does everything to a few machines in random order, faults and kills included, and
// compares with a model when all is well again.
func TestRandomWalk(t *testing.T) {
	for range 40 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { walk(t, seed) })
		})
	}
}

func walk(t *testing.T, seed uint64) {
	k := &walker{t: t, rand: rand.New(rand.NewPCG(seed, 0)), w: newWorld(t), model: map[string]*expected{}}
	k.s = k.w.server(t)
	k.stop = run(k.s)
	steps := []func(){k.create, k.power, k.delete, k.crash, k.guestOff, k.cut, k.portsAway, k.kill, k.pass, k.pass}
	for range 40 {
		steps[k.rand.IntN(len(steps))]()
		time.Sleep(time.Duration(k.rand.IntN(3000)) * time.Millisecond)
	}
	k.heal()
	k.stop()
	k.check()
}

// any is one of the machines, by chance; nil when there is none.
func (k *walker) any() (string, *expected) {
	ids := slices.SortedFunc(maps.Keys(k.model), func(a, b string) int { return k.model[a].n - k.model[b].n })
	if len(ids) == 0 {
		return "", nil
	}
	id := ids[k.rand.IntN(len(ids))]
	return id, k.model[id]
}

func (k *walker) create() {
	if len(k.model) >= 4 {
		return
	}
	k.n++
	k.model[create(k.t, k.s, wanted(fmt.Sprint("uid-", k.n))).Metadata.Id] = &expected{n: k.n, on: true}
}

func (k *walker) power() {
	if id, e := k.any(); e != nil {
		e.on, e.guestOff = !e.on, false
		p := api.Power_POWER_OFF
		if e.on {
			p = api.Power_POWER_ON
		}
		setPower(k.t, k.s, id, p)
	}
}

func (k *walker) delete() {
	if id, e := k.any(); e != nil && k.rand.IntN(3) == 0 {
		remove(k.t, k.s, id)
		delete(k.model, id)
	}
}

func (k *walker) crash() {
	if id, e := k.any(); e != nil {
		k.w.hypervisor.End(id, domain.Crashed)
	}
}

// guestOff acts on a machine that runs undisturbed: what a guest does while the server is dead or
// blind is known by its reason alone, and the model does not foresee who comes first.
func (k *walker) guestOff() {
	k.heal()
	if id, e := k.any(); e != nil && e.on && k.w.hypervisor.End(id, domain.GuestShutdown) {
		e.guestOff = true
		time.Sleep(time.Second)
	}
}

func (k *walker) cut()       { k.w.hypervisor.SetUnavailable(true) }
func (k *walker) portsAway() { k.w.ports.fail(fault.Unavailable) }

// kill lets a few more calls happen, ends the server and starts another.
func (k *walker) kill() {
	k.w.gate.arm(k.rand.IntN(12))
	time.Sleep(2 * time.Second)
	k.stop()
	k.w.gate.arm(-1)
	k.s = k.w.server(k.t)
	k.stop = run(k.s)
}

func (k *walker) pass() { time.Sleep(10 * time.Second) }

func (k *walker) heal() {
	k.w.hypervisor.SetUnavailable(false)
	k.w.ports.fail(nil)
	time.Sleep(settleTime)
}

func (k *walker) check() {
	if machines := k.s.views("", nil); len(machines) != len(k.model) {
		k.t.Errorf("%d machines, want %d:\n%s", len(machines), len(k.model), k.w.left())
	}
	for id, e := range k.model {
		want := api.MachineState_MACHINE_SUSPENDED
		if e.on && !e.guestOff {
			want = api.MachineState_MACHINE_RUNNING
		}
		if m := find(k.s, id); m.GetStatus().GetState() != want {
			k.t.Errorf("machine %s: %v, want %v", id, m, want)
		}
	}
	if len(k.model) == 0 && k.w.left() != "" {
		k.t.Errorf("left: %s", k.w.left())
	}
	if n := len(k.w.ports.names()); n != 2*len(k.model) {
		k.t.Errorf("%d ports, want %d", n, 2*len(k.model))
	}
}
