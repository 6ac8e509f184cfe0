package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// hostWriter is the owner of what a host reports.
func hostWriter(host string) string { return "host/" + host }

// keep stores a report and returns the parts of it that the host had no right to. Storing it twice
// changes nothing, but counts its events twice.
func (l *hostLink) keep(ctx context.Context, report *v1alpha1.HostReport) ([]*v1alpha1.RejectedReport, error) {
	if report.Hello != nil || report.Pool != nil { // a user may have deleted it since
		if err := l.keepPool(ctx, l.hello); err != nil {
			return nil, fmt.Errorf("register pool %s: %w", l.host, err)
		}
		if err := l.setPresence(ctx, l.host, "Online"); err != nil {
			return nil, fmt.Errorf("note presence of %s: %w", l.host, err)
		}
	}
	if report.Pool != nil {
		status := proto.CloneOf(report.Pool)
		if status.AgentVersion == "" {
			status.AgentVersion = l.hello.AgentVersion
		}
		key := resource.Key{Kind: api.MachinePoolStatus, Name: l.host}
		if err := l.put(ctx, hostWriter(l.host), key, status); err != nil {
			return nil, err
		}
	}
	var rejected []*v1alpha1.RejectedReport
	for _, m := range report.Machines {
		why, err := l.keepMachine(ctx, m)
		if err != nil {
			return nil, err
		}
		if why != "" {
			l.log.Warn("machine report rejected", "host", l.host, "machine", m.Namespace+"/"+m.Name, "uid", m.Uid, "why", why)
			rejected = append(rejected, &v1alpha1.RejectedReport{Namespace: m.Namespace, Name: m.Name, Uid: m.Uid, Message: why})
		}
	}
	return rejected, l.keepEvents(ctx, report.Events)
}

// keepPool makes the host's MachinePool when there is none; one that is there keeps its labels and
// taints, and gets the provider id when it has none.
func (l *hostLink) keepPool(ctx context.Context, hello *v1alpha1.HostHello) error {
	key := resource.Key{Kind: api.MachinePool, Name: l.host}
	return retry(ctx, true, func() error {
		pool, err := l.store.Get(ctx, key)
		op := store.Op{Type: store.Create, Resource: &resource.Resource{
			Meta: resource.Meta{Key: key}, Spec: &v1alpha1.MachinePoolSpec{ProviderId: hello.ProviderId},
		}}
		switch {
		case err == nil && (resource.Spec[*v1alpha1.MachinePoolSpec](pool).ProviderId != "" || hello.ProviderId == "" || pool.Phase != resource.Running):
			return nil
		case err == nil:
			named := pool.Clone()
			resource.Spec[*v1alpha1.MachinePoolSpec](named).ProviderId = hello.ProviderId
			op = store.Op{Type: store.Update, Resource: named}
		case !errors.Is(err, fault.NotFound):
			return err
		}
		_, err = l.store.Txn(ctx, store.Txn{Ops: []store.Op{op}})
		return asRace(err)
	})
}

// keepMachine stores what the host says about one machine; why tells that it may not.
func (l *hostLink) keepMachine(ctx context.Context, m *v1alpha1.MachineReport) (why string, err error) {
	if why, err = l.mayReport(ctx, m.Namespace, m.Name, m.Uid); why != "" || err != nil {
		return why, err
	}
	status := &v1alpha1.MachineStatus{State: "Pending"}
	if m.Status != nil {
		status = proto.CloneOf(m.Status)
	}
	status.MachineUid, status.Gone = m.Uid, m.Gone
	status.MachinePoolRef = &v1alpha1.LocalRef{Name: l.host}
	key := resource.Key{Kind: api.MachineStatus, Project: m.Namespace, Name: m.Name}
	if m.Refused != "" {
		l.refuse(ctx, key, status, m.Refused)
	}
	return "", l.put(ctx, hostWriter(l.host), key, status)
}

