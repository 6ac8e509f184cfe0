package server

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	kresource "k8s.io/apimachinery/pkg/api/resource"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
)

// parts are the companions of one object, by kind.
type parts map[resource.Kind]*resource.Resource

// part is the companion's spec as T; nil when there is none.
func part[T proto.Message](p parts, kind resource.Kind) T {
	var none T
	if r := p[kind]; r != nil {
		return resource.Spec[T](r)
	}
	return none
}

// object shows r to users, joined with its companions.
func (s *Server) object(ctx context.Context, info api.Info, r *resource.Resource) (*v1alpha1.Object, error) {
	p := parts{}
	for _, kind := range info.Companions {
		c, err := s.store.Get(ctx, resource.Key{Kind: kind, Project: r.Project, Name: r.Name})
		if err == nil {
			p[kind] = c
		} else if !errors.Is(err, fault.NotFound) {
			return nil, fmt.Errorf("read %s: %w", r.Key, err)
		}
	}
	return api.ToObject(r, statusOf(info, r, p))
}

// redacted is object without the bytes of secrets, for everything but Get.
func (s *Server) redacted(ctx context.Context, info api.Info, r *resource.Resource) (*v1alpha1.Object, error) {
	return s.object(ctx, info, withoutData(r))
}

// withoutData is r without the bytes when it is a secret; the names of its keys stay.
func withoutData(r *resource.Resource) *resource.Resource {
	if r.Kind != api.Secret {
		return r
	}
	secret := resource.Spec[*v1alpha1.SecretSpec](r)
	names := make(map[string][]byte, len(secret.Data))
	for key := range secret.Data {
		names[key] = nil
	}
	c := *r
	c.Spec = &v1alpha1.SecretSpec{Type: secret.Type, Data: names}
	return &c
}

// statusOf joins what controllers and hosts observed; nil for kinds without status.
func statusOf(info api.Info, r *resource.Resource, p parts) proto.Message {
	if info.Status == nil {
		return nil
	}
	switch info.Kind {
	case api.Machine:
		return machineStatus(r, p)
	case api.MachinePool:
		return poolStatus(p)
	}
	if c := p[info.Companions[0]]; c != nil {
		return c.Spec
	}
	status := info.Status()
	setPending(status)
	return status
}

// setPending is the state of what no controller has looked at.
func setPending(status proto.Message) {
	m := status.ProtoReflect()
	for _, name := range []protoreflect.Name{"state", "phase"} {
		if fd := m.Descriptor().Fields().ByName(name); fd != nil {
			m.Set(fd, protoreflect.ValueOfString("Pending"))
		}
	}
}

// machineStatus joins host, scheduler and host view. Companions of a predecessor with the same
// name, and what a host says that the machine is no longer placed on, do not count.
func machineStatus(r *resource.Resource, p parts) *v1alpha1.MachineStatus {
	status := &v1alpha1.MachineStatus{State: "Pending"}
	host := part[*v1alpha1.MachineStatus](p, api.MachineStatus)
	place := part[*v1alpha1.MachinePlacementSpec](p, api.MachinePlacement)
	placed := place != nil && place.MachineUid == r.UID
	if host != nil && host.MachineUid == r.UID && !(placed && place.Pool != host.GetMachinePoolRef().GetName()) {
		status = proto.CloneOf(host)
		status.MachineUid, status.Gone = "", false
	}
	if placed {
		status.MachinePoolRef = nil
		if place.Pool != "" {
			status.MachinePoolRef = &v1alpha1.LocalRef{Name: place.Pool}
		}
		status.Conditions = addConditions(status.Conditions, place.Conditions)
	}
	if progress := part[*v1alpha1.MachineProgressSpec](p, api.MachineProgress); progress != nil && progress.MachineUid == r.UID {
		status.Conditions = addConditions(status.Conditions, progress.Conditions)
	}
	if r.Phase == resource.TearingDown && status.State != "Terminated" {
		status.State = "Terminating"
	}
	return status
}

// addConditions adds those of more whose type is not there yet.
func addConditions(have, more []*v1alpha1.Condition) []*v1alpha1.Condition {
	types := map[string]bool{}
	for _, c := range have {
		types[c.Type] = true
	}
	for _, c := range more {
		if !types[c.Type] {
			have = append(have, c)
		}
	}
	return have
}

// poolStatus joins the host's own report with whether the host is heard of, and takes what the
// scheduler has given away off what is allocatable.
func poolStatus(p parts) *v1alpha1.MachinePoolStatus {
	status := &v1alpha1.MachinePoolStatus{State: "Pending"}
	if host := part[*v1alpha1.MachinePoolStatus](p, api.MachinePoolStatus); host != nil {
		status = proto.CloneOf(host)
	}
	if presence := part[*v1alpha1.MachinePoolPresenceSpec](p, api.MachinePoolPresence); presence.GetState() == "Offline" {
		status.State = "Offline"
		// What the host said of itself last is not known to hold any more.
		status.Conditions = []*v1alpha1.Condition{{Type: "Ready", Status: "Unknown", Reason: "HostAway",
			Message: "nothing is heard of the host's agent; its machines may well run", LastTransitionTime: presence.GetSince()}}
	}
	if usage := part[*v1alpha1.MachinePoolUsageSpec](p, api.MachinePoolUsage); usage != nil && len(status.Capacity) > 0 {
		status.Allocatable = subtract(status.Capacity, usage.Used)
	}
	return status
}

// subtract takes quantities off quantities, never below zero.
func subtract(from, used map[string]string) map[string]string {
	left := make(map[string]string, len(from))
	for name, text := range from {
		left[name] = text
		q, err := kresource.ParseQuantity(text)
		if err != nil {
			continue
		}
		if u, err := kresource.ParseQuantity(used[name]); err == nil {
			q.Sub(u)
		}
		if q.Sign() < 0 {
			q = kresource.Quantity{Format: q.Format}
		}
		left[name] = q.String()
	}
	return left
}
