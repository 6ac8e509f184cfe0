package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/condition"
	"ingot/controlplane/waiting"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Name is that of the controller.
const Name = "scheduler"

// ConditionScheduled tells where a machine was placed, or why nowhere.
const ConditionScheduled = "Scheduled"

// Config tunes the scheduler; its zero value is the default.
type Config struct {
	// Retry is when a machine that fits nowhere is looked at again although nothing has changed; 0: 1 min.
	Retry time.Duration
	// ForgetRefusals is how long after the last refusal the pools that refused a machine are asked
	// again, if it still fits nowhere; 0: 5 min.
	ForgetRefusals time.Duration
}

type scheduler struct {
	cfg     Config
	waiting waiting.List // machines that fit nowhere, all on one topic
	pools   poolCache

	mu       sync.Mutex        // guards released
	released map[string]uint64 // per pool, the counter of its usage that was last seen
}

// unplaced is what machines without a pool wait for.
const unplaced = "unplaced"

// New returns the controller that places machines.
func New(cfg Config) controller.Controller {
	if cfg.Retry == 0 {
		cfg.Retry = time.Minute
	}
	if cfg.ForgetRefusals == 0 {
		cfg.ForgetRefusals = 5 * time.Minute
	}
	s := &scheduler{cfg: cfg, released: map[string]uint64{}}
	return controller.Each{
		Name:    Name,
		Primary: api.Machine,
		Inputs: []controller.Input{
			{Kind: api.Machine},
			{Kind: api.MachinePlacement, Map: machineOf},
			{Kind: api.MachineStatus, Map: machineOf},
			{Kind: api.MachineClass, Map: s.anyUnplaced},
			{Kind: api.MachinePool, Map: s.anyUnplaced},
			{Kind: api.MachinePoolStatus, Map: s.anyUnplaced},
			{Kind: api.MachinePoolPresence, Map: s.anyUnplaced},
			{Kind: api.MachinePoolUsage, Map: s.unplacedWhenFreed},
		},
		Outputs:   []controller.Output{{Kind: api.MachinePlacement}, {Kind: api.MachinePoolUsage}},
		Reconcile: s.reconcile,
	}
}

func machineOf(r *resource.Resource) []resource.Key {
	return []resource.Key{{Kind: api.Machine, Project: r.Project, Name: r.Name}}
}

func (s *scheduler) anyUnplaced(*resource.Resource) []resource.Key { return s.waiting.On(unplaced) }

// unplacedWhenFreed leaves out changes by which a pool only gets fuller.
func (s *scheduler) unplacedWhenFreed(usage *resource.Resource) []resource.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	released := resource.Spec[*v1alpha1.MachinePoolUsageSpec](usage).GetReleased()
	if released <= s.released[usage.Name] {
		return nil
	}
	s.released[usage.Name] = released
	return s.waiting.On(unplaced)
}

// A placementAt is a placement and the revision it was read at; 0 when there is none.
type placementAt struct {
	key      resource.Key
	spec     *v1alpha1.MachinePlacementSpec
	revision uint64
}

func placementOf(ctx context.Context, rw *controller.ReadWriter, machine resource.Key) (placementAt, error) {
	p := placementAt{key: resource.Key{Kind: api.MachinePlacement, Project: machine.Project, Name: machine.Name}, spec: &v1alpha1.MachinePlacementSpec{}}
	r, err := rw.Get(ctx, p.key)
	if errors.Is(err, fault.NotFound) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	p.spec, p.revision = resource.Spec[*v1alpha1.MachinePlacementSpec](r), r.Revision
	return p, nil
}

func (p placementAt) compare() store.Compare { return store.Compare{Key: p.key, Revision: p.revision} }

func (p placementAt) write(spec *v1alpha1.MachinePlacementSpec) store.Op {
	r := &resource.Resource{Meta: resource.Meta{Key: p.key, Revision: p.revision}, Spec: spec}
	if p.revision == 0 {
		return store.Op{Type: store.Create, Resource: r}
	}
	return store.Op{Type: store.Update, Resource: r}
}

func (s *scheduler) reconcile(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
	m, err := rw.Get(ctx, key)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return controller.Result{}, err
	}
	placement, err := placementOf(ctx, rw, key)
	if err != nil {
		return controller.Result{}, err
	}
	switch {
	case m == nil || placement.revision != 0 && placement.spec.GetMachineUid() != m.UID:
		// The machine is gone, and with it the last finalizer: its host has let go of it. A successor
		// of the same name is placed when the deletion of the placement wakes it.
		s.waiting.Done(key)
		if placement.revision == 0 {
			return controller.Result{}, nil
		}
		return controller.Result{}, remove(ctx, rw, placement)
	case m.Phase == resource.TearingDown:
		s.waiting.Done(key)
		return controller.Result{}, nil
	}
	refused, again, err := refusal(ctx, rw, m, placement)
	if err != nil {
		return controller.Result{}, err
	}
	if placement.spec.GetPool() != "" && refused == "" {
		s.waiting.Done(key)
		return controller.Result{RequeueAfter: again}, nil
	}
	return s.place(ctx, rw, m, placement, refused)
}

// secondThoughts is how long a host, asked again, has to take back that it refused a machine.
const secondThoughts = 30 * time.Second

