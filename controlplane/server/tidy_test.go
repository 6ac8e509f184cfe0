package server

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
)

func newServer(t *testing.T) *Server {
	t.Helper()
	keys, _, err := pki.Init(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), Deps{
		Store: mem.New(api.Schema(), mem.Config{}), Keys: keys, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.grpc.Stop)
	return s
}

func (s *Server) add(t *testing.T, writer string, kind resource.Kind, project, name string, spec proto.Message) *resource.Resource {
	t.Helper()
	r := &resource.Resource{Meta: resource.Meta{Key: resource.Key{Kind: kind, Project: project, Name: name}}, Spec: spec}
	res, err := s.store.Txn(t.Context(), store.Txn{Writer: writer, Ops: []store.Op{{Resource: r}}})
	if err != nil {
		t.Fatal(err)
	}
	return res.Resources[0]
}

func TestTidyRemovesWhatIsOfNoMoreUse(t *testing.T) {
	s := newServer(t)
	now := time.Now()
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	m := s.add(t, "", api.Machine, "p", "kept", &v1alpha1.MachineSpec{})
	s.add(t, "", api.Machine, "p", "again", &v1alpha1.MachineSpec{})
	s.add(t, "", api.MachinePool, "", "kept", &v1alpha1.MachinePoolSpec{})
	s.add(t, "", api.JoinToken, "", "kept", &v1alpha1.JoinTokenSpec{Expires: ago(time.Hour)})
	s.add(t, "", api.JoinToken, "", "old", &v1alpha1.JoinTokenSpec{Expires: ago(25 * time.Hour)})
	for _, name := range []string{"kept", "lost"} {
		s.add(t, "host/h1", api.MachineStatus, "p", name, &v1alpha1.MachineStatus{MachineUid: m.UID})
		s.add(t, "host/h1", api.MachinePoolStatus, "", name, &v1alpha1.MachinePoolStatus{})
		s.add(t, presenceWriter, api.MachinePoolPresence, "", name, &v1alpha1.MachinePoolPresenceSpec{})
		s.add(t, joinWriter, api.JoinTokenStatus, "", name, &v1alpha1.JoinTokenStatus{})
	}
	s.add(t, "host/h1", api.MachineStatus, "p", "again", &v1alpha1.MachineStatus{MachineUid: "before"})
	s.add(t, "host/h1", api.Event, "p", "kept", &v1alpha1.EventSpec{LastTimestamp: ago(59 * time.Minute)})
	s.add(t, "host/h2", api.Event, "p", "old", &v1alpha1.EventSpec{LastTimestamp: ago(61 * time.Minute)})
	s.add(t, "", api.Request, "", "kept", &v1alpha1.RequestSpec{})
	if err := s.tidyOnce(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	want := map[resource.Kind][]string{
		api.Machine: {"again", "kept"}, api.MachinePool: {"kept"}, api.JoinToken: {"kept"}, api.MachineStatus: {"kept"},
		api.MachinePoolStatus: {"kept"}, api.MachinePoolPresence: {"kept"}, api.JoinTokenStatus: {"kept"}, api.Event: {"kept"},
		api.Request: {"kept"}, api.ServerState: {"server"},
	}
	got := map[resource.Kind][]string{}
	for _, info := range api.Kinds() {
		page, err := s.store.List(t.Context(), store.Query{Kind: info.Kind})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Items {
			got[r.Kind] = append(got[r.Kind], r.Name)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what is left (-want +got):\n%s", d)
	}
	if err := s.tidyOnce(t.Context(), now.Add(2*requestLife)); err != nil {
		t.Fatal(err)
	}
	if page, _ := s.store.List(t.Context(), store.Query{Kind: api.Request}); len(page.Items) != 0 {
		t.Error("a request is remembered for ever")
	}
}

func TestAHostThatIsNotHeardOfIsOffline(t *testing.T) {
	s := newServer(t)
	s.add(t, "", api.MachinePool, "", "h1", &v1alpha1.MachinePoolSpec{})
	state := func() string {
		r, err := s.store.Get(t.Context(), resource.Key{Kind: api.MachinePoolPresence, Name: "h1"})
		if err != nil {
			return "unknown"
		}
		return resource.Spec[*v1alpha1.MachinePoolPresenceSpec](r).State
	}
	heard := map[string]time.Time{}
	note := func(start time.Time) string {
		if err := s.notePresence(t.Context(), heard, start); err != nil {
			t.Fatal(err)
		}
		return state()
	}
	now := time.Now()
	session, err := s.hosts.begin(t.Context(), "h1", func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{note(now)}
	s.hosts.end(session)
	got = append(got, note(now.Add(-time.Hour))) // heard of a moment ago
	heard["h1"] = now.Add(-time.Minute)
	got = append(got, note(now))
	delete(heard, "h1")
	got = append(got, note(now)) // the server was just started: it does not know better yet
	if d := cmp.Diff([]string{"Online", "Online", "Offline", "Offline"}, got); d != "" {
		t.Errorf("states (-want +got):\n%s", d)
	}
}
