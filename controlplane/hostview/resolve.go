package hostview

import (
	"context"
	"errors"
	"fmt"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/condition"
	"ingot/controlplane/machine"
	"ingot/controlplane/network"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// A view is a machine as its host must know it, as far as it is known.
type view struct {
	spec *v1alpha1.HostMachineSpec
	// interfaces are the HostInterfaces that it was made from.
	interfaces []*resource.Resource
	// waits are what is missing, for people; spec is complete when there are none.
	waits []string
}

func (v *view) wait(format string, args ...any) {
	v.waits = append(v.waits, fmt.Sprintf(format, args...))
}

// resolve gathers what host must know of m.
func resolve(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource, host string) (view, error) {
	spec := resource.Spec[*v1alpha1.MachineSpec](m)
	v := view{spec: &v1alpha1.HostMachineSpec{
		Host: host, Namespace: m.Project, Name: m.Name, Uid: m.UID, Generation: m.Generation, Labels: m.Labels,
		MachineClass: spec.GetMachineClassRef().GetName(), Power: spec.GetPower(), Hostname: spec.GetGuestConfig().GetHostname(),
	}}
	if v.spec.Power == "" {
		v.spec.Power = "On"
	}
	if v.spec.Hostname == "" {
		v.spec.Hostname = m.Name
	}
	volumes, err := machine.Volumes(spec)
	if err != nil {
		v.wait("%v", err)
	}
	for _, d := range volumes {
		v.spec.Volumes = append(v.spec.Volumes, &v1alpha1.HostMachineVolume{Name: d.Name, Device: d.Device, SizeBytes: d.Bytes, Image: d.Image})
	}
	for _, step := range []func(context.Context, *controller.ReadWriter, *resource.Resource) error{v.class, v.ignition, v.nics} {
		if err := step(ctx, rw, m); err != nil {
			return v, err
		}
	}
	return v, nil
}

func (v *view) class(ctx context.Context, rw *controller.ReadWriter, _ *resource.Resource) error {
	r, err := rw.Get(ctx, resource.Key{Kind: api.MachineClass, Name: v.spec.GetMachineClass()})
	if errors.Is(err, fault.NotFound) {
		v.wait("machine class %q does not exist", v.spec.GetMachineClass())
		return nil
	}
	if err == nil {
		v.spec.Capabilities = resource.Spec[*v1alpha1.MachineClassSpec](r).GetCapabilities()
	}
	return err
}

func (v *view) ignition(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource) error {
	ref := resource.Spec[*v1alpha1.MachineSpec](m).GetIgnitionRef()
	if ref == nil {
		return nil
	}
	key := ref.GetKey()
	if key == "" {
		key = machine.DefaultIgnitionKey
	}
	r, err := rw.Get(ctx, resource.Key{Kind: api.Secret, Project: m.Project, Name: ref.GetName()})
	if errors.Is(err, fault.NotFound) {
		v.wait("secret %q does not exist", ref.GetName())
		return nil
	}
	if err != nil {
		return err
	}
	secret := resource.Spec[*v1alpha1.SecretSpec](r)
	text, isText := secret.GetStringData()[key]
	data, isData := secret.GetData()[key]
	switch {
	case isText:
		v.spec.Ignition = []byte(text)
	case isData:
		v.spec.Ignition = data
	default:
		v.wait("secret %q has no key %q", ref.GetName(), key)
	}
	return nil
}

func (v *view) nics(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource) error {
	for _, nic := range resource.Spec[*v1alpha1.MachineSpec](m).GetNetworkInterfaces() {
		name := api.InterfaceName(m.Name, nic)
		r, err := rw.Get(ctx, resource.Key{Kind: api.NetworkInterface, Project: m.Project, Name: name})
		switch {
		case errors.Is(err, fault.NotFound):
			v.wait("network interface %q does not exist", name)
			continue
		case err != nil:
			return err
		case nic.GetEphemeral() != nil && !machine.Made(r, m):
			v.wait("network interface %q exists and was not made for this machine", name)
			continue
		}
		told, err := rw.Get(ctx, interfaceKey(m.Project, v.spec.GetHost(), r.UID))
		if err == nil && resource.Spec[*v1alpha1.HostInterfaceSpec](told).GetMachineUid() == m.UID {
			v.interfaces = append(v.interfaces, told)
			v.spec.Interfaces = append(v.spec.Interfaces, &v1alpha1.HostMachineInterface{Name: nic.GetName(), InterfaceName: name, InterfaceUid: r.UID})
			continue
		}
		if err != nil && !errors.Is(err, fault.NotFound) {
			return err
		}
		why, err := whyNotTold(ctx, rw, r)
		if err != nil {
			return err
		}
		v.wait("network interface %q: %s", name, why)
	}
	return nil
}

// whyNotTold is what keeps an interface from being told to the host of a machine that refers to it.
func whyNotTold(ctx context.Context, rw *controller.ReadWriter, nic *resource.Resource) (string, error) {
	if nic.Phase == resource.TearingDown {
		return "is being deleted", nil
	}
	told, err := rw.List(ctx, store.Query{Kind: api.HostInterface, Project: nic.Project, Index: api.ByUID, Value: nic.UID})
	if err != nil {
		return "", err
	}
	if len(told) > 0 {
		return fmt.Sprintf("in use by another machine on host %q", resource.Spec[*v1alpha1.HostInterfaceSpec](told[0]).GetHost()), nil
	}
	r, err := rw.Get(ctx, resource.Key{Kind: api.InterfaceStatus, Project: nic.Project, Name: nic.Name})
	if errors.Is(err, fault.NotFound) {
		return "not looked at yet", nil
	}
	if err != nil {
		return "", err
	}
	status := resource.Spec[*v1alpha1.NetworkInterfaceStatus](r)
	if status.GetState() != network.Available {
		return condition.Get(status.GetConditions(), network.ConditionAvailable).GetMessage(), nil
	}
	return "policies are being compiled", nil
}
