package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// agentPort is the virtio-serial port that libvirt speaks the guest agent's protocol on.
const agentPort = "org.qemu.guest_agent.0"

// serveAgent answers the QEMU guest agent's protocol (QMP's JSON, one message a line) as far as
// libvirt and tests need it. It returns only if the machine has no such port.
func serveAgent(n *network) error {
	path, err := findPort(agentPort)
	if err != nil {
		return err
	}
	port, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	a := &agent{network: n, jobs: map[int]*job{}}
	for reader := bufio.NewReader(port); ; {
		line, err := reader.ReadBytes('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return err
			}
			time.Sleep(100 * time.Millisecond) // nobody has opened the host's end
			continue
		}
		// 0xFF makes a parser forget what came before it; libvirt sends it to synchronise.
		line = bytes.TrimSpace(line[bytes.LastIndexByte(line, 0xFF)+1:])
		if len(line) == 0 {
			continue
		}
		if _, err := port.Write(a.answer(line)); err != nil {
			return err
		}
	}
}

// findPort finds the device of a named virtio-serial port.
func findPort(name string) (string, error) {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(data)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(file)), nil
		}
	}
	return "", fmt.Errorf("no virtio-serial port %s", name)
}

// An agent holds what commands share.
type agent struct {
	network *network

	mu   sync.Mutex // guards jobs
	jobs map[int]*job
}

// A job is a program started by guest-exec.
type job struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	done           chan struct{}
}

type request struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
}

// answer executes one message and returns the line to send.
func (a *agent) answer(line []byte) []byte {
	var req request
	var reply any
	err := json.Unmarshal(line, &req)
	if err == nil {
		reply, err = a.execute(req)
	}
	if err != nil {
		reply = map[string]any{"error": map[string]string{"class": "GenericError", "desc": err.Error()}}
	} else {
		reply = map[string]any{"return": reply}
	}
	data, err := json.Marshal(reply)
	if err != nil {
		data = []byte(`{"error":{"class":"GenericError","desc":"reply cannot be encoded"}}`)
	}
	if req.Execute == "guest-sync-delimited" {
		data = append([]byte{0xFF}, data...)
	}
	return append(data, '\n')
}

func (a *agent) execute(req request) (any, error) {
	switch req.Execute {
	case "guest-sync", "guest-sync-delimited":
		var args struct {
			ID json.RawMessage `json:"id"`
		}
		err := json.Unmarshal(req.Arguments, &args)
		return args.ID, err
	case "guest-ping":
		return struct{}{}, nil
	case "guest-info":
		return info(), nil
	case "guest-get-host-name":
		name, err := os.Hostname()
		return map[string]string{"host-name": name}, err
	case "guest-network-get-interfaces":
		return interfaces()
	case "guest-exec":
		return a.exec(req.Arguments)
	case "guest-exec-status":
		return a.status(req.Arguments)
	case "guest-shutdown":
		return struct{}{}, shutdownSoon(req.Arguments)
	default:
		return nil, fmt.Errorf("the command %s has not been found", req.Execute)
	}
}

func info() any {
	type command struct {
		Name            string `json:"name"`
		Enabled         bool   `json:"enabled"`
		SuccessResponse bool   `json:"success-response"`
	}
	var commands []command
	for _, name := range []string{
		"guest-sync", "guest-sync-delimited", "guest-ping", "guest-info", "guest-get-host-name",
		"guest-network-get-interfaces", "guest-exec", "guest-exec-status", "guest-shutdown",
	} {
		commands = append(commands, command{name, true, name != "guest-shutdown"})
	}
	return map[string]any{"version": "7.2.0", "supported_commands": commands}
}

func interfaces() (any, error) {
	type address struct {
		Type   string `json:"ip-address-type"`
		IP     string `json:"ip-address"`
		Prefix int    `json:"prefix"`
	}
	type entry struct {
		Name      string    `json:"name"`
		Hardware  string    `json:"hardware-address,omitempty"`
		Addresses []address `json:"ip-addresses"`
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, i := range all {
		e := entry{Name: i.Name, Hardware: i.HardwareAddr.String(), Addresses: []address{}}
		addresses, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			ipNet, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			bits, _ := ipNet.Mask.Size()
			family := "ipv6"
			if ipNet.IP.To4() != nil {
				family = "ipv4"
			}
			e.Addresses = append(e.Addresses, address{family, ipNet.IP.String(), bits})
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// exec starts a program and answers its process id at once.
func (a *agent) exec(arguments json.RawMessage) (any, error) {
	var args struct {
		Path  string   `json:"path"`
		Arg   []string `json:"arg"`
		Env   []string `json:"env"`
		Input []byte   `json:"input-data"`
	}
	if err := json.Unmarshal(arguments, &args); err != nil {
		return nil, err
	}
	j := &job{cmd: exec.Command(args.Path, args.Arg...), done: make(chan struct{})}
	j.cmd.Env, j.cmd.Dir = append(environment(), args.Env...), "/"
	j.cmd.Stdin, j.cmd.Stdout, j.cmd.Stderr = bytes.NewReader(args.Input), &j.stdout, &j.stderr
	if err := j.cmd.Start(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.jobs[j.cmd.Process.Pid] = j
	a.mu.Unlock()
	go func() {
		j.cmd.Wait() // the state is read from ProcessState
		close(j.done)
	}()
	return map[string]int{"pid": j.cmd.Process.Pid}, nil
}

// status tells whether a program has ended; the first answer that says so is the last.
func (a *agent) status(arguments json.RawMessage) (any, error) {
	var args struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(arguments, &args); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	j, ok := a.jobs[args.PID]
	if !ok {
		return nil, fmt.Errorf("pid %d does not exist", args.PID)
	}
	select {
	case <-j.done:
	default:
		return map[string]any{"exited": false}, nil
	}
	delete(a.jobs, args.PID)
	reply := map[string]any{"exited": true, "out-data": j.stdout.Bytes(), "err-data": j.stderr.Bytes()}
	if status := j.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		reply["signal"] = int(status.Signal())
	} else {
		reply["exitcode"] = status.ExitStatus()
	}
	return reply, nil
}

// shutdownSoon goes down after the answer has left.
func shutdownSoon(arguments json.RawMessage) error {
	args := struct {
		Mode string `json:"mode"`
	}{Mode: "powerdown"}
	if len(arguments) > 0 {
		if err := json.Unmarshal(arguments, &args); err != nil {
			return err
		}
	}
	how, ok := map[string]int{
		"powerdown": unix.LINUX_REBOOT_CMD_POWER_OFF,
		"halt":      unix.LINUX_REBOOT_CMD_HALT,
		"reboot":    unix.LINUX_REBOOT_CMD_RESTART,
	}[args.Mode]
	if !ok {
		return fmt.Errorf("unknown mode %q", args.Mode)
	}
	time.AfterFunc(200*time.Millisecond, func() { shutdown(how) })
	return nil
}
