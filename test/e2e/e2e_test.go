package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ingot/iri/machine/accel"
	"ingot/test/lab"
	"ingot/test/lab/cloud"
	"ingot/test/need"
)

// limit bounds what one command of a script may take on a busy machine.
const limit = 3 * time.Minute

// fixture is what all stories share: binaries, the guest image, and how vCPUs run here.
type fixture struct{ bin, images, accelerator string }

func TestStories(t *testing.T) {
	need.Root(t)
	need.Commands(t, "libvirtd", "virsh", "qemu-system-x86_64", "/usr/lib/frr/bgpd", "ip")
	f := prepare(t)
	testscript.Run(t, testscript.Params{
		ContinueOnError: true,
		WorkdirRoot:     t.TempDir(),
		Files:           []string{"api.txtar", "faults.txtar", "story.txtar", "tenants.txtar"},
		Setup: func(env *testscript.Env) error {
			env.Values[worldKey{}] = &world{fixture: f, guests: map[string]lab.Guest{}, pings: map[string]*lab.GuestProcess{}}
			root, err := filepath.Abs("../..")
			env.Setenv("EXAMPLES", filepath.Join(root, "examples"))
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"cloud": cmdCloud, "ingot": cmdIngot, "fails": cmdFails, "guest": cmdGuest, "ping": cmdPing,
			"kill9": cmdKill, "restart": cmdRestart, "traces": cmdTraces, "drops": cmdDrops, "eventually": cmdEventually,
		},
	})
}

// prepare builds the binaries under test and the guest image.
func prepare(t *testing.T) fixture {
	f := fixture{bin: t.TempDir()}
	build := exec.Command("go", "build", "-o", f.bin+"/", "ingot/cmd/...")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var err error
	if f.images, err = filepath.Abs("../../bin/images"); err != nil {
		t.Fatal(err)
	}
	if _, err = lab.BuildGuestImage(f.images); err != nil {
		t.Fatal(err)
	}
	found, err := accel.Detect(t.Context(), accel.Config{})
	if err != nil {
		t.Fatal(err)
	}
	f.accelerator = string(found)
	return f
}

// A world is the cloud of one script.
type world struct {
	fixture
	cloud  *cloud.Cloud
	guests map[string]lab.Guest
	pings  map[string]*lab.GuestProcess
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// command gives a command of a script its time.
func command() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), limit)
}

// cmdCloud starts a cloud: "cloud 2" with two hosts, "cloud 0" with the control plane only.
func cmdCloud(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	hosts, err := strconv.Atoi(args[0])
	ts.Check(err)
	w.cloud, err = cloud.New(cloud.Config{Bin: w.bin, Images: w.images, Accelerator: w.accelerator,
		Fabric: lab.FabricConfig{Hosts: hosts, Dir: ts.MkAbs("lab")}})
	ts.Check(err)
	ts.Defer(func() { w.close(ts) })
	ctx, cancel := command()
	defer cancel()
	if hosts == 0 {
		ts.Check(w.cloud.StartControl(ctx))
		return
	}
	ts.Check(w.cloud.Start(ctx))
}

// close ends the cloud and shows the ends of its logs, which matter when the script failed.
func (w *world) close(ts *testscript.TestScript) {
	logs, _ := filepath.Glob(ts.MkAbs("lab/*/log/ingot-*.log"))
	for _, path := range logs {
		text, _ := os.ReadFile(path)
		ts.Logf("--- %s\n%s", path, tail(text, 30))
	}
	if err := w.cloud.Close(); err != nil {
		ts.Logf("close cloud: %v", err)
	}
}

func tail(text []byte, lines int) []byte {
	all := bytes.SplitAfter(text, []byte("\n"))
	return bytes.Join(all[max(0, len(all)-lines):], nil)
}

// run executes the command line and returns its exit code.
func (w *world) run(ts *testscript.TestScript, args []string) int {
	for i := 1; i < len(args); i++ {
		if args[i-1] == "-f" && args[i] != "-" {
			args[i] = ts.MkAbs(args[i])
		}
	}
	ctx, cancel := command()
	defer cancel()
	out, err := w.cloud.Ingot(ctx, args...)
	fmt.Fprint(ts.Stdout(), out)
	if err == nil {
		return 0
	}
	fmt.Fprintln(ts.Stderr(), err)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		ts.Fatalf("ingot: %v", err)
	}
	return exit.ExitCode()
}

// cmdIngot runs the command line as the administrator.
func cmdIngot(ts *testscript.TestScript, neg bool, args []string) {
	if code := worldOf(ts).run(ts, args); (code != 0) != neg {
		ts.Fatalf("ingot %s: exit code %d", strings.Join(args, " "), code)
	}
}

// cmdFails runs the command line and wants an exit code: "fails 4 get machine/x".
func cmdFails(ts *testscript.TestScript, _ bool, args []string) {
	if code := worldOf(ts).run(ts, args[1:]); strconv.Itoa(code) != args[0] {
		ts.Fatalf("ingot %s: exit code %d, want %s", strings.Join(args[1:], " "), code, args[0])
	}
}

// guest finds a machine: NAME, or PROJECT/NAME; project demo by default.
func (w *world) guest(ts *testscript.TestScript, name string) lab.Guest {
	if g, ok := w.guests[name]; ok {
		return g
	}
	project, machine, ok := strings.Cut(name, "/")
	if !ok {
		project, machine = "demo", name
	}
	ctx, cancel := command()
	defer cancel()
	g, err := w.cloud.Machine(ctx, project, machine)
	ts.Check(err)
	ts.Check(g.WaitReady(ctx))
	w.guests[name] = g
	return g
}