// refusal is why the host that m is placed on refuses it; empty when it does not. A refusal that is
// older than the placement counts only after a time: again is when to look.
func refusal(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource, placement placementAt) (why string, again time.Duration, err error) {
	if placement.spec.GetPool() == "" {
		return "", 0, nil
	}
	r, err := rw.Get(ctx, resource.Key{Kind: api.MachineStatus, Project: m.Project, Name: m.Name})
	if errors.Is(err, fault.NotFound) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	status := resource.Spec[*v1alpha1.MachineStatus](r)
	admitted := condition.Get(status.GetConditions(), "Admitted")
	if status.GetMachineUid() != m.UID || status.GetMachinePoolRef().GetName() != placement.spec.GetPool() ||
		admitted.GetStatus() != condition.False || admitted.GetReason() != "Refused" {
		return "", 0, nil
	}
	placed := condition.Get(placement.spec.GetConditions(), ConditionScheduled).GetLastTransitionTime().AsTime()
	if left := secondThoughts - time.Since(placed); r.Revision < placement.revision && left > 0 {
		return "", left, nil
	}
	if admitted.GetMessage() == "" {
		return "no reason given", 0, nil
	}
	return admitted.GetMessage(), 0, nil
}

// place looks for a pool, other than one that has refused, and stores the outcome.
func (s *scheduler) place(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource, placement placementAt, refused string) (controller.Result, error) {
	s.waiting.For(m.Key, unplaced)
	next := &v1alpha1.MachinePlacementSpec{MachineUid: m.UID, Refused: maps.Clone(placement.spec.GetRefused())}
	if refused != "" {
		if next.Refused == nil {
			next.Refused = map[string]string{}
		}
		next.Refused[placement.spec.GetPool()] = refused
	} else if s.forget(placement.spec) {
		next.Refused = nil
	}
	spec := resource.Spec[*v1alpha1.MachineSpec](m)
	decision, err := s.decide(ctx, rw, spec, next)
	if err != nil {
		return controller.Result{}, err
	}
	value := condition.True
	if decision.Pool == "" {
		value = condition.False
	}
	next.Pool = decision.Pool
	next.Conditions = condition.One(placement.spec.GetConditions(), ConditionScheduled, value, decision.Reason, decision.Message)
	if err := commit(ctx, rw, m, placement, next, decision.compares); err != nil {
		return controller.Result{}, err
	}
	if decision.Pool == "" {
		return controller.Result{RequeueAfter: s.cfg.Retry}, nil
	}
	s.waiting.Done(m.Key)
	return controller.Result{}, nil
}

// forget reports whether a machine has fitted nowhere for so long that those who refused it are
// asked again: what they lacked may be there now.
func (s *scheduler) forget(p *v1alpha1.MachinePlacementSpec) bool {
	c := condition.Get(p.GetConditions(), ConditionScheduled)
	return c.GetStatus() == condition.False && time.Since(c.GetLastTransitionTime().AsTime()) >= s.cfg.ForgetRefusals
}

// A verdict is a decision and what it was based on.
type verdict struct {
	Decision
	compares []store.Compare
}

func (s *scheduler) decide(ctx context.Context, rw *controller.ReadWriter, spec *v1alpha1.MachineSpec, next *v1alpha1.MachinePlacementSpec) (verdict, error) {
	name := spec.GetMachineClassRef().GetName()
	class, err := rw.Get(ctx, resource.Key{Kind: api.MachineClass, Name: name})
	if errors.Is(err, fault.NotFound) {
		return verdict{Decision: Decision{Reason: "ClassNotFound", Message: fmt.Sprintf("machine class %q does not exist", name)}}, nil
	}
	if err != nil {
		return verdict{}, err
	}
	demand, err := Demand(spec, resource.Spec[*v1alpha1.MachineClassSpec](class))
	if err != nil {
		return verdict{Decision: Decision{Reason: "Invalid", Message: err.Error()}}, nil
	}
	snapshot, err := s.pools.read(ctx, rw)
	if err != nil {
		return verdict{}, err
	}
	next.Resources = demand.Format()
	v := verdict{Decision: Plan(Request{
		Class: name, Resources: demand, Tolerations: spec.GetTolerations(), Selector: spec.GetMachinePoolSelector(),
		Pool: spec.GetMachinePoolRef().GetName(), Refused: next.GetRefused(),
	}, snapshot.pools)}
	if v.Pool != "" {
		v.compares = snapshot.compares(v.Pool)
	}
	return v, nil
}

// commit stores a placement with the usage of the pools that it changes, if all is as it was read.
func commit(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource, placement placementAt, next *v1alpha1.MachinePlacementSpec, compares []store.Compare) error {
	if placement.revision != 0 && proto.Equal(placement.spec, next) {
		return nil
	}
	compares = append(compares, placement.compare(), store.Compare{Key: m.Key, Revision: m.Revision})
	ops := []store.Op{placement.write(next)}
	if from := placement.spec.GetPool(); from != "" && from != next.GetPool() {
		op, compare, err := usage(ctx, rw, from, placement.key, nil)
		if err != nil {
			return err
		}
		ops, compares = append(ops, op), append(compares, compare)
	}
	if next.GetPool() != "" {
		op, compare, err := usage(ctx, rw, next.GetPool(), placement.key, next)
		if err != nil {
			return err
		}
		ops, compares = append(ops, op), append(compares, compare)
	}
	_, err := rw.Txn(ctx, compares, ops...)
	if errors.Is(err, fault.Exists) {
		return fmt.Errorf("place %s: %w: %w", m.Key, fault.Conflict, err)
	}
	return err
}
