// Package cloud runs a whole Ingot on a lab's fabric: the control plane and a route reflector on
// the spine, libvirtd and an agent on each host. It uses the binaries as an operator does, by
// their command lines, and knows nothing of their insides.
package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	"ingot/test/lab"
)

// ASN is shared by the reflector and the hosts.
const ASN = 64512

// ImageRef is the guest image as manifests name it; every host has it there.
const ImageRef = "oci-layout:/var/lib/ingot/images/guest:latest"

const (
	controlPort  = "7443"
	agentMetrics = "127.0.0.1:9464"
)

// Config describes a cloud. The zero value is two hosts.
type Config struct {
	// Bin is the folder with ingot, ingot-control and ingot-agent. Required.
	Bin string
	// Images is the absolute folder that holds the layout of lab.BuildGuestImage. Required.
	Images string
	// Accelerator is that of the agents' configuration; "" lets them find out, which takes seconds.
	Accelerator string
	// Fabric is the underlay.
	Fabric lab.FabricConfig
}

// A Cloud is what New and the Start methods made. Close ends it.
type Cloud struct {
	Fabric    *lab.Fabric
	Reflector *lab.Reflector
	Control   *lab.Process
	Hosts     []*Host

	cfg Config
}

// A Host is a hypervisor.
type Host struct {
	*lab.Host
	Libvirtd, Agent *lab.Process
}

// New builds the fabric; nothing runs on it yet.
func New(cfg Config) (*Cloud, error) {
	bin, err := filepath.Abs(cfg.Bin)
	if err != nil {
		return nil, err
	}
	cfg.Bin = bin
	cfg.Fabric.Shared = map[string]string{"/var/lib/ingot/images": cfg.Images}
	fabric, err := lab.NewFabric(cfg.Fabric)
	if err != nil {
		return nil, err
	}
	c := &Cloud{Fabric: fabric, cfg: cfg}
	for _, h := range fabric.Hosts {
		c.Hosts = append(c.Hosts, &Host{Host: h})
	}
	return c, nil
}

// Start starts everything, in an order that an operator would take.
func (c *Cloud) Start(ctx context.Context) error {
	if err := c.StartReflector(ctx); err != nil {
		return err
	}
	if err := c.StartControl(ctx); err != nil {
		return err
	}
	return c.StartHosts(ctx)
}

// StartHosts starts every host, all at once.
func (c *Cloud) StartHosts(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, h := range c.Hosts {
		group.Go(func() error { return c.StartHost(ctx, h) })
	}
	return group.Wait()
}

// Close ends everything.
func (c *Cloud) Close() error { return c.Fabric.Close() }

// StartReflector starts FRR's bgpd on the spine.
func (c *Cloud) StartReflector(ctx context.Context) (err error) {
	var clients []netip.Addr
	for _, host := range c.Fabric.Hosts {
		clients = append(clients, host.Address)
	}
	c.Reflector, err = c.Fabric.Spine.StartReflector(ctx, lab.ReflectorConfig{
		ASN: ASN, Clients: clients,
	})
	return err
}

// StartControl makes the certificate authority and starts the control plane on the spine.
func (c *Cloud) StartControl(ctx context.Context) error {
	spine := c.Fabric.Spine
	_, err := spine.Exec(ctx, c.program("ingot-control"), "init", "--dir", c.controlDir(), "--listen-name", spine.Address.String())
	if err != nil {
		return err
	}
	if c.Control, err = spine.Start(lab.Program{Name: "ingot-control", Args: []string{
		c.program("ingot-control"), "serve", "--dir", c.controlDir(), "--listen", c.Server(),
	}}); err != nil {
		return err
	}
	return c.WaitControl(ctx)
}

// WaitControl waits until the control plane answers.
func (c *Cloud) WaitControl(ctx context.Context) error {
	return c.poll(ctx, c.Control, func() error {
		_, err := c.Ingot(ctx, "get", "projects")
		return err
	})
}

// StartHost starts libvirtd and the agent, which joins by a one-time token.
func (c *Cloud) StartHost(ctx context.Context, h *Host) (err error) {
	if h.Libvirtd, err = h.StartLibvirt(ctx); err != nil {
		return err
	}
	config := filepath.Join(h.Dir, "agent.yaml")
	if err := c.writeAgentConfig(h, config); err != nil {
		return err
	}
	token, err := c.Fabric.Spine.Exec(ctx, c.program("ingot-control"), "token", "create", "--dir", c.controlDir(), "--host", h.Name)
	if err != nil {
		return err
	}
	_, err = h.ExecInput(ctx, bytes.NewReader(token), c.program("ingot-agent"), "join", "--config", config, "--server", c.Server(), "--token-file", "-")
	if err != nil {
		return err
	}
	h.Agent, err = h.Start(lab.Program{Name: "ingot-agent", Args: []string{c.program("ingot-agent"), "run", "--config", config}})
	if err != nil {
		return err
	}
	return c.WaitAgent(ctx, h)
}