// cmdGuest runs a program on a machine: "guest left /bin/cat /etc/motd".
func cmdGuest(ts *testscript.TestScript, neg bool, args []string) {
	g := worldOf(ts).guest(ts, args[0])
	ctx, cancel := command()
	defer cancel()
	result, err := g.Exec(ctx, args[1:]...)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s", result.Stdout)
	fmt.Fprintf(ts.Stderr(), "%s", result.Stderr)
	if (result.ExitCode != 0) != neg {
		ts.Fatalf("guest %s: exit code %d", strings.Join(args, " "), result.ExitCode)
	}
}

// cmdPing counts by sequence numbers: "ping start left right 500 20ms" sends to right's IPv4 address, and
// later "ping wait left" prints how many of how many were answered; all must be.
func cmdPing(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	g := w.guest(ts, args[1])
	ctx, cancel := command()
	defer cancel()
	if args[0] == "start" {
		p, err := g.Start(ctx, "/bin/traffic", "ping", "-count", args[3], "-interval", args[4], w.address(ctx, ts, args[2]))
		ts.Check(err)
		w.pings[args[1]] = p
		return
	}
	result, err := w.pings[args[1]].Wait(ctx)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s", result.Stdout)
	if (result.ExitCode != 0) != neg {
		ts.Fatalf("ping from %s: %s%s", args[1], result.Stdout, result.Stderr)
	}
}

// address is the first IPv4 address of a machine.
func (w *world) address(ctx context.Context, ts *testscript.TestScript, name string) string {
	found, err := w.guest(ts, name).Addresses(ctx)
	ts.Check(err)
	for _, p := range found["eth0"] {
		if p.Addr().Is4() {
			return p.Addr().String()
		}
	}
	ts.Fatalf("machine %s has no IPv4 address: %v", name, found)
	return ""
}

// process names a part of the cloud: control, bgpd, agent/host-1, libvirtd/host-1.
func (w *world) process(ts *testscript.TestScript, name string) *lab.Process {
	what, host, _ := strings.Cut(name, "/")
	switch what {
	case "control":
		return w.cloud.Control
	case "bgpd":
		return w.cloud.Reflector.BGP
	}
	for _, h := range w.cloud.Hosts {
		if h.Name == host && what == "agent" {
			return h.Agent
		}
		if h.Name == host && what == "libvirtd" {
			return h.Libvirtd
		}
	}
	ts.Fatalf("no process %q", name)
	return nil
}

func cmdKill(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		worldOf(ts).process(ts, name).Kill()
	}
}

// cmdRestart starts again what was killed, or kills and starts it, and waits until it serves.
func cmdRestart(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	ctx, cancel := command()
	defer cancel()
	for _, name := range args {
		what, host, _ := strings.Cut(name, "/")
		if what == "bgpd" {
			ts.Check(w.cloud.Reflector.RestartBGP(ctx))
			continue
		}
		ts.Check(w.process(ts, name).Restart())
		switch what {
		case "control":
			ts.Check(w.cloud.WaitControl(ctx))
		case "agent":
			for _, h := range w.cloud.Hosts {
				if h.Name == host {
					ts.Check(w.cloud.WaitAgent(ctx, h))
				}
			}
		}
	}
}

// cmdTraces prints what the hosts hold of machines: domains, emulators, taps, pins and files. Two
// moments with the same machines have the same traces.
func cmdTraces(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	ctx, cancel := command()
	defer cancel()
	const look = `virsh -q -c qemu:///system list --all --name | sort
ip -o link | sed 's/@.*//; s/^[0-9]*: //; s/:.*//' | sort
pgrep -a qemu-system | sed 's/.*-name guest=\([^,]*\).*/emulator \1/' | sort
find /run/ingot/bpf /var/lib/ingot/machines /var/lib/ingot/dataplane | sort`
	for _, h := range w.cloud.Hosts {
		out, err := h.Exec(ctx, "sh", "-c", look)
		ts.Check(err)
		fmt.Fprintf(ts.Stdout(), "%s\n%s", h.Name, out)
	}
}

// cmdDrops prints a host's counters of dropped packets that are not zero.
func cmdDrops(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	ctx, cancel := command()
	defer cancel()
	for _, h := range w.cloud.Hosts {
		if h.Name != args[0] && args[0] != "all" {
			continue
		}
		text, err := h.Get(ctx, "/metrics")
		ts.Check(err)
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "ingot_port_drops_total") && !strings.HasSuffix(line, " 0\n") {
				fmt.Fprint(ts.Stdout(), line)
			}
		}
	}
}

// cmdEventually repeats a guest's command until it works: "eventually left /bin/traffic ...".
func cmdEventually(ts *testscript.TestScript, _ bool, args []string) {
	g := worldOf(ts).guest(ts, args[0])
	ctx, cancel := command()
	defer cancel()
	for {
		result, err := g.Exec(ctx, args[1:]...)
		if err == nil && result.ExitCode == 0 {
			fmt.Fprintf(ts.Stdout(), "%s", result.Stdout)
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("%s: %v %s%s", strings.Join(args, " "), err, result.Stdout, result.Stderr)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
