package machine

import (
	"time"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"

	"ingot/iri/machine/domain"
)

// conditionType indexes the concerns that a machine reports on.
type conditionType uint8

const (
	disksReady conditionType = iota
	networkReady
	domainReady
	conditionCount
)

func (c conditionType) String() string {
	return [...]string{"DisksReady", "NetworkReady", "DomainReady"}[c]
}

const (
	isTrue    = "True"
	isFalse   = "False"
	isUnknown = "Unknown"
)

type condition struct {
	status, reason, message string
	since                   time.Time
}

// statusOf is the machine's status towards clients. Its lists follow the spec's order, so that an
// unchanged machine looks unchanged.
func statusOf(r *record, s seen) *api.MachineStatus {
	out := &api.MachineStatus{
		ObservedGeneration: s.generation,
		State:              state(r, s.have),
		ImageRef:           imageRef(r.Spec),
	}
	for _, v := range r.Spec.GetVolumes() {
		volume := &api.VolumeStatus{Name: v.GetName(), Handle: r.id() + "/" + v.GetName()}
		if s.have.defined {
			volume.State = api.VolumeState_VOLUME_ATTACHED
		}
		out.Volumes = append(out.Volumes, volume)
	}
	for _, nic := range r.Spec.GetNetworkInterfaces() {
		port, ok := r.port(nic.GetName())
		n := &api.NetworkInterfaceStatus{Name: nic.GetName(), Handle: port.Handle}
		if ok && s.have.defined {
			n.State = api.NetworkInterfaceState_NETWORK_INTERFACE_ATTACHED
		}
		out.NetworkInterfaces = append(out.NetworkInterfaces, n)
	}
	for i, c := range s.conditions {
		if c.status == "" {
			continue
		}
		out.MachineConditions = append(out.MachineConditions, &api.Conditions{
			Type: conditionType(i).String(), Status: c.status, Reason: c.reason, Message: c.message,
			LastTransitionTime: c.since.Unix(),
		})
	}
	return out
}

// state is what the machine does, in the five words that every client knows: one that is off by
// intent, or by its guest's will, is suspended.
func state(r *record, h have) api.MachineState {
	switch {
	case r.deleting():
		return api.MachineState_MACHINE_TERMINATING
	case h.active() && h.state == domain.Paused:
		return api.MachineState_MACHINE_PENDING
	case h.active():
		return api.MachineState_MACHINE_RUNNING
	case h.defined && (!r.wantsOn() || r.GuestOff):
		return api.MachineState_MACHINE_SUSPENDED
	default:
		return api.MachineState_MACHINE_PENDING
	}
}

// imageRef is the reference of the image that the machine boots.
func imageRef(spec *api.MachineSpec) string {
	for _, v := range spec.GetVolumes() {
		if ref := v.GetLocalDisk().GetImage().GetImage(); ref != "" {
			return ref
		}
	}
	return ""
}
