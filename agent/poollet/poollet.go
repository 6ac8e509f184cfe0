// Package poollet is the machine poollet: it makes an IRI MachineRuntime, ours or another, run
// the machines that the host view lists, and reports what the runtime says of them. Whatever it
// does it does again until it holds; it removes a machine only when the view says that it ends.
package poollet

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	iri "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	irimeta "github.com/ironcore-dev/ironcore/iri/apis/meta/v1alpha1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ingot/agent/view"
	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/controller"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// The labels and annotations are those of IronCore's machinepoollet.
const (
	uidLabel             = "machinepoollet.ironcore.dev/machine-uid"
	namespaceLabel       = "machinepoollet.ironcore.dev/machine-namespace"
	nameLabel            = "machinepoollet.ironcore.dev/machine-name"
	generationAnnotation = "machinepoollet.ironcore.dev/machine-generation"
)

// How long until a machine is looked at again although nothing was heard of it: one that is
// changing, and one that is at rest.
const (
	pollChanging = 300 * time.Millisecond
	pollResting  = 5 * time.Second
)

// A Reporter sends reports to the control plane.
type Reporter interface {
	ReportMachine(*v1alpha1.MachineReport)
	ReportEvents(...*v1alpha1.EventSpec)
}

// A Poollet drives one runtime.
type Poollet struct {
	runtime  iri.MachineRuntimeClient
	reporter Reporter
	log      *slog.Logger
}

// New returns a poollet for a runtime.
func New(runtime iri.MachineRuntimeClient, reporter Reporter, log *slog.Logger) *Poollet {
	return &Poollet{runtime: runtime, reporter: reporter, log: log.With("component", "poollet")}
}

// Key is that of the machine that the poollet has given these labels.
func Key(labels map[string]string) resource.Key {
	return resource.Key{Kind: api.HostMachine, Project: labels[namespaceLabel], Name: labels[nameLabel]}
}

// Controller returns the controller to run. The runtime is polled; one that can tell of changes
// has the engine wake the machine's Key.
func (p *Poollet) Controller() controller.Controller {
	return controller.Each{
		Name:    view.Finalizer,
		Primary: api.HostMachine,
		Inputs: []controller.Input{
			{Kind: api.HostMachine, Strong: true},
			{Kind: api.HostInterface, Select: func(r *resource.Resource) []store.Query {
				uid := resource.Spec[*v1alpha1.HostInterfaceSpec](r).Uid
				return []store.Query{{Kind: api.HostMachine, Index: api.ByInterface, Value: uid}}
			}},
		},
		Workers:   8,
		Reconcile: p.reconcile,
	}
}

func (p *Poollet) reconcile(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
	r, err := rw.Get(ctx, key)
	if err != nil {
		return controller.Result{}, ignoreGone(err)
	}
	want := resource.Spec[*v1alpha1.HostMachineSpec](r)
	if r.Annotations[view.OrphanAnnotation] != "" && r.Phase == resource.Running {
		return controller.Result{}, nil
	}
	have, err := p.find(ctx, want.Uid)
	if err != nil {
		return controller.Result{}, err
	}
	if r.Phase == resource.TearingDown {
		return p.remove(ctx, rw, key, want, have)
	}
	interfaces, missing, err := p.interfaces(ctx, rw, want)
	if err != nil {
		return controller.Result{}, err
	}
	if have == nil {
		if missing != "" {
			// The interface is an input: its arrival wakes this machine.
			p.reporter.ReportMachine(waiting(want, "WaitingForInterface", "interface "+missing+" is not known on this host yet"))
			return controller.Result{}, nil
		}
		return p.create(ctx, want, interfaces)
	}
	if err := p.update(ctx, want, have); err != nil {
		return controller.Result{}, err
	}
	p.reporter.ReportMachine(report(want, have, interfaces))
	return controller.Result{RequeueAfter: pause(have)}, nil
}

func pause(m *iri.Machine) time.Duration {
	switch m.GetStatus().GetState() {
	case iri.MachineState_MACHINE_PENDING, iri.MachineState_MACHINE_TERMINATING:
		return pollChanging
	}
	if m.GetStatus().GetObservedGeneration() != m.GetMetadata().GetGeneration() {
		return pollChanging
	}
	return pollResting
}

// find returns the runtime's machine with a uid; nil when the runtime says that there is none.
func (p *Poollet) find(ctx context.Context, uid string) (*iri.Machine, error) {
	reply, err := p.runtime.ListMachines(ctx, &iri.ListMachinesRequest{
		Filter: &iri.MachineFilter{LabelSelector: map[string]string{uidLabel: uid}}})
	if err != nil {
		return nil, fmt.Errorf("list machines of runtime: %w", err)
	}
	switch len(reply.Machines) {
	case 0:
		return nil, nil
	case 1:
		return reply.Machines[0], nil
	}
	return nil, fmt.Errorf("runtime has %d machines with uid %s", len(reply.Machines), uid)
}

