package hostview

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/condition"
	"ingot/controlplane/machine"
	"ingot/controlplane/waiting"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Machines is the name of the controller that tells hosts of machines, and of its finalizer.
const Machines = "host-machines"

const (
	// ConditionPrepared tells what a placed machine waits for before its host is told of it.
	ConditionPrepared = "Prepared"
	// ConditionReleased tells what a deleted machine waits for.
	ConditionReleased = "Released"
)

// annotationStatus is the revision that the machine's status had when the HostMachine was made: what
// the host said by then, it said of an earlier stay of the machine.
const annotationStatus = "ingot.dev/status-revision"

// AnnotationWrittenOff, "true" on a MachinePool, is an admin's word that the host will never come
// back: while it is offline, its deleted machines are let go of without it.
const AnnotationWrittenOff = "ingot.dev/written-off"

type machines struct {
	held waiting.List // deleted machines, by the host that holds them
}

// NewMachines returns the controller that keeps one HostMachine per placed machine.
func NewMachines() controller.Controller {
	c := &machines{}
	held := func(pool *resource.Resource) []resource.Key { return c.held.On(pool.Name) }
	return controller.Each{
		Name:    Machines,
		Primary: api.Machine,
		Inputs: []controller.Input{
			{Kind: api.Machine, Strong: true},
			{Kind: api.MachinePlacement, Map: sameMachine},
			{Kind: api.MachineStatus, Map: sameMachine},
			{Kind: api.MachineProgress, Map: sameMachine},
			{Kind: api.MachineClass, Select: func(r *resource.Resource) []store.Query {
				return []store.Query{{Kind: api.Machine, Index: api.ByClass, Value: r.Name}}
			}},
			{Kind: api.Secret, Select: func(r *resource.Resource) []store.Query {
				return []store.Query{{Kind: api.Machine, Project: r.Project, Index: api.BySecret, Value: r.Name}}
			}},
			{Kind: api.NetworkInterface, Select: machine.UsersOf},
			{Kind: api.InterfaceStatus, Select: machine.UsersOf},
			{Kind: api.HostInterface, Select: func(r *resource.Resource) []store.Query {
				name := resource.Spec[*v1alpha1.HostInterfaceSpec](r).GetName()
				return []store.Query{{Kind: api.Machine, Project: r.Project, Index: api.ByInterface, Value: name}}
			}},
			{Kind: api.MachinePool, Map: held},
			{Kind: api.MachinePoolPresence, Map: held},
			{Kind: api.HostMachine, Map: func(r *resource.Resource) []resource.Key {
				return []resource.Key{{Kind: api.Machine, Project: r.Project, Name: resource.Spec[*v1alpha1.HostMachineSpec](r).GetName()}}
			}},
		},
		Outputs:   []controller.Output{{Kind: api.HostMachine}, {Kind: api.MachineProgress}},
		Workers:   8,
		Reconcile: c.reconcile,
	}
}

func sameMachine(r *resource.Resource) []resource.Key {
	return []resource.Key{{Kind: api.Machine, Project: r.Project, Name: r.Name}}
}

// machineKey names a HostMachine by where it is and which machine it is.
func machineKey(project, host, uid string) resource.Key {
	return resource.Key{Kind: api.HostMachine, Project: project, Name: host + "." + uid}
}

func progressKey(m resource.Key) resource.Key {
	return resource.Key{Kind: api.MachineProgress, Project: m.Project, Name: m.Name}
}

func (c *machines) reconcile(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
	m, err := rw.Get(ctx, key)
	if errors.Is(err, fault.NotFound) {
		c.held.Done(key)
		_, err := rw.Delete(ctx, progressKey(key))
		return controller.Result{}, err
	}
	if err != nil {
		return controller.Result{}, err
	}
	placement, err := placementOf(ctx, rw, m)
	if err != nil {
		return controller.Result{}, err
	}
	var host string // where m shall be
	if placement != nil && m.Phase == resource.Running {
		host = resource.Spec[*v1alpha1.MachinePlacementSpec](placement).GetPool()
	}
	here, elsewhere, err := c.endOthers(ctx, rw, m, host)
	if err != nil {
		return controller.Result{}, err
	}
	switch {
	case m.Phase == resource.TearingDown && elsewhere == "":
		return controller.Result{}, rw.RemoveFinalizer(ctx, key)
	case m.Phase == resource.TearingDown:
		return controller.Result{}, progress(ctx, rw, m, ConditionReleased, []string{holds(elsewhere)})
	case host == "":
		return controller.Result{}, nil
	case elsewhere != "":
		return controller.Result{}, progress(ctx, rw, m, ConditionPrepared, []string{holds(elsewhere)})
	}
	view, err := resolve(ctx, rw, m, host)
	if err != nil {
		return controller.Result{}, err
	}
	if len(view.waits) == 0 {
		if err := tell(ctx, rw, m, placement, here, view); err != nil {
			return controller.Result{}, err
		}
	}
	return controller.Result{}, progress(ctx, rw, m, ConditionPrepared, view.waits)
}

func holds(host string) string { return fmt.Sprintf("host %q has not let go of the machine yet", host) }

