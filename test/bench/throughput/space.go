// Package throughput measures how fast two machines on two hosts exchange packets: through
// Ingot's dataplane, and, in the same run, through what Linux has to offer. A machine is a
// namespace behind a veth, or a program that writes and reads a tap as an emulator does.
package throughput

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"ingot/test/lab"
)

// A space is a thread that stays in one network namespace and runs what it is told. Nothing of it
// has a name, so nothing is left when the process dies.
type space struct {
	calls chan func()
	// ns is the network namespace.
	ns   *os.File
	once sync.Once
}

// newSpace makes a fresh network namespace: a machine.
func newSpace() (*space, error) {
	return startSpace(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
}

// enter joins a host's network namespace. What its calls mount is seen by them alone.
func enter(host *lab.Host) (*space, error) {
	var s *space
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", host.Pid()))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	s, err = startSpace(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	})
	if err != nil {
		return nil, fmt.Errorf("enter %s: %w", host.Name, err)
	}
	return s, nil
}

func startSpace(setup func() error) (*space, error) {
	s := &space{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := setup()
		if err == nil {
			s.ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		ready <- err
		if err != nil {
			return
		}
		for call := range s.calls {
			call()
		}
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return s, nil
}

// Do runs f on the space's thread; a panic is its error.
func (s *space) Do(f func() error) error {
	done := make(chan error, 1)
	s.calls <- func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v", p)
			}
		}()
		done <- f()
	}
	return <-done
}

// Close ends the thread. The namespace lasts as long as sockets and devices need it.
func (s *space) Close() {
	s.once.Do(func() {
		close(s.calls)
		s.ns.Close()
	})
}