func (p *Poollet) create(ctx context.Context, want *v1alpha1.HostMachineSpec, interfaces []*v1alpha1.HostInterfaceSpec) (controller.Result, error) {
	known, err := p.offers(ctx, want.MachineClass)
	if err != nil {
		return controller.Result{}, err
	}
	if !known {
		p.reporter.ReportMachine(waiting(want, "WaitingForClass", fmt.Sprintf("the runtime has not heard of class %q yet", want.MachineClass)))
		return controller.Result{RequeueAfter: pollChanging / 3}, nil
	}
	_, err = p.runtime.CreateMachine(ctx, &iri.CreateMachineRequest{Machine: desired(want, interfaces)})
	switch status.Code(err) {
	case codes.OK:
		return controller.Result{RequeueAfter: time.Millisecond}, nil
	case codes.ResourceExhausted, codes.InvalidArgument, codes.FailedPrecondition:
		refusal := waiting(want, "Refused", status.Convert(err).Message())
		refusal.Refused = status.Convert(err).Message()
		p.reporter.ReportMachine(refusal)
		return controller.Result{RequeueAfter: pollResting}, nil
	}
	return controller.Result{}, fmt.Errorf("create machine %s/%s: %w", want.Namespace, want.Name, err)
}

// offers asks the runtime for a class: the control plane's word of a new one and of its first machine
// may reach this host at once.
func (p *Poollet) offers(ctx context.Context, class string) (bool, error) {
	reply, err := p.runtime.Status(ctx, &iri.StatusRequest{})
	if err != nil {
		return false, fmt.Errorf("ask runtime for its classes: %w", err)
	}
	for _, c := range reply.MachineClassStatus {
		if c.GetMachineClass().GetName() == class {
			return true, nil
		}
	}
	return false, nil
}

// update makes the runtime's machine what it should be, as far as a machine can change.
func (p *Poollet) update(ctx context.Context, want *v1alpha1.HostMachineSpec, have *iri.Machine) error {
	id := have.GetMetadata().GetId()
	if power := powerOf(want); have.GetSpec().GetPower() != power {
		if _, err := p.runtime.UpdateMachinePower(ctx, &iri.UpdateMachinePowerRequest{MachineId: id, Power: power}); err != nil {
			return fmt.Errorf("switch power of %s: %w", id, err)
		}
		have.Spec.Power = power
	}
	annotations := annotationsOf(want)
	if have.GetMetadata().GetAnnotations()[generationAnnotation] != annotations[generationAnnotation] {
		_, err := p.runtime.UpdateMachineAnnotations(ctx,
			&iri.UpdateMachineAnnotationsRequest{MachineId: id, Annotations: annotations})
		if err != nil {
			return fmt.Errorf("annotate %s: %w", id, err)
		}
	}
	return nil
}

func (p *Poollet) remove(ctx context.Context, rw *controller.ReadWriter, key resource.Key,
	want *v1alpha1.HostMachineSpec, have *iri.Machine) (controller.Result, error) {
	if have == nil {
		p.reporter.ReportMachine(&v1alpha1.MachineReport{Namespace: want.Namespace, Name: want.Name, Uid: want.Uid, Gone: true,
			Status: &v1alpha1.MachineStatus{State: "Terminated"}})
		return controller.Result{}, rw.RemoveFinalizer(ctx, key)
	}
	_, err := p.runtime.DeleteMachine(ctx, &iri.DeleteMachineRequest{MachineId: have.GetMetadata().GetId()})
	if err != nil && status.Code(err) != codes.NotFound {
		return controller.Result{}, fmt.Errorf("delete machine %s: %w", have.GetMetadata().GetId(), err)
	}
	terminating := report(want, have, nil)
	terminating.Status.State = "Terminating"
	p.reporter.ReportMachine(terminating)
	return controller.Result{RequeueAfter: pollChanging / 3}, nil
}

// desired is the machine to ask the runtime for.
func desired(want *v1alpha1.HostMachineSpec, interfaces []*v1alpha1.HostInterfaceSpec) *iri.Machine {
	m := &iri.Machine{
		Metadata: &irimeta.ObjectMetadata{
			Labels:      map[string]string{uidLabel: want.Uid, namespaceLabel: want.Namespace, nameLabel: want.Name},
			Annotations: annotationsOf(want),
		},
		Spec: &iri.MachineSpec{
			Power: powerOf(want), Class: want.MachineClass, IgnitionData: want.Ignition,
			GuestConfig: &iri.GuestConfig{Hostname: want.Hostname},
		},
	}
	for _, v := range want.Volumes {
		disk := &iri.LocalDisk{SizeBytes: int64(v.SizeBytes)}
		if v.Image != "" {
			disk.Image = &iri.ImageSpec{Image: v.Image}
		}
		m.Spec.Volumes = append(m.Spec.Volumes, &iri.Volume{Name: v.Name, Device: v.Device, LocalDisk: disk})
	}
	for i, nic := range want.Interfaces {
		m.Spec.NetworkInterfaces = append(m.Spec.NetworkInterfaces, networkInterface(nic.Name, interfaces[i]))
	}
	return m
}
