package cli

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"ingot/controlplane"
	"ingot/controlplane/api/client"
	"ingot/controlplane/pki"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"ingot": func() { os.Exit(Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the command line against a control plane of its own for each script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:             "testdata",
		ContinueOnError: true,
		WorkdirRoot:     t.TempDir(),
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("XDG_CONFIG_HOME", "")
			return startControlPlane(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": cmdCode},
	})
}

// cmdCode wants a program's exit code: "code 4 ingot get machine/x".
func cmdCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := err.(interface{ ExitCode() int }); ok {
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s (%v)", code, args[0], err)
	}
}

// startControlPlane serves from env's work directory and leaves admin.context there.
func startControlPlane(env *testscript.Env) error {
	dir := filepath.Join(env.WorkDir, "control")
	keys, _, err := pki.Init(dir, []string{"127.0.0.1"})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- controlplane.Run(ctx, slog.New(slog.DiscardHandler), controlplane.Config{
			Dir: dir, Listen: "127.0.0.1:0", Ready: func(a net.Addr) { ready <- a }})
	}()
	env.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			env.T().Log("control plane: ", err)
		}
	})
	select {
	case err := <-done:
		done <- err
		return err
	case address := <-ready:
		return adminContext(keys, address.String(), filepath.Join(env.WorkDir, "admin.context"))
	}
}

func adminContext(keys *pki.Dir, server, path string) error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	certificate, err := keys.Authority.Issue(pki.Identity{Role: pki.Admin, Name: "admin"}, key.Public(), pki.UserLife)
	if err != nil {
		return err
	}
	pem, err := pki.EncodeKey(key)
	if err != nil {
		return err
	}
	c := client.Context{Name: "admin", Server: server, CertificateAuthority: string(keys.Authority.PEM()),
		Certificate: string(certificate), Key: string(pem)}
	return c.Save(path)
}