// WaitAgent waits until the host's agent says that it is healthy.
func (c *Cloud) WaitAgent(ctx context.Context, h *Host) error {
	return c.poll(ctx, h.Agent, func() error {
		_, err := h.Get(ctx, "/healthz")
		return err
	})
}

// writeAgentConfig writes what an operator would: where the host stands in the fabric.
func (c *Cloud) writeAgentConfig(h *Host, path string) error {
	config := map[string]any{
		"host":   h.Name,
		"listen": agentMetrics,
		"underlay": map[string]any{
			"prefix": h.Prefix, "supernet": c.Fabric.Range(), "uplinks": []string{lab.Uplink},
		},
		"bgp": map[string]any{
			"asn": ASN, "routerID": routerID(h.Prefix), "localAddress": h.Address,
			"reflectors": []map[string]any{{"address": c.Fabric.Spine.Address}},
		},
		"machines": map[string]any{
			"accelerator":   c.cfg.Accelerator,
			"cpuOvercommit": 4,
			"reserve":       map[string]string{"memory": "256Mi"},
			"imageLayouts":  []string{"/var/lib/ingot/images"},
		},
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// routerID is 10.255.0.N for host N.
func routerID(prefix netip.Prefix) netip.Addr {
	address := prefix.Addr().As16()
	return netip.AddrFrom4([4]byte{10, 255, address[6], address[7]})
}

// Ingot runs the command line as the administrator and returns its output.
func (c *Cloud) Ingot(ctx context.Context, args ...string) (string, error) {
	out, err := c.Fabric.Spine.Exec(ctx, c.program("ingot"), append([]string{"--context", c.AdminContext()}, args...)...)
	return string(out), err
}

// AdminContext is the context file of the administrator.
func (c *Cloud) AdminContext() string { return filepath.Join(c.controlDir(), "admin.context") }

// Server is the address of the API.
func (c *Cloud) Server() string {
	return net.JoinHostPort(c.Fabric.Spine.Address.String(), controlPort)
}

// Machine finds out where a machine runs and how to reach it.
func (c *Cloud) Machine(ctx context.Context, project, name string) (lab.Guest, error) {
	out, err := c.Ingot(ctx, "get", "machine", name, "-n", project, "-o", "json")
	if err != nil {
		return lab.Guest{}, err
	}
	var machine struct {
		Status struct {
			MachineID      string `json:"machineID"`
			MachinePoolRef struct {
				Name string `json:"name"`
			} `json:"machinePoolRef"`
		} `json:"status"`
	}
	if err := json.Unmarshal([]byte(out), &machine); err != nil {
		return lab.Guest{}, fmt.Errorf("read machine %s: %w", name, err)
	}
	for _, h := range c.Hosts {
		if h.Name == machine.Status.MachinePoolRef.Name {
			return lab.Guest{Host: h.Host, Domain: machine.Status.MachineID}, nil
		}
	}
	return lab.Guest{}, fmt.Errorf("find host of machine %s: it is placed on %q", name, machine.Status.MachinePoolRef.Name)
}

// Get asks the agent's HTTP server, which listens on the host's loopback.
func (h *Host) Get(ctx context.Context, path string) (string, error) {
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = h.Do(func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+agentMetrics+path, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s of %s: %s: %s", path, h.Name, response.Status, bytes.TrimSpace(body))
	}
	return string(body), err
}

// poll tries until it works, the process ends or a minute has passed.
func (c *Cloud) poll(ctx context.Context, p *lab.Process, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		if !p.Running() {
			return fmt.Errorf("start %s: it ended: %w (log: %s)", p.Name, p.Wait(ctx), p.Log)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (log: %s)", p.Name, err, p.Log)
		case <-ticker.C:
		}
	}
}

func (c *Cloud) controlDir() string { return filepath.Join(c.Fabric.Spine.Dir, "control") }

func (c *Cloud) program(name string) string { return filepath.Join(c.cfg.Bin, name) }
