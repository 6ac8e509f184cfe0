package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// A Program is something to run on a host until it is stopped.
type Program struct {
	// Name is unique on the host and names the log file.
	Name string
	// Args is the command line; Args[0] is looked up in PATH outside the host.
	Args []string
	// Env is added to the lab's own environment.
	Env []string
	// Dir is the working directory; "" means "/".
	Dir string
}

// A Process is a running Program. It is ended with its host at the latest.
type Process struct {
	Program
	// Log is the file with everything it writes; a restart appends.
	Log string

	host *Host

	mu   sync.Mutex // guards cmd, done and err
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts a program on the host and returns at once.
func (h *Host) Start(program Program) (*Process, error) {
	p := &Process{Program: program, host: h, Log: filepath.Join(h.logDir(), program.Name+".log")}
	if err := p.Restart(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes = append(h.processes, p)
	return p, nil
}

// Restart kills the program if it runs and starts it again with the same arguments.
func (p *Process) Restart() error {
	p.Kill()
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, p.Dir
	cmd.Env = append(os.Environ(), p.Env...)
	if err := p.host.startIn(cmd); err != nil {
		return fmt.Errorf("start %s on %s: %w", p.Name, p.host.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	done := make(chan struct{})
	p.cmd, p.done, p.err = cmd, done, nil
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(done)
	}()
	return nil
}

// Pid is the process id as this machine, not the host, sees it.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Signal sends a signal to the program, if it still runs.
func (p *Process) Signal(signal os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Signal(signal)
}

// Kill is kill -9; it returns when the process is gone. Its children live on.
func (p *Process) Kill() {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	cmd.Process.Kill() // an error means that it has ended
	<-done
}

// Stop asks the program to end with signal and waits for it.
func (p *Process) Stop(ctx context.Context, signal os.Signal) error {
	if err := p.Signal(signal); err != nil && p.Running() {
		return fmt.Errorf("stop %s on %s: %w", p.Name, p.host.Name, err)
	}
	return p.Wait(ctx)
}

// Wait waits for the program's end and returns its exit state as exec.Cmd.Wait does.
func (p *Process) Wait(ctx context.Context) error {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("wait for %s on %s: %w (log: %s)", p.Name, p.host.Name, ctx.Err(), p.Log)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Running says whether the program has not ended.
func (p *Process) Running() bool {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	select {
	case <-done:
		return false
	default:
		return true
	}
}
