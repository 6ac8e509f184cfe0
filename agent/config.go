package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"ingot/dataplane"
	"ingot/iri/machine"
	"ingot/routing"
	"ingot/runtime/fault"
	"ingot/runtime/version"
)

// Config is the file of an agent. Durations and sizes are written as 5s and 2Gi.
type Config struct {
	// Host is the host's name: a DNS label. With a control plane it is the one of the token.
	Host string `json:"host"`
	// StateDir keeps what must survive a reboot. Default /var/lib/ingot.
	StateDir string `json:"stateDir,omitempty"`
	// RunDir keeps what must not: pinned BPF objects. Default /run/ingot.
	RunDir string `json:"runDir,omitempty"`
	// Standalone agents have no control plane: an IronCore machinepoollet drives the socket.
	Standalone bool `json:"standalone,omitempty"`
	// Listen serves /healthz and /metrics. Default 127.0.0.1:9464; "off" serves nothing.
	Listen string `json:"listen,omitempty"`
	// Socket is where the IRI MachineRuntime is served. Default /var/run/iri-machineprovider.sock.
	Socket string `json:"socket,omitempty"`
	// DNS servers told to machines.
	DNS []netip.Addr `json:"dns,omitempty"`

	Underlay Underlay `json:"underlay"`
	BGP      BGP      `json:"bgp,omitempty"`
	Machines Machines `json:"machines,omitempty"`
}

// Underlay is how the host stands in the fabric.
type Underlay struct {
	// Prefix is the IPv6 prefix that the fabric routes to this host; /112 or larger.
	Prefix netip.Prefix `json:"prefix"`
	// Supernet holds the prefixes of all hosts: next hops outside are refused.
	Supernet netip.Prefix `json:"supernet"`
	// Uplinks are the devices towards the fabric.
	Uplinks []string `json:"uplinks"`
	// Receive is where packets from the fabric are decapsulated: auto (default), tc or xdp.
	Receive string `json:"receive,omitempty"`
}

// BGP is the speaker. A host that is the only one of its cloud needs none: leave the section out.
type BGP struct {
	// ASN is shared with the reflectors; 1 to 65535.
	ASN uint32 `json:"asn"`
	// RouterID is unique in the fabric, written as an IPv4 address.
	RouterID netip.Addr `json:"routerID"`
	// LocalAddress is the source of the sessions. Default: the kernel chooses.
	LocalAddress netip.Addr `json:"localAddress,omitempty"`
	// Reflectors are the route reflectors, at least one. Each carries the whole table.
	Reflectors []Reflector `json:"reflectors"`
}

// Reflector is one route reflector.
type Reflector struct {
	Address netip.Addr `json:"address"`
	// Port defaults to 179.
	Port uint16 `json:"port,omitempty"`
	// PasswordFile holds the TCP MD5 key; keys never stand in this file.
	PasswordFile string `json:"passwordFile,omitempty"`
	// MaxHops turns on GTSM (RFC 5082).
	MaxHops uint8 `json:"maxHops,omitempty"`
	// RouteTargetConstraint asks for the routes of this host's networks only (RFC 4684). Not for FRR,
	// which closes the session.
	RouteTargetConstraint bool `json:"routeTargetConstraint,omitempty"`
}

// Machines is how machines run.
type Machines struct {
	// LibvirtURI defaults to qemu:///system.
	LibvirtURI string `json:"libvirtURI,omitempty"`
	// Accelerator is auto (default: KVM where a vCPU really runs under it), kvm or tcg.
	Accelerator string `json:"accelerator,omitempty"`
	// Reserve is kept from machines for the host: cpu and memory. Default no CPU and 512Mi; memory
	// cannot be 0.
	Reserve map[string]resource.Quantity `json:"reserve,omitempty"`
	// CPUOvercommit is how many vCPUs are sold per CPU. Default 1.
	CPUOvercommit float64 `json:"cpuOvercommit,omitempty"`
	// Classes are those of a standalone agent; a control plane tells its own.
	Classes []Class `json:"classes,omitempty"`
	// ImageLayouts are the directories that oci-layout: images may be in; default: none, so that
	// no tenant names a file of this host.
	ImageLayouts []string `json:"imageLayouts,omitempty"`
	// RestartGuestPoweroff starts a machine again whose guest switched itself off.
	RestartGuestPoweroff bool `json:"restartGuestPoweroff,omitempty"`
}

// Class is a machine class of a standalone agent.
type Class struct {
	Name         string                       `json:"name"`
	Capabilities map[string]resource.Quantity `json:"capabilities"`
}

// LoadConfig reads and checks a file. Errors: fault.Invalid, with every fault.
func LoadConfig(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	var c Config
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return Config{}, fmt.Errorf("read configuration %s: %w: %w", path, fault.Invalid, err)
	}
	c.setDefaults()
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

func (c *Config) setDefaults() {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.StateDir, "/var/lib/ingot")
	set(&c.RunDir, "/run/ingot")
	set(&c.Listen, "127.0.0.1:9464")
	set(&c.Socket, machine.DefaultSocket)
	set(&c.Underlay.Receive, "auto")
	set(&c.Machines.Accelerator, "auto")
	reserve := map[string]resource.Quantity{"memory": resource.MustParse("512Mi")}
	maps.Copy(reserve, c.Machines.Reserve)
	c.Machines.Reserve = reserve
}

