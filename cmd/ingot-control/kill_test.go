package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
)

// asMain makes the test binary behave as ingot-control.
const asMain = "INGOT_CONTROL_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// keepServing runs ingot-control serve as a process of its own, and again whenever it was killed,
// until the test ends. What it returns kills the process that runs now.
func keepServing(t *testing.T, dir, address string) (kill func()) {
	t.Helper()
	running, stop, stopped := make(chan *os.Process, 1), make(chan struct{}), make(chan struct{})
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "serve", "--dir", dir, "--listen", address, "--metrics", "")
		cmd.Env = append(os.Environ(), asMain+"=1")
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return nil
		}
		return cmd
	}
	go func() {
		defer close(stopped)
		for cmd := start(); cmd != nil; cmd = start() {
			running <- cmd.Process
			_ = cmd.Wait() // killed, which is what the test is about
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		for {
			select {
			case p := <-running:
				_ = p.Kill()
			case <-stopped:
				return
			}
		}
	})
	return func() { _ = (<-running).Kill() }
}

func freeAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

func TestKilledAtAnyMomentItLosesNothingAndMakesNothingTwice(t *testing.T) {
	dir, address := t.TempDir(), freeAddress(t)
	mustRun(t, "init", "--dir", dir, "--server", address)
	c, err := client.LoadContext(filepath.Join(dir, adminContext))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := client.Dial(c)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	kill := keepServing(t, dir, address)
	const n, kills = 300, 4
	uids := map[string]string{}
	deadline := time.Now().Add(2 * time.Minute)
	for i := range n {
		o, err := api.ToObject(&resource.Resource{
			Meta: resource.Meta{Key: resource.Key{Kind: api.Project, Name: fmt.Sprintf("p%03d", i)}}, Spec: &v1alpha1.ProjectSpec{},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if i%(n/kills) == n/kills/2 {
			go kill() // in the middle of this create, or of one of the next
		}
		for {
			made, err := conn.Create(t.Context(), &v1alpha1.CreateRequest{Object: o, RequestId: o.Metadata.Name}, grpc.WaitForReady(true))
			if err == nil {
				uids[made.Metadata.Name] = made.Metadata.Uid
				break
			}
			if !errors.Is(err, fault.Unavailable) || time.Now().After(deadline) {
				t.Fatalf("create %s: %v", o.Metadata.Name, err)
			}
		}
	}
	list, err := conn.List(t.Context(), &v1alpha1.ListRequest{Kind: "Project", Limit: 2 * n})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != n {
		t.Errorf("%d projects, want %d", len(list.Items), n)
	}
	for _, o := range list.Items {
		if uids[o.Metadata.Name] != o.Metadata.Uid {
			t.Errorf("%s has uid %s, was answered %s", o.Metadata.Name, o.Metadata.Uid, uids[o.Metadata.Name])
		}
	}
}
