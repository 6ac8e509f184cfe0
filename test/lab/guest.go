package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"time"
)

// A Guest is a machine made of the lab's image, reached through its guest agent.
type Guest struct {
	Host *Host
	// Domain is its libvirt name or UUID.
	Domain string
}

// A GuestProcess is a program started on a guest.
type GuestProcess struct {
	guest Guest
	pid   int
}

// A GuestResult is what a program left behind.
type GuestResult struct {
	Stdout, Stderr []byte
	// ExitCode is 128 plus the signal's number for a program that was killed.
	ExitCode int
}

// WaitReady waits until the guest agent answers. It gives up when the host is gone.
func (g Guest) WaitReady(ctx context.Context) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := g.agent(ctx, "guest-ping", nil, nil)
		if virsh := new(exec.ExitError); !errors.As(err, &virsh) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for guest %s: %w: %w", g.Domain, ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

// Exec runs a program on the guest to its end. A non-zero exit code is not an error.
func (g Guest) Exec(ctx context.Context, command ...string) (GuestResult, error) {
	p, err := g.Start(ctx, command...)
	if err != nil {
		return GuestResult{}, err
	}
	return p.Wait(ctx)
}

// Start starts a program on the guest.
func (g Guest) Start(ctx context.Context, command ...string) (*GuestProcess, error) {
	arguments := map[string]any{"path": command[0], "arg": command[1:], "capture-output": true}
	var reply struct {
		PID int `json:"pid"`
	}
	if err := g.agent(ctx, "guest-exec", arguments, &reply); err != nil {
		return nil, err
	}
	return &GuestProcess{guest: g, pid: reply.PID}, nil
}

// awayLimit is how long Wait bears with a guest agent that does not answer: libvirtd may be
// starting again.
const awayLimit = 30 * time.Second

// Wait waits for the program's end. It may be called once.
func (p *GuestProcess) Wait(ctx context.Context) (GuestResult, error) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	answered := time.Now()
	for {
		var status struct {
			Exited   bool   `json:"exited"`
			ExitCode int    `json:"exitcode"`
			Signal   int    `json:"signal"`
			Stdout   []byte `json:"out-data"`
			Stderr   []byte `json:"err-data"`
		}
		err := p.guest.agent(ctx, "guest-exec-status", map[string]any{"pid": p.pid}, &status)
		switch {
		case err == nil:
			answered = time.Now()
		case time.Since(answered) > awayLimit:
			return GuestResult{}, err
		}
		if status.Exited {
			if status.Signal > 0 {
				status.ExitCode = 128 + status.Signal
			}
			return GuestResult{status.Stdout, status.Stderr, status.ExitCode}, nil
		}
		select {
		case <-ctx.Done():
			return GuestResult{}, fmt.Errorf("wait for pid %d on guest %s: %w", p.pid, p.guest.Domain, ctx.Err())
		case <-ticker.C:
		}
	}
}

// Addresses are the guest's own, without loopback and link-local ones, by interface.
func (g Guest) Addresses(ctx context.Context) (map[string][]netip.Prefix, error) {
	var interfaces []struct {
		Name      string `json:"name"`
		Addresses []struct {
			IP     netip.Addr `json:"ip-address"`
			Prefix int        `json:"prefix"`
		} `json:"ip-addresses"`
	}
	if err := g.agent(ctx, "guest-network-get-interfaces", nil, &interfaces); err != nil {
		return nil, err
	}
	found := map[string][]netip.Prefix{}
	for _, i := range interfaces {
		for _, a := range i.Addresses {
			if !a.IP.IsLoopback() && !a.IP.IsLinkLocalUnicast() {
				found[i.Name] = append(found[i.Name], netip.PrefixFrom(a.IP, a.Prefix))
			}
		}
	}
	return found, nil
}

// agent calls the guest agent through libvirt.
func (g Guest) agent(ctx context.Context, execute string, arguments, reply any) error {
	message := map[string]any{"execute": execute}
	if arguments != nil {
		message["arguments"] = arguments
	}
	encoded, err := json.Marshal(message)
	if err != nil {
		return err
	}
	out, err := g.Host.Virsh(ctx, "qemu-agent-command", "--timeout", "10", g.Domain, string(encoded))
	if err != nil {
		return fmt.Errorf("call %s of guest %s: %w", execute, g.Domain, err)
	}
	if reply == nil {
		return nil
	}
	var answer struct {
		Return json.RawMessage `json:"return"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return fmt.Errorf("read answer to %s of guest %s: %w", execute, g.Domain, err)
	}
	if answer.Return == nil {
		return errors.New("empty answer to " + execute)
	}
	return json.Unmarshal(answer.Return, reply)
}
