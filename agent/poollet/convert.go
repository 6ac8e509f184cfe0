package poollet

import (
	"context"
	"errors"
	"strconv"
	"time"

	iri "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ingot/agent/network"
	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

func ignoreGone(err error) error {
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

func powerOf(want *v1alpha1.HostMachineSpec) iri.Power {
	if want.Power == "Off" {
		return iri.Power_POWER_OFF
	}
	return iri.Power_POWER_ON
}

func annotationsOf(want *v1alpha1.HostMachineSpec) map[string]string {
	return map[string]string{generationAnnotation: strconv.FormatUint(want.Generation, 10)}
}

// interfaces returns what the view says of each interface of the machine, in its order; missing
// names the first that it says nothing of.
func (p *Poollet) interfaces(ctx context.Context, rw *controller.ReadWriter, want *v1alpha1.HostMachineSpec) (all []*v1alpha1.HostInterfaceSpec, missing string, err error) {
	for _, nic := range want.Interfaces {
		known, err := rw.List(ctx, store.Query{Kind: api.HostInterface, Index: api.ByUID, Value: nic.InterfaceUid})
		if err != nil {
			return nil, "", err
		}
		var spec *v1alpha1.HostInterfaceSpec
		if len(known) > 0 {
			spec = resource.Spec[*v1alpha1.HostInterfaceSpec](known[0])
		} else if missing == "" {
			missing = nic.InterfaceName
		}
		all = append(all, spec)
	}
	return all, missing, nil
}

func networkInterface(name string, intf *v1alpha1.HostInterfaceSpec) *iri.NetworkInterface {
	return &iri.NetworkInterface{
		Name: name, NetworkId: network.NetworkID(intf.Vni), Ips: intf.Ips,
		Attributes: map[string]string{network.InterfaceAttribute: intf.Uid},
	}
}

// states are the runtime's in the API's words. STOPPED is no state that our runtime answers.
var states = map[iri.MachineState]string{
	iri.MachineState_MACHINE_PENDING:     "Pending",
	iri.MachineState_MACHINE_RUNNING:     "Running",
	iri.MachineState_MACHINE_SUSPENDED:   "Shutdown",
	iri.MachineState_MACHINE_STOPPED:     "Shutdown",
	iri.MachineState_MACHINE_TERMINATED:  "Terminated",
	iri.MachineState_MACHINE_TERMINATING: "Terminating",
}

// report is what the control plane is told of a machine that the runtime has.
func report(want *v1alpha1.HostMachineSpec, have *iri.Machine, interfaces []*v1alpha1.HostInterfaceSpec) *v1alpha1.MachineReport {
	s := &v1alpha1.MachineStatus{MachineId: have.GetMetadata().GetId(), State: states[have.GetStatus().GetState()]}
	if have.GetStatus().GetObservedGeneration() == have.GetMetadata().GetGeneration() {
		s.ObservedGeneration = uint32(want.Generation)
	}
	for _, c := range have.GetStatus().GetMachineConditions() {
		s.Conditions = append(s.Conditions, &v1alpha1.Condition{Type: c.Type, Status: c.Status, Reason: c.Reason,
			Message: c.Message, LastTransitionTime: timestamppb.New(conditionTime(c.LastTransitionTime))})
	}
	for _, nic := range have.GetStatus().GetNetworkInterfaces() {
		entry := &v1alpha1.MachineInterfaceStatus{Name: nic.Name, Handle: nic.Handle, State: "Pending"}
		if nic.State == iri.NetworkInterfaceState_NETWORK_INTERFACE_ATTACHED {
			entry.State = "Attached"
		}
		for i, w := range want.Interfaces {
			if w.Name == nic.Name {
				entry.NetworkInterfaceRef = &v1alpha1.LocalRef{Name: w.InterfaceName}
				if i < len(interfaces) && interfaces[i] != nil {
					entry.Ips = interfaces[i].Ips
				}
			}
		}
		s.NetworkInterfaces = append(s.NetworkInterfaces, entry)
	}
	for _, v := range have.GetStatus().GetVolumes() {
		entry := &v1alpha1.MachineVolumeStatus{Name: v.Name, Handle: v.Handle, State: "Pending"}
		if v.State == iri.VolumeState_VOLUME_ATTACHED {
			entry.State = "Attached"
		}
		s.Volumes = append(s.Volumes, entry)
	}
	return &v1alpha1.MachineReport{Namespace: want.Namespace, Name: want.Name, Uid: want.Uid, Status: s}
}

// conditionTime reads a time in seconds or in nanoseconds: runtimes differ.
func conditionTime(t int64) time.Time {
	if t > 1<<40 {
		return time.Unix(0, t)
	}
	return time.Unix(t, 0)
}

// waiting is what the control plane is told of a machine that the runtime does not have yet.
func waiting(want *v1alpha1.HostMachineSpec, reason, message string) *v1alpha1.MachineReport {
	return &v1alpha1.MachineReport{Namespace: want.Namespace, Name: want.Name, Uid: want.Uid,
		Status: &v1alpha1.MachineStatus{State: "Pending", Conditions: []*v1alpha1.Condition{
			{Type: "Created", Status: "False", Reason: reason, Message: message},
		}}}
}
