// Command supervisor is process 1 of one host of a lab. It is started in new network, mount, UTS
// and PID namespaces, gives the host its own name and its own private directories, reaps what is
// orphaned, and ends when its standard input closes. The kernel then ends every process of the
// host, so a lab leaves nothing behind however its parent died.
//
//	supervisor HOSTNAME [SOURCE:TARGET]...
//
// Each pair binds SOURCE over TARGET. "ready" on standard output says that the host stands. A line
// "keep" on standard input makes the host outlive its parent, until SIGTERM.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "supervisor:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 || os.Getpid() != 1 {
		return fmt.Errorf("must be process 1 of a PID namespace and be given a host name")
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM)
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, unix.SIGCHLD)

	if err := unix.Sethostname([]byte(args[0])); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := mountPrivate(args[1:]); err != nil {
		return err
	}
	parentGone := make(chan struct{})
	go watchParent(parentGone)
	fmt.Println("ready")
	for {
		select {
		case <-orphans:
			reap()
		case <-ended:
			return nil
		case <-parentGone:
			return nil
		}
	}
}

// mountPrivate hides the machine's /proc, /sys and /run behind the host's own and binds pairs.
func mountPrivate(pairs []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct{ kind, target, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"tmpfs", "/run", "mode=0755"},
	} {
		if err := unix.Mount("lab", m.target, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	// Debian's /var/lock leads here; libvirtd locks a console in it before it hands it out.
	if err := os.Mkdir("/run/lock", 0o755); err != nil {
		return err
	}
	for _, pair := range pairs {
		source, target, ok := strings.Cut(pair, ":")
		if !ok {
			return fmt.Errorf("bind %q: want SOURCE:TARGET", pair)
		}
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s over %s: %w", source, target, err)
		}
	}
	return nil
}

// watchParent closes gone at the end of standard input, unless it was told to keep the host.
func watchParent(gone chan<- struct{}) {
	keep := false
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		keep = keep || lines.Text() == "keep"
	}
	if !keep {
		close(gone)
	}
}

// reap takes the exit states of orphans, so that whoever waits for their pids to vanish goes on.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 || err != nil {
			return
		}
	}
}
