package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// private are the directories that every host has for itself, besides /proc, /sys and /run.
// The programs of several hosts find each their own state under the usual paths.
var private = []string{
	"/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt",
	"/etc/frr", "/var/lib/ingot", "/etc/ingot",
}

// A Host is one machine of the lab: network, mount, UTS and PID namespaces.
type Host struct {
	Name string
	// Dir holds the host's logs and private files; the path is the same inside and outside.
	Dir string
	// Address is the host's own underlay address.
	Address netip.Addr
	// Prefix is routed to the host by the fabric; Address is its first.
	Prefix netip.Prefix

	supervisor *exec.Cmd
	lifeline   io.WriteCloser
	pidfd      int

	mu        sync.Mutex // guards processes
	processes []*Process
}

// startHost starts a host without any link. n numbers its underlay prefix; shared folders are
// mounted where FabricConfig says.
func startHost(supervisor, dir, name string, n int, shared map[string]string) (*Host, error) {
	h := &Host{Name: name, Dir: filepath.Join(dir, name), Prefix: underlay(n), pidfd: -1}
	h.Address = h.Prefix.Addr().Next()
	args := []string{name}
	for _, target := range private {
		source := filepath.Join(h.Dir, "root", target)
		if err := os.MkdirAll(source, 0o755); err != nil {
			return nil, err
		}
		args = append(args, source+":"+target)
	}
	for target, source := range shared {
		args = append(args, source+":"+target)
	}
	if err := os.MkdirAll(h.logDir(), 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(h.logDir(), "supervisor.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(supervisor, args...)
	cmd.Stderr = log
	cmd.SysProcAttr = &unix.SysProcAttr{
		Setsid:     true, // Ctrl-C at a terminal reaches the lab only, which then ends its hosts
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWPID,
	}
	if h.lifeline, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	h.supervisor = cmd
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		return nil, errors.Join(fmt.Errorf("start %s: see %s", name, log.Name()), h.close())
	}
	if h.pidfd, err = unix.PidfdOpen(cmd.Process.Pid, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", name, err), h.close())
	}
	return h, nil
}

// Pid is the process that holds the host; `nsenter -t PID -a` enters it.
func (h *Host) Pid() int { return h.supervisor.Process.Pid }

// Path is the path outside of a file on the host, such as a socket under /run.
func (h *Host) Path(inside string) string {
	return filepath.Join("/proc", fmt.Sprint(h.Pid()), "root", inside)
}

// Do runs f on a thread inside the host's network namespace. Sockets and netlink handles that
// f opens stay there; goroutines that f starts do not.
func (h *Host) Do(f func() error) error { return h.in(unix.CLONE_NEWNET, f) }

// in runs f on a thread of its own that has entered the host's namespaces.
func (h *Host) in(namespaces int, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- h.enter(namespaces, f) }()
	return <-done
}

// enter is the body of a goroutine. It leaves its thread locked, so that the thread ends with the
// goroutine and never runs another inside the host.
func (h *Host) enter(namespaces int, f func() error) (err error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread cannot end and would keep the namespaces alive: while it waits here,
		// another goroutine gets another thread.
		defer runtime.UnlockOSThread()
		return h.in(namespaces, f)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("on %s: panic: %v", h.Name, p)
		}
	}()
	if namespaces&unix.CLONE_NEWNS != 0 {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare file system state: %w", err)
		}
	}
	if err := unix.Setns(h.pidfd, namespaces); err != nil {
		return fmt.Errorf("enter %s: %w", h.Name, err)
	}
	return f()
}

// netns opens the host's network namespace.
func (h *Host) netns() (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/%d/ns/net", h.Pid()))
}

// startIn starts cmd inside the host.
func (h *Host) startIn(cmd *exec.Cmd) error {
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	}
	all := unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWPID
	return h.in(all, cmd.Start)
}

// Exec runs a program on the host to its end and returns what it wrote to standard output. The
// error of a program that fails has what it wrote to standard error and wraps *exec.ExitError.
func (h *Host) Exec(ctx context.Context, name string, args ...string) ([]byte, error) {
	return h.ExecInput(ctx, nil, name, args...)
}

// ExecInput is Exec with standard input.
func (h *Host) ExecInput(ctx context.Context, stdin io.Reader, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := h.startIn(cmd); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", name, h.Name, err)
	}
	if err := cmd.Wait(); err != nil {
		said := strings.TrimSpace(stderr.String())
		return stdout.Bytes(), fmt.Errorf("%s on %s: %w: %s", name, h.Name, errors.Join(ctx.Err(), err), said)
	}
	return stdout.Bytes(), nil
}

// close ends the host and everything on it.
func (h *Host) close() error {
	h.lifeline.Close()
	h.mu.Lock()
	processes := h.processes
	h.processes = nil
	h.mu.Unlock()
	for _, p := range processes {
		p.Kill()
	}
	err := h.supervisor.Wait()
	if h.pidfd >= 0 {
		unix.Close(h.pidfd)
	}
	if err != nil {
		return fmt.Errorf("end %s: %w", h.Name, err)
	}
	return nil
}

// detach lets the host outlive the lab's process.
func (h *Host) detach() error {
	if _, err := io.WriteString(h.lifeline, "keep\n"); err != nil {
		return fmt.Errorf("keep %s: %w", h.Name, err)
	}
	return h.lifeline.Close()
}

func (h *Host) logDir() string { return filepath.Join(h.Dir, "log") }