// Validate returns every fault that the agent itself can see; parts check their own share at start.
func (c Config) Validate() error {
	var faults fault.Fields
	if c.Host == "" {
		faults.Add("host", "required: the host's name")
	}
	for _, dir := range []struct{ field, path string }{{"stateDir", c.StateDir}, {"runDir", c.RunDir}, {"socket", c.Socket}} {
		if !filepath.IsAbs(dir.path) {
			faults.Add(dir.field, "%q is not an absolute path", dir.path)
		}
	}
	c.Underlay.validate(&faults)
	c.BGP.validate(&faults)
	c.Machines.validate(c.Standalone, &faults)
	return faults.Err()
}

func (u Underlay) validate(faults *fault.Fields) {
	switch p := u.Prefix; {
	case !p.IsValid() || !p.Addr().Is6() || p != p.Masked():
		faults.Add("underlay.prefix", "want an IPv6 prefix without host bits, such as fd00:10:0:1::/64")
	case p.Bits() > 112:
		faults.Add("underlay.prefix", "%s is too small for ports; /112 at least", p)
	case !u.Supernet.IsValid() || u.Supernet.Bits() > p.Bits() || !u.Supernet.Contains(p.Addr()):
		faults.Add("underlay.supernet", "%s does not contain underlay.prefix %s", u.Supernet, p)
	}
	if len(u.Uplinks) == 0 {
		faults.Add("underlay.uplinks", "required: at least one device")
	}
	if !slices.Contains([]string{"auto", "tc", "xdp"}, u.Receive) {
		faults.Add("underlay.receive", "%q: want auto, tc or xdp", u.Receive)
	}
}

// off says that the host has no neighbours in the fabric.
func (b BGP) off() bool { return b.ASN == 0 && !b.RouterID.IsValid() && len(b.Reflectors) == 0 }

func (b BGP) validate(faults *fault.Fields) {
	if b.off() {
		return
	}
	if b.ASN == 0 || b.ASN > 65535 {
		faults.Add("bgp.asn", "%d: want 1 to 65535", b.ASN)
	}
	if !b.RouterID.Is4() {
		faults.Add("bgp.routerID", "want an IPv4 address that is unique in the fabric")
	}
	if len(b.Reflectors) == 0 {
		faults.Add("bgp.reflectors", "required: at least one; or leave bgp out on the only host of a cloud")
	}
	for i, r := range b.Reflectors {
		if !r.Address.IsValid() {
			faults.Add(fmt.Sprintf("bgp.reflectors[%d].address", i), "required")
		}
	}
}

func (m Machines) validate(standalone bool, faults *fault.Fields) {
	if !slices.Contains([]string{"auto", "kvm", "tcg"}, m.Accelerator) {
		faults.Add("machines.accelerator", "%q: want auto, kvm or tcg", m.Accelerator)
	}
	for name := range m.Reserve {
		if name != "cpu" && name != "memory" {
			faults.Add("machines.reserve."+name, "unknown; known are cpu and memory")
		}
	}
	if memory := m.Reserve["memory"]; memory.Sign() <= 0 {
		faults.Add("machines.reserve.memory", "%s: want more than 0", memory.String())
	}
	if len(m.Classes) > 0 && !standalone {
		faults.Add("machines.classes", "only for standalone agents; the control plane tells its own")
	}
}

func (c Config) contextFile() string { return filepath.Join(c.StateDir, "agent.context") }

func (c Config) dataplane() dataplane.Config {
	receive := dataplane.ReceiveMode(c.Underlay.Receive)
	if receive == "auto" {
		receive = dataplane.ReceiveAuto
	}
	return dataplane.Config{Dir: filepath.Join(c.RunDir, "bpf"), StateDir: filepath.Join(c.StateDir, "dataplane"),
		Uplinks: c.Underlay.Uplinks, UnderlayPrefix: c.Underlay.Prefix, Receive: receive}
}

func (c Config) routing() (routing.Config, error) {
	out := routing.Config{ASN: c.BGP.ASN, RouterID: c.BGP.RouterID, LocalAddress: c.BGP.LocalAddress,
		NextHopPrefix: c.Underlay.Prefix, UnderlaySupernet: c.Underlay.Supernet, ListenPort: -1}
	for _, r := range c.BGP.Reflectors {
		reflector := routing.Reflector{Address: r.Address, Port: r.Port, ASN: c.BGP.ASN,
			MaxHops: r.MaxHops, RouteTargetConstraint: r.RouteTargetConstraint}
		if r.PasswordFile != "" {
			key, err := os.ReadFile(r.PasswordFile)
			if err != nil {
				return out, fmt.Errorf("read key of reflector %s: %w", r.Address, err)
			}
			reflector.Password = strings.TrimRight(string(key), "\r\n")
		}
		out.Reflectors = append(out.Reflectors, reflector)
	}
	return out, nil
}

func (c Config) machine() machine.Config {
	out := machine.Config{Dir: filepath.Join(c.StateDir, "machines"), Version: version.Semantic(),
		CPUOvercommit: c.Machines.CPUOvercommit, RestartGuestPoweroff: c.Machines.RestartGuestPoweroff}
	cpu, memory := c.Machines.Reserve["cpu"], c.Machines.Reserve["memory"]
	out.Reserve = machine.Resources{CPUs: cpu.Value(), MemoryBytes: memory.Value()}
	for _, class := range c.Machines.Classes {
		out.Classes = append(out.Classes, machine.Class{Name: class.Name, Capabilities: capabilities(class.Capabilities)})
	}
	return out
}

func capabilities(quantities map[string]resource.Quantity) map[string]int64 {
	out := make(map[string]int64, len(quantities))
	for name, q := range quantities {
		out[name] = q.Value()
	}
	return out
}
