package server

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/labels"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Watch implements ResourceService. A client that is slow gets the newest state of each object; a
// change of what an object's status is made of sends the object.
func (s resources) Watch(req *v1alpha1.WatchRequest, stream v1alpha1.ResourceService_WatchServer) error {
	ctx := stream.Context()
	info, err := s.readable(ctx, req.Kind, req.Namespace, req.Name)
	if err != nil {
		return err
	}
	if err := checkSelector("labelSelector", req.LabelSelector); err != nil {
		return err
	}
	s.metrics.watches.Inc()
	defer s.metrics.watches.Dec()
	q := store.Query{Kind: info.Kind, Project: req.Namespace, Name: req.Name}
	queries := []store.Query{q}
	for _, kind := range info.Companions {
		q.Kind = kind
		queries = append(queries, q)
	}
	w := &userWatch{Server: s.Server, info: info, selector: req.LabelSelector, resumed: req.Revision != 0, sent: map[string]bool{}}
	return s.follow(ctx, req.Revision, queries, func(b store.Batch) error {
		events, err := w.events(ctx, b)
		if err != nil {
			return err
		}
		return chunks(events, func(part []*v1alpha1.WatchEvent, last bool) error {
			m := &v1alpha1.WatchResponse{Reset_: b.Reset, Events: part}
			if last {
				m.Revision = b.Revision
			}
			return stream.Send(m)
		})
	})
}

// follow calls fn with the batches of a watch, and with an empty one (a bookmark) when nothing
// happened for a while, until ctx ends. A revision that the store never had starts anew.
func (s *Server) follow(ctx context.Context, from uint64, queries []store.Query, fn func(store.Batch) error) error {
	if from > s.store.Revision() {
		from = 0
	}
	w, err := s.store.Watch(ctx, from, queries...)
	if err != nil {
		return err
	}
	defer w.Close()
	told := from
	for {
		quiet, cancel := context.WithTimeout(ctx, s.cfg.Bookmark)
		batch, err := w.Next(quiet)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			if batch.Revision = w.Revision(); batch.Revision == told {
				continue
			}
		} else if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if err := fn(batch); err != nil {
			return err
		}
		told = batch.Revision
	}
}

const (
	// chunkBytes and chunkLen bound a message of a stream.
	chunkBytes = 1 << 20
	chunkLen   = 1000
)

// chunks calls send with parts of items that fit into a message; at least once.
func chunks[T proto.Message](items []T, send func(part []T, last bool) error) error {
	start, size := 0, 0
	for i, item := range items {
		n := proto.Size(item)
		if i > start && (size+n > chunkBytes || i-start == chunkLen) {
			if err := send(items[start:i], false); err != nil {
				return err
			}
			start, size = i, 0
		}
		size += n
	}
	return send(items[start:], true)
}

// userWatch turns batches of the store into events of joined objects.
type userWatch struct {
	*Server
	info     api.Info
	selector *v1alpha1.LabelSelector
	// resumed says that the client may know objects that were not sent here.
	resumed bool
	// sent are the uids that the client knows from here; kept only for selectors.
	sent map[string]bool
}

func (w *userWatch) events(ctx context.Context, b store.Batch) ([]*v1alpha1.WatchEvent, error) {
	if b.Reset {
		w.resumed = false
		clear(w.sent)
	}
	var events []*v1alpha1.WatchEvent
	seen := map[resource.Key]bool{}
	for _, e := range b.Events {
		if e.Resource.Kind == w.info.Kind {
			seen[e.Resource.Key] = true
		}
	}
	for _, e := range b.Events {
		if e.Resource.Kind != w.info.Kind {
			key := e.Resource.Key
			key.Kind = w.info.Kind
			if b.Reset || seen[key] {
				continue // joined when the object itself is sent
			}
			seen[key] = true
			r, err := w.store.Get(ctx, key)
			if errors.Is(err, fault.NotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			e = store.Event{Resource: r}
		}
		event, err := w.event(ctx, e)
		if err != nil {
			return nil, err
		}
		if event != nil {
			events = append(events, event)
		}
	}
	return events, nil
}

// event is what the client is told; nil for nothing. What leaves the selection is told as deleted.
func (w *userWatch) event(ctx context.Context, e store.Event) (*v1alpha1.WatchEvent, error) {
	r := e.Resource
	selective := len(w.selector.GetMatchLabels())+len(w.selector.GetMatchExpressions()) > 0
	if !e.Deleted && labels.Matches(w.selector, r.Labels) {
		if selective {
			w.sent[r.UID] = true
		}
		o, err := w.redacted(ctx, w.info, r)
		return &v1alpha1.WatchEvent{Object: o}, err
	}
	if selective && !w.resumed && !w.sent[r.UID] {
		return nil, nil
	}
	delete(w.sent, r.UID)
	o, err := api.ToObject(withoutData(r), nil)
	return &v1alpha1.WatchEvent{Object: o, Deleted: true}, err
}