// mayReport says why the host may not speak of a machine; "" when it may: the scheduler has placed
// this very machine on it, or the host was told of it and has not yet said that it is gone.
func (s *hostLink) mayReport(ctx context.Context, project, name, uid string) (string, error) {
	told, err := s.store.List(ctx, store.Query{Kind: api.HostMachine, Project: project, Index: api.ByUID, Value: uid})
	if err != nil {
		return "", err
	}
	for _, r := range told.Items {
		if m := resource.Spec[*v1alpha1.HostMachineSpec](r); m.Host == s.host && m.Name == name {
			return "", nil
		}
	}
	r, err := s.store.Get(ctx, resource.Key{Kind: api.MachinePlacement, Project: project, Name: name})
	if errors.Is(err, fault.NotFound) {
		return fmt.Sprintf("machine %s/%s is not placed", project, name), nil
	}
	if err != nil {
		return "", err
	}
	switch place := resource.Spec[*v1alpha1.MachinePlacementSpec](r); {
	case place.Pool != s.host:
		return fmt.Sprintf("machine %s/%s is not placed on host %s", project, name, s.host), nil
	case uid == "" || place.MachineUid != uid:
		return fmt.Sprintf("machine %s/%s is another one than %q", project, name, uid), nil
	}
	return "", nil
}

// refuse notes in status, as condition Admitted, that the host cannot take the machine. Refusing
// again for the same reason changes nothing.
func (l *hostLink) refuse(ctx context.Context, key resource.Key, status *v1alpha1.MachineStatus, message string) {
	c := &v1alpha1.Condition{Type: "Admitted", Status: "False", Reason: "Refused", Message: message, LastTransitionTime: timestamppb.Now()}
	if old, err := l.store.Get(ctx, key); err == nil {
		for _, was := range resource.Spec[*v1alpha1.MachineStatus](old).Conditions {
			if was.Type == c.Type && was.Status == c.Status && was.Message == message {
				c.LastTransitionTime = was.LastTransitionTime
			}
		}
	}
	status.Conditions = slices.DeleteFunc(status.Conditions, func(have *v1alpha1.Condition) bool { return have.Type == c.Type })
	status.Conditions = append(status.Conditions, c)
}

// put stores spec at key as writer, taking the place of what another host has left there.
func (s *Server) put(ctx context.Context, writer string, key resource.Key, spec proto.Message) error {
	return retry(ctx, true, func() error {
		old, err := s.store.Get(ctx, key)
		if err != nil && !errors.Is(err, fault.NotFound) {
			return err
		}
		if err == nil && old.Owner != writer {
			if err := s.remove(ctx, old); err != nil {
				return err
			}
			old = nil
		}
		op := store.Op{Type: store.Create, Resource: &resource.Resource{Meta: resource.Meta{Key: key}, Spec: spec}}
		if err == nil && old != nil {
			if proto.Equal(old.Spec, spec) {
				return nil
			}
			next := *old
			next.Spec = spec
			op = store.Op{Type: store.Update, Resource: &next, UID: old.UID}
		}
		_, err = s.store.Txn(ctx, store.Txn{Writer: writer, Ops: []store.Op{op}})
		return asRace(err)
	})
}

// remove deletes r in the name of its owner; that it is gone is success.
func (s *Server) remove(ctx context.Context, r *resource.Resource) error {
	_, err := s.store.Txn(ctx, store.Txn{Writer: r.Owner, Ops: []store.Op{{Type: store.Delete, Resource: r, UID: r.UID}}})
	if errors.Is(err, fault.NotFound) || errors.Is(err, fault.Conflict) {
		return nil
	}
	return err
}

// asRace makes a lost race for a key one that retry tries again.
func asRace(err error) error {
	if errors.Is(err, fault.Exists) || errors.Is(err, fault.NotFound) {
		return fmt.Errorf("%w: %w", fault.Conflict, err)
	}
	return err
}

// presenceWriter owns MachinePoolPresence.
const presenceWriter = "presence"

// setPresence notes whether a host is heard of; nothing is written when that was known.
func (s *Server) setPresence(ctx context.Context, host, state string) error {
	key := resource.Key{Kind: api.MachinePoolPresence, Name: host}
	if old, err := s.store.Get(ctx, key); err == nil && resource.Spec[*v1alpha1.MachinePoolPresenceSpec](old).State == state {
		return nil
	}
	return s.put(ctx, presenceWriter, key, &v1alpha1.MachinePoolPresenceSpec{State: state, Since: timestamppb.New(time.Now())})
}
