package view

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
)

// A fakeServer is a control plane whose streams the test plays by hand.
type fakeServer struct {
	v1alpha1.UnimplementedHostServiceServer
	streams chan *fakeStream
}

type fakeStream struct {
	v1alpha1.HostService_SyncServer
	hello *v1alpha1.HostHello
	end   chan error
}

func (f *fakeServer) Sync(stream v1alpha1.HostService_SyncServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	s := &fakeStream{HostService_SyncServer: stream, hello: first.Hello, end: make(chan error, 1)}
	select {
	case f.streams <- s:
	case <-stream.Context().Done():
		return nil
	}
	select {
	case err := <-s.end:
		return err
	case <-stream.Context().Done():
		return nil
	}
}

type world struct {
	*Client
	server *fakeServer
	store  store.Store
}

func newWorld(t *testing.T) world {
	t.Helper()
	server := &fakeServer{streams: make(chan *fakeStream)}
	listener := bufconn.Listen(1 << 20)
	grpcServer := grpc.NewServer()
	v1alpha1.RegisterHostServiceServer(grpcServer, server)
	go func() { _ = grpcServer.Serve(listener) }()
	t.Cleanup(grpcServer.Stop)
	conn, err := grpc.NewClient("passthrough:///test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	st := mem.New(Schema(), mem.Config{})
	c := New(Config{Hosts: v1alpha1.NewHostServiceClient(conn), Store: st, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return world{c, server, st}
}

func object(t *testing.T, kind resource.Kind, project, name string, spec proto.Message) *v1alpha1.Object {
	t.Helper()
	packed, err := anypb.New(spec)
	if err != nil {
		t.Fatal(err)
	}
	// Uid and revision are those of the server's store.
	meta := &v1alpha1.ObjectMeta{Name: name, Namespace: project, Uid: "server-uid", ResourceVersion: 4711}
	return &v1alpha1.Object{Kind: string(kind), Metadata: meta, Spec: packed}
}

func hostMachine(t *testing.T, name string) *v1alpha1.Object {
	return object(t, api.HostMachine, "p", name, &v1alpha1.HostMachineSpec{Host: "h", Name: name, Uid: "uid-" + name})
}

// dump renders the copy, one object a line.
func (w world) dump(t *testing.T) string {
	t.Helper()
	var lines []string
	for _, kind := range Schema().Kinds() {
		page, err := w.store.List(t.Context(), store.Query{Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Items {
			line := r.Key.String()
			if r.Phase == resource.TearingDown {
				line += " ends"
			}
			if r.Annotations[OrphanAnnotation] != "" {
				line += " orphan"
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// send sends a message and waits until the client has taken it.
func (w world) send(t *testing.T, s *fakeStream, v *v1alpha1.HostView) {
	t.Helper()
	if err := s.Send(v); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); w.Status().Revision != v.Revision; {
		if time.Now().After(deadline) {
			t.Fatalf("client did not reach revision %d: %+v", v.Revision, w.Status())
		}
		<-time.After(time.Millisecond)
	}
}

func TestCopyFollowsTheView(t *testing.T) {
	w := newWorld(t)
	s := <-w.server.streams
	if s.hello.Revision != 0 {
		t.Errorf("a new process resumes at %d, want everything", s.hello.Revision)
	}
	w.send(t, s, &v1alpha1.HostView{Revision: 5, Epoch: "e", Reset_: true, Upserts: []*v1alpha1.Object{
		hostMachine(t, "a"), hostMachine(t, "b"),
		object(t, api.HostInterface, "p", "i", &v1alpha1.HostInterfaceSpec{Host: "h", Uid: "i"}),
		object(t, api.MachineClass, "", "small", &v1alpha1.MachineClassSpec{}),
	}})
	ending := hostMachine(t, "a")
	ending.Metadata.Terminating = true
	w.send(t, s, &v1alpha1.HostView{Revision: 6, Epoch: "e", Upserts: []*v1alpha1.Object{ending},
		Deletes: []*v1alpha1.ObjectRef{{Kind: string(api.HostInterface), Namespace: "p", Name: "i"}}})
	want := "HostMachine/p/a ends\nHostMachine/p/b\nMachineClass/small"
	if diff := cmp.Diff(want, w.dump(t)); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}
	s.end <- fmt.Errorf("server restarts")
	s = <-w.server.streams
	if s.hello.Revision != 6 || s.hello.Epoch != "e" {
		t.Errorf("resumes at %q %d, want e 6", s.hello.Epoch, s.hello.Revision)
	}
}

func TestViewThatForgetsAMachineDoesNotEndIt(t *testing.T) {
	w := newWorld(t)
	s := <-w.server.streams
	w.send(t, s, &v1alpha1.HostView{Revision: 5, Epoch: "e", Reset_: true, Upserts: []*v1alpha1.Object{hostMachine(t, "a"),
		object(t, api.MachineClass, "", "small", &v1alpha1.MachineClassSpec{})}})
	w.send(t, s, &v1alpha1.HostView{Revision: 1, Epoch: "other", Reset_: true})
	if diff := cmp.Diff("HostMachine/p/a orphan", w.dump(t)); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}
	if n, err := w.Orphans(t.Context()); n != 1 || err != nil {
		t.Errorf("counts %d orphans, %v", n, err)
	}
	w.send(t, s, &v1alpha1.HostView{Revision: 2, Epoch: "other", Upserts: []*v1alpha1.Object{hostMachine(t, "a")}})
	if diff := cmp.Diff("HostMachine/p/a", w.dump(t)); diff != "" {
		t.Errorf("a machine that is listed again is no orphan (-want +got):\n%s", diff)
	}
}

func TestViewInSeveralMessagesIsSweptAtItsEnd(t *testing.T) {
	w := newWorld(t)
	s := <-w.server.streams
	if err := s.Send(&v1alpha1.HostView{Reset_: true, Upserts: []*v1alpha1.Object{hostMachine(t, "a")}}); err != nil {
		t.Fatal(err)
	}
	w.send(t, s, &v1alpha1.HostView{Revision: 5, Reset_: true, Upserts: []*v1alpha1.Object{hostMachine(t, "b")}})
	if diff := cmp.Diff("HostMachine/p/a\nHostMachine/p/b", w.dump(t)); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}
}

func TestReportsAreSentUntilAcknowledged(t *testing.T) {
	w := newWorld(t)
	s := <-w.server.streams
	running := &v1alpha1.MachineReport{Uid: "u", Status: &v1alpha1.MachineStatus{State: "Running"}}
	w.ReportMachine(running)
	w.ReportEvents(&v1alpha1.EventSpec{Reason: "Started"})
	got := receive(t, s, func(r *v1alpha1.HostReport) bool { return len(r.Events) > 0 })
	if got == 0 || w.Status().Pending == 0 {
		t.Fatalf("sequence %d, pending %d", got, w.Status().Pending)
	}
	s.end <- fmt.Errorf("lost before it was stored")
	s = <-w.server.streams
	again := receive(t, s, func(r *v1alpha1.HostReport) bool { return len(r.Events) > 0 && len(r.Machines) > 0 })
	w.send(t, s, &v1alpha1.HostView{Revision: 9, Acknowledged: again})
	if n := w.Status().Pending; n != 0 {
		t.Errorf("%d reports pending after all were acknowledged", n)
	}
	w.ReportMachine(proto.Clone(running).(*v1alpha1.MachineReport))
	if n := w.Status().Pending; n != 0 {
		t.Error("an unchanged report is sent again")
	}
}

// receive reads reports until one is wanted and returns its sequence.
func receive(t *testing.T, s *fakeStream, wanted func(*v1alpha1.HostReport) bool) uint64 {
	t.Helper()
	for {
		r, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if wanted(r) {
			return r.Sequence
		}
	}
}

func TestEventsOfALongAbsenceAreBounded(t *testing.T) {
	c := New(Config{Log: slog.New(slog.DiscardHandler)})
	for i := range 3 * maxEvents {
		c.ReportEvents(&v1alpha1.EventSpec{Message: fmt.Sprint(i)})
	}
	next := 2 * maxEvents
	for next < 3*maxEvents {
		r := c.out.take()
		if r == nil || len(r.Events) == 0 || len(r.Events) > eventsPerReport || r.Events[0].Message != fmt.Sprint(next) {
			t.Fatalf("got %v, want at most %d events from %d on", r, eventsPerReport, next)
		}
		next += len(r.Events)
		if next == 3*maxEvents {
			c.ReportEvents(&v1alpha1.EventSpec{Message: "one more"})
			c.out.acknowledge(r.Sequence)
		}
	}
	if r := c.out.take(); r == nil || len(r.Events) != 1 || r.Events[0].Message != "one more" {
		t.Errorf("got %v, want the event after those acknowledged", r)
	}
}

func TestReportOfAGoneMachineIsForgottenOnceStored(t *testing.T) {
	c := New(Config{Log: slog.New(slog.DiscardHandler)})
	c.ReportMachine(&v1alpha1.MachineReport{Uid: "u", Gone: true})
	c.out.acknowledge(c.out.take().Sequence)
	c.out.reconnect()
	if r := c.out.take(); r != nil {
		t.Errorf("sends %v again", r)
	}
}

func deletion(uid string) *v1alpha1.ObjectRef {
	return &v1alpha1.ObjectRef{Kind: string(api.HostMachine), Namespace: "p", Name: "a", Uid: uid}
}

// TestMachineThatComesBackIsMadeAnew: a host that refused a machine is asked again, and hears of both
// in one message.
func TestMachineThatComesBackIsMadeAnew(t *testing.T) {
	w := newWorld(t)
	s := <-w.server.streams
	w.send(t, s, &v1alpha1.HostView{Revision: 5, Epoch: "e", Reset_: true, Upserts: []*v1alpha1.Object{hostMachine(t, "a")}})
	again := hostMachine(t, "a")
	again.Metadata.Uid = "second-uid"
	both := &v1alpha1.HostView{Revision: 7, Epoch: "e", Upserts: []*v1alpha1.Object{again},
		Deletes: []*v1alpha1.ObjectRef{deletion("server-uid")}}
	if err := s.Send(both); err != nil {
		t.Fatal(err)
	}
	s = <-w.server.streams
	if s.hello.Revision != 5 {
		t.Errorf("resumes at %d, want 5: what comes back was not kept", s.hello.Revision)
	}
	if diff := cmp.Diff("HostMachine/p/a ends", w.dump(t)); diff != "" {
		t.Errorf("before the host let go (-want +got):\n%s", diff)
	}
	key := resource.Key{Kind: api.HostMachine, Project: "p", Name: "a"}
	_, err := w.store.Txn(t.Context(), store.Txn{Writer: Writer, Ops: []store.Op{
		{Type: store.RemoveFinalizer, Resource: &resource.Resource{Meta: resource.Meta{Key: key}}, Finalizer: Finalizer}}})
	if err != nil {
		t.Fatal(err)
	}
	w.send(t, s, both)
	if diff := cmp.Diff("HostMachine/p/a", w.dump(t)); diff != "" {
		t.Errorf("after the host let go (-want +got):\n%s", diff)
	}
	both.Revision = 8
	w.send(t, s, both)
	if diff := cmp.Diff("HostMachine/p/a", w.dump(t)); diff != "" {
		t.Errorf("a deletion that is told twice ended the successor (-want +got):\n%s", diff)
	}
}

func TestInterfaceThatIsMadeAnewStays(t *testing.T) {
	w := newWorld(t)
	s := <-w.server.streams
	w.send(t, s, &v1alpha1.HostView{Revision: 5, Epoch: "e", Reset_: true, Upserts: []*v1alpha1.Object{
		object(t, api.HostInterface, "p", "i", &v1alpha1.HostInterfaceSpec{Uid: "i", Vni: 1})}})
	again := object(t, api.HostInterface, "p", "i", &v1alpha1.HostInterfaceSpec{Uid: "i", Vni: 2})
	again.Metadata.Uid = "second-uid"
	w.send(t, s, &v1alpha1.HostView{Revision: 7, Epoch: "e", Upserts: []*v1alpha1.Object{again},
		Deletes: []*v1alpha1.ObjectRef{{Kind: string(api.HostInterface), Namespace: "p", Name: "i", Uid: "server-uid"}}})
	if diff := cmp.Diff("HostInterface/p/i", w.dump(t)); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}
}
