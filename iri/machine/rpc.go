package machine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	eventapi "github.com/ironcore-dev/ironcore/iri/apis/event/v1alpha1"
	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	meta "github.com/ironcore-dev/ironcore/iri/apis/meta/v1alpha1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"ingot/iri/machine/image"
	"ingot/runtime/fault"
)

// runtimeName is the first half of the machine ids that IronCore's poollet reports.
const runtimeName = "ingot"

// nameLabel carries the machine's name at the orchestrator, for people.
const nameLabel = "machinepoollet.ironcore.dev/machine-name"

// Version implements the call that clients make first.
func (s *Server) Version(context.Context, *api.VersionRequest) (*api.VersionResponse, error) {
	return &api.VersionResponse{RuntimeName: runtimeName, RuntimeVersion: s.cfg.Version}, nil
}

// Status answers the classes with how many machines of each the host holds in all.
func (s *Server) Status(context.Context, *api.StatusRequest) (*api.StatusResponse, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := &api.StatusResponse{}
	for _, c := range s.classes {
		out.MachineClassStatus = append(out.MachineClassStatus, &api.MachineClassStatus{
			MachineClass: &api.MachineClass{
				Name: c.Name, Capabilities: &api.MachineClassCapabilities{Resources: c.Capabilities},
			},
			Quantity: s.capacity.quantity(c),
		})
	}
	return out, nil
}

// ListMachines answers from memory, oldest first.
func (s *Server) ListMachines(_ context.Context, req *api.ListMachinesRequest) (*api.ListMachinesResponse, error) {
	f := req.GetFilter()
	return &api.ListMachinesResponse{Machines: s.views(f.GetId(), f.GetLabelSelector())}, nil
}

// views are the machines that match; an empty id and an empty selector match all.
func (s *Server) views(id string, selector map[string]string) []*api.Machine {
	var out []*api.Machine
	for _, e := range s.candidates(id, selector) {
		if m := e.view.Load(); m != nil && matches(selector, m.Metadata.Labels) {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *api.Machine) int {
		if d := a.Metadata.CreatedAt - b.Metadata.CreatedAt; d != 0 {
			return int(max(-1, min(1, d)))
		}
		return strings.Compare(a.Metadata.Id, b.Metadata.Id)
	})
	return out
}