// endOthers takes back what hosts other than host were told of m. It returns what host was told, and
// one that has not let go yet.
func (c *machines) endOthers(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource, host string) (here *resource.Resource, elsewhere string, err error) {
	told, err := rw.List(ctx, store.Query{Kind: api.HostMachine, Project: m.Project, Index: api.ByUID, Value: m.UID})
	if err != nil {
		return nil, "", err
	}
	var hosts []string
	for _, hm := range told {
		if m.Phase == resource.TearingDown {
			hosts = append(hosts, resource.Spec[*v1alpha1.HostMachineSpec](hm).GetHost())
		}
	}
	c.held.For(m.Key, hosts...)
	for _, hm := range told {
		at := resource.Spec[*v1alpha1.HostMachineSpec](hm).GetHost()
		if at == host && hm.Phase == resource.Running {
			here = hm
			continue
		}
		gone, err := end(ctx, rw, m, hm, at)
		if err != nil {
			return nil, "", err
		}
		if !gone {
			elsewhere = at
		}
	}
	return here, elsewhere, nil
}

// end asks the host to let go of m, and lets hm disappear once it has said so.
func end(ctx context.Context, rw *controller.ReadWriter, m, hm *resource.Resource, host string) (gone bool, err error) {
	if hm.Phase == resource.Running {
		if gone, err = rw.Delete(ctx, hm.Key); gone || err != nil {
			return gone, err
		}
	}
	released, err := hasReleased(ctx, rw, m, hm, host)
	if err == nil && !released {
		released, err = writtenOff(ctx, rw, host)
	}
	if err != nil || !released {
		return false, err
	}
	return true, rw.RemoveFinalizer(ctx, hm.Key)
}

// hasReleased reports whether host has said that it holds nothing of m: that it is gone, or that it
// never took it.
func hasReleased(ctx context.Context, rw *controller.ReadWriter, m, hm *resource.Resource, host string) (bool, error) {
	r, err := rw.Get(ctx, resource.Key{Kind: api.MachineStatus, Project: m.Project, Name: m.Name})
	if errors.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	status := resource.Spec[*v1alpha1.MachineStatus](r)
	if status.GetMachineUid() != m.UID || status.GetMachinePoolRef().GetName() != host || statusRevision(r) == hm.Annotations[annotationStatus] {
		return false, nil
	}
	admitted := condition.Get(status.GetConditions(), "Admitted")
	return status.GetGone() || admitted.GetStatus() == condition.False && admitted.GetReason() == "Refused", nil
}

// writtenOff reports whether host is offline, for good by an admin's word.
func writtenOff(ctx context.Context, rw *controller.ReadWriter, host string) (bool, error) {
	pool, err := rw.Get(ctx, resource.Key{Kind: api.MachinePool, Name: host})
	if errors.Is(err, fault.NotFound) || err == nil && pool.Annotations[AnnotationWrittenOff] != "true" {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	presence, err := rw.Get(ctx, resource.Key{Kind: api.MachinePoolPresence, Name: host})
	if errors.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil && resource.Spec[*v1alpha1.MachinePoolPresenceSpec](presence).GetState() == "Offline", err
}

func statusRevision(r *resource.Resource) string {
	return r.UID + "/" + strconv.FormatUint(r.Revision, 10)
}

// tell stores what the host must know. A new HostMachine is made only if the machine, its place and
// its interfaces are as they were read.
func tell(ctx context.Context, rw *controller.ReadWriter, m, placement, here *resource.Resource, v view) error {
	if here != nil {
		_, err := rw.Apply(ctx, &resource.Resource{Meta: resource.Meta{Key: here.Key, Annotations: here.Annotations}, Spec: v.spec})
		return err
	}
	annotations := map[string]string{}
	r, err := rw.Get(ctx, resource.Key{Kind: api.MachineStatus, Project: m.Project, Name: m.Name})
	switch {
	case err == nil:
		annotations[annotationStatus] = statusRevision(r)
	case !errors.Is(err, fault.NotFound):
		return err
	}
	compares := []store.Compare{{Key: m.Key, Revision: m.Revision}, {Key: placement.Key, Revision: placement.Revision}}
	for _, nic := range v.interfaces {
		compares = append(compares, store.Compare{Key: nic.Key, Revision: nic.Revision})
	}
	_, err = rw.Txn(ctx, compares,
		store.Op{Type: store.AddFinalizer, Resource: m, UID: m.UID, Finalizer: Machines},
		store.Op{Type: store.Create, Resource: &resource.Resource{
			Meta: resource.Meta{Key: machineKey(m.Project, v.spec.GetHost(), m.UID), Finalizers: []string{Machines}, Annotations: annotations},
			Spec: v.spec,
		}})
	return err
}

// progress writes what m waits for, as a condition that is true once there is nothing.
func progress(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource, typ string, waits []string) error {
	var before []*v1alpha1.Condition
	present, err := rw.Get(ctx, progressKey(m.Key))
	if err != nil && !errors.Is(err, fault.NotFound) {
		return err
	}
	if err == nil {
		if spec := resource.Spec[*v1alpha1.MachineProgressSpec](present); spec.GetMachineUid() == m.UID {
			before = spec.GetConditions()
		}
	}
	value, reason := condition.True, typ
	if len(waits) > 0 {
		value, reason = condition.False, "Waiting"
	}
	_, err = rw.Apply(ctx, &resource.Resource{Meta: resource.Meta{Key: progressKey(m.Key)}, Spec: &v1alpha1.MachineProgressSpec{
		MachineUid: m.UID, Conditions: condition.One(before, typ, value, reason, strings.Join(waits, "; ")),
	}})
	return err
}
