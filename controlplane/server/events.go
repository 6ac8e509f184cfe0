package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

const (
	// eventLife is how long an event is kept after it was last seen.
	eventLife = time.Hour
	// eventsPerObject bounds what is kept about one object; the oldest goes first.
	eventsPerObject = 50
	// eventsPerReport bounds what is taken from one report of a host.
	eventsPerReport = 64
	maxReason       = 64   // bytes
	maxMessage      = 1024 // bytes
)

// keepEvents stores the events of a report that speak of objects of the host; the others are
// dropped, and so are those beyond the bound.
func (l *hostLink) keepEvents(ctx context.Context, events []*v1alpha1.EventSpec) error {
	for _, e := range events[:min(len(events), eventsPerReport)] {
		ok, err := l.owns(ctx, e.GetInvolvedObject())
		if err != nil {
			return err
		}
		if !ok {
			l.log.Warn("event rejected", "host", l.host, "object", e.GetInvolvedObject().String(), "reason", e.Reason)
			l.metrics.rejected.Inc()
			continue
		}
		if err := l.keepEvent(ctx, hostWriter(l.host), e); err != nil {
			return err
		}
	}
	return nil
}

// owns reports whether an object is a machine on the host, or an interface of one.
func (l *hostLink) owns(ctx context.Context, o *v1alpha1.ObjectRef) (bool, error) {
	switch resource.Kind(o.GetKind()) {
	case api.Machine:
		why, err := l.mayReport(ctx, o.Namespace, o.Name, o.Uid)
		return why == "", err
	case api.NetworkInterface:
		page, err := l.store.List(ctx, store.Query{Kind: api.HostInterface, Index: api.ByUID, Value: o.Uid})
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(page.Items, func(r *resource.Resource) bool {
			spec := resource.Spec[*v1alpha1.HostInterfaceSpec](r)
			return spec.Host == l.host && spec.Namespace == o.Namespace && spec.Name == o.Name
		}), nil
	}
	return false, nil
}

// keepEvent stores an event, or counts it when it is there.
func (s *Server) keepEvent(ctx context.Context, writer string, seen *v1alpha1.EventSpec) error {
	e := proto.CloneOf(seen)
	e.Source, e.Reason, e.Message = writer, clip(e.Reason, maxReason), clip(e.Message, maxMessage)
	e.Count = max(e.Count, 1)
	if e.Type != "Warning" {
		e.Type = "Normal"
	}
	if now := time.Now(); e.LastTimestamp == nil || e.LastTimestamp.AsTime().After(now) {
		e.LastTimestamp = timestamppb.New(now)
	}
	if e.FirstTimestamp == nil || e.FirstTimestamp.AsTime().After(e.LastTimestamp.AsTime()) {
		e.FirstTimestamp = e.LastTimestamp
	}
	key := resource.Key{Kind: api.Event, Project: e.InvolvedObject.Namespace, Name: eventName(e)}
	old, err := s.store.Get(ctx, key)
	switch {
	case errors.Is(err, fault.NotFound):
		if err := s.makeRoom(ctx, e.InvolvedObject.Uid); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		was := resource.Spec[*v1alpha1.EventSpec](old)
		e.Count += was.Count
		e.FirstTimestamp = was.FirstTimestamp
		if e.LastTimestamp.AsTime().Before(was.LastTimestamp.AsTime()) {
			e.LastTimestamp = was.LastTimestamp
		}
	}
	return s.put(ctx, writer, key, e)
}

// eventName is the same for repeats of an event, whatever host or project it comes from.
func eventName(e *v1alpha1.EventSpec) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{e.InvolvedObject.Uid, e.Source, e.Reason, e.Message}, "\x00")))
	return hex.EncodeToString(sum[:12])
}

// makeRoom deletes the oldest events of an object until one more may be stored.
func (s *Server) makeRoom(ctx context.Context, uid string) error {
	page, err := s.store.List(ctx, store.Query{Kind: api.Event, Index: api.ByInvolved, Value: uid})
	if err != nil || len(page.Items) < eventsPerObject {
		return err
	}
	slices.SortFunc(page.Items, func(a, b *resource.Resource) int { return cmp.Compare(lastSeen(a), lastSeen(b)) })
	for _, r := range page.Items[:len(page.Items)-eventsPerObject+1] {
		if err := s.remove(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// lastSeen is Unix nanoseconds.
func lastSeen(r *resource.Resource) int64 {
	return resource.Spec[*v1alpha1.EventSpec](r).LastTimestamp.AsTime().UnixNano()
}

// clip shortens text to at most n bytes of valid UTF-8.
func clip(text string, n int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