// candidates narrows by what is indexed.
func (s *Server) candidates(id string, selector map[string]string) []*entry {
	uid := selector[UIDLabel]
	if id == "" && uid == "" {
		return s.snapshot()
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.entries[id]
	if id == "" {
		e = s.byUID[uid]
	}
	if e == nil {
		return nil
	}
	return []*entry{e}
}

// matches compares values literally: an empty one matches an empty or missing one, never any.
func matches(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// ListEvents answers from memory.
func (s *Server) ListEvents(_ context.Context, req *api.ListEventsRequest) (*api.ListEventsResponse, error) {
	f := req.GetFilter()
	var out []*eventapi.Event
	for _, e := range s.candidates(f.GetId(), f.GetLabelSelector()) {
		if m := e.view.Load(); m != nil && matches(f.GetLabelSelector(), m.Metadata.Labels) {
			out = append(out, listEvents(m, *e.events.Load(), f.GetEventsFromTime(), f.GetEventsToTime())...)
		}
	}
	slices.SortStableFunc(out, func(a, b *eventapi.Event) int {
		return int(max(-1, min(1, a.Spec.EventTime-b.Spec.EventTime)))
	})
	return &api.ListEventsResponse{Events: out}, nil
}

// UpdateMachineAnnotations replaces all annotations. They are the client's own notes, so the
// generation stays.
func (s *Server) UpdateMachineAnnotations(_ context.Context, req *api.UpdateMachineAnnotationsRequest) (*api.UpdateMachineAnnotationsResponse, error) {
	e := s.entry(req.GetMachineId())
	if e == nil {
		return nil, notFound(req.GetMachineId())
	}
	err := e.change(func(r *record) bool {
		m := proto.CloneOf(r.Metadata)
		m.Annotations = req.GetAnnotations()
		r.Metadata = m
		return true
	})
	return &api.UpdateMachineAnnotationsResponse{}, toStatus(err)
}

// UpdateMachinePower writes the intent down and leaves the rest to the reconciler. Power that is
// told anew starts a machine whose guest switched itself off.
func (s *Server) UpdateMachinePower(_ context.Context, req *api.UpdateMachinePowerRequest) (*api.UpdateMachinePowerResponse, error) {
	if _, ok := api.Power_name[int32(req.GetPower())]; !ok {
		return nil, status.Errorf(codes.InvalidArgument, "power: %d is neither on nor off", req.GetPower())
	}
	e := s.entry(req.GetMachineId())
	if e == nil {
		return nil, notFound(req.GetMachineId())
	}
	err := e.change(func(r *record) bool {
		r.GuestOff = false
		if r.Spec.GetPower() == req.GetPower() {
			return true
		}
		r.Spec, r.Metadata = proto.CloneOf(r.Spec), proto.CloneOf(r.Metadata)
		r.Spec.Power = req.GetPower()
		r.Metadata.Generation++
		return true
	})
	if err != nil {
		return nil, toStatus(err)
	}
	e.note(func(sn *seen) { sn.crashes, sn.notBefore = 0, time.Time{} })
	e.preempt()
	return &api.UpdateMachinePowerResponse{}, nil
}

// DeleteMachine begins the deletion; repeated, it reads one word of memory until the machine is
// gone and then answers NotFound.
func (s *Server) DeleteMachine(_ context.Context, req *api.DeleteMachineRequest) (*api.DeleteMachineResponse, error) {
	e := s.entry(req.GetMachineId())
	if e == nil {
		return nil, notFound(req.GetMachineId())
	}
	m := e.view.Load()
	switch {
	case m == nil:
		return nil, notFound(req.GetMachineId())
	case m.Metadata.DeletedAt != 0:
		return &api.DeleteMachineResponse{}, nil
	}
	err := e.change(func(r *record) bool {
		if r.deleting() {
			return false
		}
		r.Metadata = proto.CloneOf(r.Metadata)
		r.Metadata.DeletedAt = time.Now().UnixNano()
		return true
	})
	if err != nil {
		return nil, toStatus(err)
	}
	e.preempt()
	return &api.DeleteMachineResponse{}, nil
}

func notFound(id string) error {
	return status.Errorf(codes.NotFound, "machine %s: not found", id)
}

// statusCodes maps the classes of error to what IRI clients understand.
var statusCodes = []struct {
	class error
	code  codes.Code
}{
	{fault.NotFound, codes.NotFound},
	{fault.Exists, codes.AlreadyExists},
	{fault.Invalid, codes.InvalidArgument},
	{fault.Conflict, codes.FailedPrecondition},
	{fault.Precondition, codes.FailedPrecondition},
	{fault.Denied, codes.FailedPrecondition},
	{fault.Unsupported, codes.Unimplemented},
	{fault.Exhausted, codes.ResourceExhausted},
	{fault.Unavailable, codes.Unavailable},
}

func toStatus(err error) error {
	if err == nil {
		return nil
	}
	for _, c := range statusCodes {
		if errors.Is(err, c.class) {
			return status.Error(c.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}

func isPull(err error) bool {
	var pull *image.PullError
	return errors.As(err, &pull)
}

// newMetadata is the client's labels and annotations with what the server adds.
func newMetadata(id string, given *meta.ObjectMetadata) *meta.ObjectMetadata {
	return &meta.ObjectMetadata{
		Id: id, Labels: given.GetLabels(), Annotations: given.GetAnnotations(),
		Generation: 1, CreatedAt: time.Now().UnixNano(),
	}
}
