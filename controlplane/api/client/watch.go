package client

import (
	"context"

	"ingot/controlplane/api/v1alpha1"
)

// A Change is what a Watcher delivers: one or more objects at a revision.
type Change struct {
	Revision uint64
	// Reset says that Events are the whole present state: forget what is not among them.
	Reset  bool
	Events []*v1alpha1.WatchEvent
}

// A Watcher receives changes of one kind. When its stream ends, Watch again from Revision.
type Watcher struct {
	stream interface {
		Recv() (*v1alpha1.WatchResponse, error)
	}
	revision uint64
}

// WatchObjects starts a watch; ctx ends it.
func (c *Client) WatchObjects(ctx context.Context, req *v1alpha1.WatchRequest) (*Watcher, error) {
	s, err := c.Watch(ctx, req)
	if err != nil {
		return nil, err
	}
	return &Watcher{stream: s, revision: req.Revision}, nil
}

// Revision is where a next watch resumes.
func (w *Watcher) Revision() uint64 { return w.revision }

// Next blocks for the next whole change, joining the messages of a large one. A change without
// events says that the stream is alive and complete up to its revision.
func (w *Watcher) Next() (Change, error) {
	var change Change
	for {
		m, err := w.stream.Recv()
		if err != nil {
			return Change{}, err
		}
		change.Reset = change.Reset || m.GetReset_()
		change.Events = append(change.Events, m.Events...)
		if m.Revision != 0 {
			change.Revision, w.revision = m.Revision, m.Revision
			return change, nil
		}
	}
}
