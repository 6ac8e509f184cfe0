package server

import (
	"context"
	"errors"
	"io"
	"sync"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/group"
	"ingot/runtime/store"
)

// hostService is HostService.
type hostService struct {
	v1alpha1.UnimplementedHostServiceServer
	*Server
}

// Renew implements HostService.
func (s hostService) Renew(ctx context.Context, req *v1alpha1.RenewRequest) (*v1alpha1.JoinResponse, error) {
	name, err := host(ctx)
	if err != nil {
		return nil, err
	}
	s.log.Info("host certificate renewed", "host", name)
	return s.certify(name, req.Csr)
}

// Sync implements HostService: it sends the host's view and its changes, and stores its reports in
// order. Each report is acknowledged once all of it is stored.
func (s hostService) Sync(stream v1alpha1.HostService_SyncServer) error {
	name, err := host(stream.Context())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.Hello == nil {
		return fault.Fields{{Path: "hello", Detail: "required in the first report of a stream"}}
	}
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	session, err := s.hosts.begin(ctx, name, end)
	if err != nil {
		return err
	}
	s.metrics.hosts.Inc()
	defer s.metrics.hosts.Dec()
	s.log.Info("host connected", "host", name, "agent", first.Hello.AgentVersion)
	link := &hostLink{Server: s.Server, host: name, hello: first.Hello, stream: stream}
	defer link.close()
	go func() {
		defer s.hosts.end(session)
		err := group.Call(func() error { return link.receive(ctx, first) })
		if panicked := (*group.Panic)(nil); errors.As(err, &panicked) {
			s.metrics.panics.Inc()
			s.log.Error("host report panicked", "host", name, "err", err)
		}
		end(err)
	}()
	err = link.send(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.log.Info("host disconnected", "host", name, "err", err)
	return err
}

// hosts are the hosts with an open stream. The zero value is empty.
type hosts struct {
	mu       sync.Mutex // guards sessions
	sessions map[string]*session
}

// A session is one stream of a host. Done is closed when no report of it is worked on any more.
type session struct {
	host string
	end  context.CancelCauseFunc
	done chan struct{}
}

// begin registers a stream, after the one before it has ended: reports are stored in the order in
// which the host made them.
func (h *hosts) begin(ctx context.Context, host string, end context.CancelCauseFunc) (*session, error) {
	n := &session{host: host, end: end, done: make(chan struct{})}
	h.mu.Lock()
	if h.sessions == nil {
		h.sessions = map[string]*session{}
	}
	old := h.sessions[host]
	h.sessions[host] = n
	h.mu.Unlock()
	if old == nil {
		return n, nil
	}
	old.end(because("Replaced", "a newer stream of host %s took over: %w", host, fault.Conflict))
	select {
	case <-old.done:
		return n, nil
	case <-ctx.Done():
		go func() { // whoever waits for this one waits for the one before it
			<-old.done
			h.end(n)
		}()
		return nil, context.Cause(ctx)
	}
}

func (h *hosts) end(n *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[n.host] == n {
		delete(h.sessions, n.host)
	}
	close(n.done)
}

// connected reports whether the host has an open stream.
func (h *hosts) connected(host string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[host] != nil
}

// hostLink is one stream.
type hostLink struct {
	*Server
	host   string
	hello  *v1alpha1.HostHello
	stream v1alpha1.HostService_SyncServer

	mu     sync.Mutex // guards sending on stream, and closed
	closed bool       // the handler has returned: the stream must not be sent on any more
}

func (l *hostLink) tell(m *v1alpha1.HostView) error {
	m.Epoch = l.epoch
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return io.ErrClosedPipe
	}
	return l.stream.Send(m)
}

func (l *hostLink) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// send follows the host's view until ctx ends.
func (l *hostLink) send(ctx context.Context) error {
	from := l.hello.Revision
	if l.hello.Epoch != l.epoch {
		from = 0
	}
	queries := []store.Query{
		{Kind: api.HostMachine, Index: api.ByHost, Value: l.host},
		{Kind: api.HostInterface, Index: api.ByHost, Value: l.host},
		{Kind: api.MachineClass},
	}
	return l.follow(ctx, from, queries, func(b store.Batch) error {
		var upserts []*v1alpha1.Object
		var deletes []*v1alpha1.ObjectRef
		for _, e := range b.Events {
			r := e.Resource
			if e.Deleted {
				deletes = append(deletes, &v1alpha1.ObjectRef{Kind: string(r.Kind), Namespace: r.Project, Name: r.Name, Uid: r.UID})
				continue
			}
			o, err := api.ToObject(r, nil)
			if err != nil {
				return err
			}
			upserts = append(upserts, o)
		}
		// Deletions go first: what is deleted and made anew under its name is an upsert after them.
		return chunks(upserts, func(part []*v1alpha1.Object, last bool) error {
			m := &v1alpha1.HostView{Reset_: b.Reset, Upserts: part, Deletes: deletes}
			deletes = nil
			if last {
				m.Revision = b.Revision
			}
			return l.tell(m)
		})
	})
}

// receive stores reports until the stream ends. The error says why it ended.
func (l *hostLink) receive(ctx context.Context, report *v1alpha1.HostReport) error {
	for {
		rejected, err := l.keep(ctx, report)
		if err != nil {
			return err
		}
		l.metrics.reports.Inc()
		l.metrics.rejected.Add(float64(len(rejected)))
		if report.Sequence != 0 {
			if err := l.tell(&v1alpha1.HostView{Acknowledged: report.Sequence, Rejected: rejected}); err != nil {
				return err
			}
		}
		if report, err = l.stream.Recv(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
