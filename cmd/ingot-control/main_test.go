package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/controlplane"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/runtime/fault"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := root()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(t, args...)
	if err != nil {
		t.Fatalf("ingot-control %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func TestInitIsRepeatable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "control")
	if out := mustRun(t, "init", "--dir", dir, "--listen-name", "control.example"); !strings.Contains(out, "wrote "+dir+"/admin.context") {
		t.Errorf("first init says %q", out)
	}
	file := filepath.Join(dir, adminContext)
	first, err := client.LoadContext(file)
	if err != nil {
		t.Fatal(err)
	}
	if first.Server != "control.example:7443" {
		t.Errorf("server is %q", first.Server)
	}
	if out := mustRun(t, "init", "--dir", dir, "--listen-name", "control.example"); out != dir+" is complete; nothing changed\n" {
		t.Errorf("second init says %q", out)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if out := mustRun(t, "init", "--dir", dir, "--server", "10.0.0.1:99"); out != "wrote "+file+"\n" {
		t.Errorf("init of a half-done directory says %q", out)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("context has mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, "init", "--dir", dir); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("init over a damaged context: %v", err)
	}
}

func TestServeNeedsADirectoryOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	missing := controlplane.Run(t.Context(), log, controlplane.Config{Dir: filepath.Join(dir, "none"), Listen: "127.0.0.1:0"})
	if !errors.Is(missing, fault.Precondition) || !strings.Contains(missing.Error(), "run ingot-control init") {
		t.Errorf("serve without init: %v", missing)
	}
	mustRun(t, "init", "--dir", dir)
	ctx, stop := context.WithCancel(t.Context())
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- controlplane.Run(ctx, log, controlplane.Config{Dir: dir, Listen: "127.0.0.1:0", Ready: func(a net.Addr) { ready <- a }})
	}()
	var address string
	select {
	case a := <-ready:
		address = a.String()
	case err := <-done:
		t.Fatal(err)
	}
	second := controlplane.Run(t.Context(), log, controlplane.Config{Dir: dir, Listen: "127.0.0.1:0"})
	if !errors.Is(second, fault.Unavailable) || !strings.Contains(second.Error(), "another ingot-control uses it") {
		t.Errorf("serve twice: %v", second)
	}
	mustRun(t, "init", "--dir", dir, "--server", address)
	t.Run("a token lets a host join", func(t *testing.T) {
		token := strings.TrimSpace(mustRun(t, "token", "create", "--dir", dir, "--host", "h1"))
		key, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		joined, err := client.Join(t.Context(), address, token, key)
		if err != nil || joined.Name != "h1" {
			t.Errorf("joined as %v, %v", joined, err)
		}
		if _, err := run(t, "token", "create", "--dir", dir, "--host", "H 1"); err == nil || !strings.Contains(err.Error(), "spec.host") {
			t.Errorf("token for a bad name: %v", err)
		}
	})
	t.Run("a member sees the own project", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "alice")
		mustRun(t, "user", "create", "--dir", dir, "--name", "alice", "--project", "shop", "-o", file)
		if _, err := run(t, "user", "create", "--dir", dir, "--name", "alice", "-o", file); err == nil {
			t.Error("a context was overwritten")
		}
		c, err := client.LoadContext(file)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := client.Dial(c)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.List(t.Context(), &v1alpha1.ListRequest{Kind: "Machine", Namespace: "shop"}); err != nil {
			t.Error(err)
		}
		if _, err := conn.List(t.Context(), &v1alpha1.ListRequest{Kind: "Machine", Namespace: "other"}); !errors.Is(err, fault.Denied) {
			t.Errorf("list of another project: %v", err)
		}
	})
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("the server does not stop")
	}
}
