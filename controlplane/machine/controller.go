package machine

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Interfaces is the name of the controller that makes ephemeral interfaces, and of its finalizer.
const Interfaces = "machine-interfaces"

// New returns the controller that makes the ephemeral interfaces of machines, and deletes them once
// nobody else holds the machine back: its finalizer is the last to fall.
func New() controller.Controller {
	return controller.Each{
		Name:    Interfaces,
		Primary: api.Machine,
		Inputs: []controller.Input{
			{Kind: api.Machine, Strong: true},
			{Kind: api.NetworkInterface, Select: UsersOf, Map: machineOf},
		},
		Outputs:   []controller.Output{{Kind: api.NetworkInterface}},
		Workers:   4,
		Reconcile: reconcile,
	}
}

// UsersOf selects the machines that refer to a network interface, or to a companion of one.
func UsersOf(nic *resource.Resource) []store.Query {
	return []store.Query{{Kind: api.Machine, Project: nic.Project, Index: api.ByInterface, Value: nic.Name}}
}

// machineOf is the machine that nic was made for, even when its spec no longer has it.
func machineOf(nic *resource.Resource) []resource.Key {
	name := resource.Spec[*v1alpha1.NetworkInterfaceSpec](nic).GetMachineRef().GetName()
	if name == "" {
		return nil
	}
	return []resource.Key{{Kind: api.Machine, Project: nic.Project, Name: name}}
}

// Made reports whether nic was made by this package for the machine.
func Made(nic, machine *resource.Resource) bool {
	return nic.Owner == Interfaces && nic.Annotations[api.AnnotationUID] == machine.UID
}

// Uses reports whether the machine has nic: by reference, or because nic was made for it. One that
// only has the name of a NIC that would be made is not the machine's.
func Uses(machine, nic *resource.Resource) bool {
	for _, n := range resource.Spec[*v1alpha1.MachineSpec](machine).GetNetworkInterfaces() {
		if api.InterfaceName(machine.Name, n) == nic.Name && (n.GetEphemeral() == nil || Made(nic, machine)) {
			return true
		}
	}
	return false
}

func reconcile(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
	m, err := rw.Get(ctx, key)
	if errors.Is(err, fault.NotFound) {
		return controller.Result{}, nil
	}
	if err != nil {
		return controller.Result{}, err
	}
	if m.Phase == resource.TearingDown {
		return controller.Result{}, tearDown(ctx, rw, m)
	}
	desired := Desired(m)
	if len(desired) == 0 && !m.HasFinalizer(Interfaces) {
		return controller.Result{}, nil
	}
	if err := rw.AddFinalizer(ctx, key); err != nil {
		return controller.Result{}, err
	}
	for _, nic := range desired {
		if err := ensure(ctx, rw, m, nic); err != nil {
			return controller.Result{}, err
		}
	}
	return controller.Result{}, prune(ctx, rw, m, desired)
}

// Desired are the interfaces that live and die with m.
func Desired(m *resource.Resource) []*resource.Resource {
	var out []*resource.Resource
	for _, nic := range resource.Spec[*v1alpha1.MachineSpec](m).GetNetworkInterfaces() {
		t := nic.GetEphemeral().GetNetworkInterfaceTemplate()
		if t == nil {
			continue
		}
		spec := &v1alpha1.NetworkInterfaceSpec{}
		if t.GetSpec() != nil {
			spec = proto.CloneOf(t.GetSpec())
		}
		spec.MachineRef = &v1alpha1.LocalRef{Name: m.Name}
		annotations := map[string]string{api.AnnotationUID: m.UID}
		for k, v := range t.GetMetadata().GetAnnotations() {
			if k != api.AnnotationUID {
				annotations[k] = v
			}
		}
		out = append(out, &resource.Resource{
			Meta: resource.Meta{
				Key:         resource.Key{Kind: api.NetworkInterface, Project: m.Project, Name: api.InterfaceName(m.Name, nic)},
				Labels:      t.GetMetadata().GetLabels(),
				Annotations: annotations,
			},
			Spec: spec,
		})
	}
	return out
}

// ensure makes nic unless the name belongs to somebody else; the host view tells the user of that.
func ensure(ctx context.Context, rw *controller.ReadWriter, m, nic *resource.Resource) error {
	present, err := rw.Get(ctx, nic.Key)
	switch {
	case errors.Is(err, fault.NotFound):
	case err != nil:
		return err
	case !Made(present, m) || present.Phase == resource.TearingDown:
		return nil // looked at again when it changes or goes
	}
	_, err = rw.Apply(ctx, nic)
	return err
}

// prune deletes interfaces that were made for m and that its spec no longer has.
func prune(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource, desired []*resource.Resource) error {
	wanted := map[resource.Key]bool{}
	for _, nic := range desired {
		wanted[nic.Key] = true
	}
	made, err := madeFor(ctx, rw, m)
	if err != nil {
		return err
	}
	for _, nic := range made {
		if wanted[nic.Key] {
			continue
		}
		if _, err := rw.Delete(ctx, nic.Key); err != nil {
			return err
		}
	}
	return nil
}

func madeFor(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource) ([]*resource.Resource, error) {
	all, err := rw.List(ctx, store.Query{Kind: api.NetworkInterface, Project: m.Project, Index: api.ByMachine, Value: m.Name})
	if err != nil {
		return nil, err
	}
	var made []*resource.Resource
	for _, nic := range all {
		if Made(nic, m) {
			made = append(made, nic)
		}
	}
	return made, nil
}

// tearDown deletes what was made for m when only this controller holds m back.
func tearDown(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource) error {
	if !m.HasFinalizer(Interfaces) || len(m.Finalizers) > 1 {
		return nil
	}
	made, err := madeFor(ctx, rw, m)
	if err != nil {
		return err
	}
	gone := true
	for _, nic := range made {
		one, err := rw.Delete(ctx, nic.Key)
		if err != nil {
			return err
		}
		gone = gone && one
	}
	if !gone {
		return nil
	}
	return rw.RemoveFinalizer(ctx, m.Key)
}
