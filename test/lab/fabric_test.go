package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/test/need"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestHostsReachEachOtherOverTheSpine(t *testing.T) {
	f := ForTest(t, FabricConfig{Hosts: 3})
	var listener net.Listener
	err := f.Hosts[2].Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(f.Hosts[2].Address.String(), "7"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			fmt.Fprint(conn, conn.RemoteAddr().(*net.TCPAddr).IP)
			conn.Close()
		}
	}()
	var seen []byte
	err = f.Hosts[0].Do(func() error {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), time.Minute)
		if err != nil {
			return err
		}
		defer conn.Close()
		seen, err = io.ReadAll(conn)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(seen), f.Hosts[0].Address.String(); got != want {
		t.Errorf("host-3 saw %s, want %s", got, want)
	}
}

func TestHostHasItsOwnNameAndDirectories(t *testing.T) {
	f := ForTest(t, FabricConfig{Hosts: 1})
	ctx := testContext(t)
	out, err := f.Hosts[0].Exec(ctx, "sh", "-c", "hostname; ls -A /run /var/lib/ingot; ls /sys/class/net; echo x > /var/lib/ingot/mark")
	if err != nil {
		t.Fatal(err)
	}
	if want := "host-1 /run: lock /var/lib/ingot: lo uplink"; strings.Join(strings.Fields(string(out)), " ") != want {
		t.Errorf("host shows %q, want %q", out, want)
	}
	if _, err := os.Stat(f.Hosts[0].Path("/var/lib/ingot/mark")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/var/lib/ingot/mark"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file written on a host shows outside: %v", err)
	}
	_, err = f.Hosts[0].Exec(ctx, "sh", "-c", "echo why >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "exit status 3: why") {
		t.Errorf("error of a failing program is %v", err)
	}
}

func TestProcessIsKilledRestartedAndEndsWithItsHost(t *testing.T) {
	f := ForTest(t, FabricConfig{Hosts: 1})
	p, err := f.Hosts[0].Start(Program{Name: "sleeper", Args: []string{"sh", "-c", "echo up; (sleep 1000 & echo child $!); exec sleep 1000"}})
	if err != nil {
		t.Fatal(err)
	}
	first := p.Pid()
	waitFor(t, func() bool { return strings.Contains(readFile(t, p.Log), "child") })
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	if p.Pid() == first || !p.Running() {
		t.Errorf("restart left pid %d (was %d), running %t", p.Pid(), first, p.Running())
	}
	waitFor(t, func() bool { return strings.Count(readFile(t, p.Log), "child") == 2 })
	holder := fmt.Sprintf("/proc/%d/ns/net", f.Hosts[0].Pid())
	namespace, err := os.Readlink(holder)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(processesIn(t, namespace)); got < 4 {
		t.Fatalf("%d processes run on the host, want the supervisor, the program and two orphans", got)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if left := processesIn(t, namespace); len(left) > 0 {
		t.Errorf("processes %v outlive their host", left)
	}
	f.Spine, f.Hosts = nil, nil
}

// processesIn lists the processes of a network namespace.
func processesIn(t *testing.T, namespace string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, e := range entries {
		if link, err := os.Readlink("/proc/" + e.Name() + "/ns/net"); err == nil && link == namespace {
			pids = append(pids, e.Name())
		}
	}
	return pids
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// waitFor polls until ok holds.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("condition does not hold after a minute")
		case <-tick.C:
		}
	}
}

func TestUplinksHaveTheMTUAndSegmentationAskedFor(t *testing.T) {
	f := ForTest(t, FabricConfig{Hosts: 1, MTU: 1600, WireSized: true})
	ctx := testContext(t)
	need.Commands(t, "ip", "ethtool")
	for _, tc := range []struct {
		host   *Host
		device string
	}{{f.Spine, "host-1"}, {f.Hosts[0], Uplink}} {
		link, err := tc.host.Exec(ctx, "ip", "-d", "link", "show", tc.device)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(link), "mtu 1600") {
			t.Errorf("%s: no MTU 1600 in %s", tc.device, link)
		}
		features, err := tc.host.Exec(ctx, "ethtool", "-k", tc.device)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"tx-tcp-segmentation: off", "tx-tcp6-segmentation: off", "generic-segmentation-offload: off"} {
			if !strings.Contains(string(features), want) {
				t.Errorf("%s: no %q in %s", tc.device, want, features)
			}
		}
	}
}

func TestDetachedLabEndsWithItsHolders(t *testing.T) {
	f := ForTest(t, FabricConfig{Hosts: 1})
	p, err := f.Hosts[0].Start(Program{Name: "sleeper", Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Detach(); err != nil {
		t.Fatal(err)
	}
	if !p.Running() {
		t.Fatal("program ended when the lab was detached")
	}
	for _, pid := range f.Pids() {
		if err := unix.Kill(pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() bool { return !p.Running() })
	if err := os.RemoveAll(f.Dir); err != nil { // it is the detacher's from then on
		t.Error(err)
	}
}

// TestMain plays the program that makes a lab and is killed.
func TestMain(m *testing.M) {
	if os.Getenv("LAB_TO_BE_KILLED") == "" {
		os.Exit(m.Run())
	}
	f, err := NewFabric(FabricConfig{Hosts: 1, Dir: os.Getenv("LAB_TO_BE_KILLED")})
	if err == nil {
		_, err = f.Hosts[0].Start(Program{Name: "sleeper", Args: []string{"sleep", "1000"}})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(f.Pids())
	forever := make(chan os.Signal, 1)
	signal.Notify(forever, unix.SIGTERM) // which nobody sends
	<-forever
}

func TestHostsEndWhenTheirLabIsKilled(t *testing.T) {
	need.Root(t)
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), "LAB_TO_BE_KILLED="+t.TempDir())
	stdout, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var spine, host int
	if _, err := fmt.Sscanf(line, "[%d %d]", &spine, &host); err != nil {
		t.Fatalf("the lab said %q: %v", line, err)
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", host))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(processesIn(t, namespace)); got != 2 {
		t.Errorf("%d processes run on the host, want supervisor and sleeper", got)
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	owner.Wait() // killed, as asked
	waitFor(t, func() bool { return len(processesIn(t, namespace)) == 0 })
}
