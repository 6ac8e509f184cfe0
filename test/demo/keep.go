package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pidsFile lists the processes that hold a demo, the spine's first, each with the time it started,
// so that a pid used anew is not taken for it.
const pidsFile = "pids"

// claim makes the demo's folder, if no demo lives there.
func claim(dir string) error {
	held, err := holders(dir)
	if err != nil {
		return err
	}
	if len(held) > 0 {
		return fmt.Errorf("a demo is up in %s: end it with `bin/demo stop`", dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// hold writes pidsFile: from then on the folder is taken, and the demo can be stopped.
func (s *story) hold() error {
	var text strings.Builder
	for _, pid := range s.cloud.Fabric.Pids() {
		start, err := startTime(pid)
		if err != nil {
			return err
		}
		fmt.Fprintln(&text, pid, start)
	}
	return os.WriteFile(filepath.Join(s.cfg.dir, pidsFile), []byte(text.String()), 0o644)
}

// leave lets everything run on and tells how to look around and how to end it.
func (s *story) leave(ctx context.Context, out io.Writer) error {
	if _, err := s.cloud.Ingot(ctx, "context", "set-project", project); err != nil {
		return err
	}
	if err := s.cloud.Fabric.Detach(); err != nil {
		return err
	}
	pids := s.cloud.Fabric.Pids()
	bin, err := filepath.Abs(s.cfg.bin)
	if err != nil {
		return err
	}
	enter := func(pid int) string { return fmt.Sprintf("nsenter -t %d -m -u -n -p --wd=%s", pid, s.cfg.dir) }
	fmt.Fprintf(out, `
Everything is left running. To look around:

  alias ingot='nsenter -t %d -m -u -n -p --wd="$PWD" %s/ingot --context %s'
  ingot get machines -o wide
  ingot describe machine left
  ingot get networkinterfaces,prefixes,networkpolicies
  ingot events

  %s vtysh -c 'show bgp l2vpn evpn'
`, pids[0], bin, s.cloud.AdminContext(), enter(pids[0]))
	for i, host := range s.cloud.Hosts {
		fmt.Fprintf(out, "  %s bash   # a shell on %s\n", enter(pids[i+1]), host.Name)
	}
	for _, m := range []machine{s.left, s.right} {
		fmt.Fprintf(out, "  %s virsh console %s   # %s; leave with ^]\n", enter(m.Host.Pid()), m.Domain, m.name)
	}
	fmt.Fprintf(out, "\nLogs are in %s/*/log. To end it all:\n\n  %s/demo stop\n", s.cfg.dir, bin)
	return nil
}

// stop ends the demo in dir, if there is one, and removes the folder.
func stop(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	held, err := holders(dir)
	if err != nil {
		return err
	}
	for _, pid := range held {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if held, err = holders(dir); err != nil {
			return err
		}
		if len(held) == 0 {
			return os.RemoveAll(dir)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", held)
		}
	}
}

// holders returns the processes of pidsFile that still run.
func holders(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, pidsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(string(data)) {
		pidText, start, _ := strings.Cut(strings.TrimSpace(line), " ")
		pid, err := strconv.Atoi(pidText)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", pidsFile, err)
		}
		if now, err := startTime(pid); err == nil && now == start {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// startTime is field 22 of /proc/PID/stat: when the process started, in ticks since boot.
func startTime(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name in field 2 may hold spaces; it ends at the last parenthesis.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return "", fmt.Errorf("process %d has ended", pid)
	}
	return fields[19], nil
}
