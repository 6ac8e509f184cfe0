package network

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"ingot/controlplane/api/v1alpha1"
	"ingot/dataplane"
	"ingot/iri/machine"
	"ingot/runtime/fault"
)

// networkPrefix begins the provider id of our networks.
const networkPrefix = "ingot://vni/"

// NetworkID is the provider id of a network.
func NetworkID(vni uint32) string { return networkPrefix + strconv.FormatUint(uint64(vni), 10) }

// spec is what the port shall be, but for its underlay address.
func (n *Network) spec(ctx context.Context, id string, r machine.PortRequest) (dataplane.PortSpec, error) {
	spec := dataplane.PortSpec{ID: id, Guest: dataplane.GuestConfig{Hostname: r.Hostname, DNS: n.cfg.DNS}}
	if uid := r.Attributes[InterfaceAttribute]; uid != "" {
		intf, err := n.interfaces.Interface(ctx, uid)
		if err != nil {
			return spec, err
		}
		return spec, fill(&spec, intf)
	}
	vni, err := parseNetworkID(r.NetworkID)
	if err != nil {
		return spec, fmt.Errorf("port %s: %w", id, err)
	}
	spec.VNI, spec.Addresses, spec.MAC = vni, r.IPs, MACFor(id)
	return spec, nil
}

func parseNetworkID(id string) (uint32, error) {
	text, ok := strings.CutPrefix(id, networkPrefix)
	vni, err := strconv.ParseUint(text, 10, 24)
	if !ok || err != nil || vni == 0 {
		return 0, fmt.Errorf("network id %q: want %s<1 to 16777215>: %w", id, networkPrefix, fault.Invalid)
	}
	return uint32(vni), nil
}

// MACFor derives a locally administered address from a name.
func MACFor(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(name))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

// fill takes over what the control plane says of an interface.
func fill(spec *dataplane.PortSpec, intf *v1alpha1.HostInterfaceSpec) (err error) {
	wrap := func(what string, err error) error {
		return fmt.Errorf("interface %s/%s: %s: %w: %w", intf.Namespace, intf.Name, what, fault.Invalid, err)
	}
	spec.VNI = intf.Vni
	if spec.MAC, err = net.ParseMAC(intf.Mac); err != nil {
		return wrap("mac", err)
	}
	if spec.Addresses, err = parseAll(intf.Ips, netip.ParseAddr); err != nil {
		return wrap("ips", err)
	}
	if spec.Prefixes, err = parseAll(intf.Prefixes, netip.ParsePrefix); err != nil {
		return wrap("prefixes", err)
	}
	if len(intf.Dns) > 0 {
		if spec.Guest.DNS, err = parseAll(intf.Dns, netip.ParseAddr); err != nil {
			return wrap("dns", err)
		}
	}
	if spec.Policy.Ingress, err = ruleSet(intf.Ingress); err != nil {
		return wrap("ingress", err)
	}
	if spec.Policy.Egress, err = ruleSet(intf.Egress); err != nil {
		return wrap("egress", err)
	}
	return nil
}

func ruleSet(set *v1alpha1.CompiledRuleSet) (dataplane.RuleSet, error) {
	out := dataplane.RuleSet{Enforced: set.GetEnforced()}
	for _, r := range set.GetRules() {
		peers, err := parseAll(r.Peers, netip.ParsePrefix)
		if err != nil {
			return out, fmt.Errorf("rule %s: %w", r.Id, err)
		}
		rule := dataplane.Rule{ID: r.Id, Priority: r.Priority, Peers: peers, Protocol: uint8(r.Protocol),
			PortFirst: uint16(r.PortFirst), PortLast: uint16(r.PortLast), ICMPType: -1, ICMPCode: -1}
		if r.Deny {
			rule.Action = dataplane.Deny
		}
		out.Rules = append(out.Rules, rule)
	}
	return out, nil
}

func parseAll[T any](texts []string, parse func(string) (T, error)) ([]T, error) {
	out := make([]T, 0, len(texts))
	for _, text := range texts {
		v, err := parse(text)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// allocate finds an underlay address for a new port: derived from its name, so that a port that
// comes again tends to get the same, and moved on while another port has it. n.mu is held.
func (n *Network) allocate(id string) (netip.Addr, error) {
	used := map[netip.Addr]bool{}
	for _, p := range n.dataplane.Ports() {
		used[p.Spec.Underlay] = true
	}
	for try := 0; try < 1<<16; try++ {
		a := address(n.cfg.UnderlayPrefix, fmt.Sprintf("%s#%d", id, try))
		if a.IsValid() && !used[a] {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("underlay prefix %s has no free address: %w", n.cfg.UnderlayPrefix, fault.Exhausted)
}

// address maps a name into prefix; not valid where it falls among the lowest 256, which are the host's own.
func address(prefix netip.Prefix, name string) netip.Addr {
	sum := sha256.Sum256([]byte(name))
	a := prefix.Addr().As16()
	low := true // the host part is below 256
	for bit := prefix.Bits(); bit < 128; bit++ {
		mask := byte(0x80 >> (bit % 8))
		if sum[bit/8]&mask != 0 {
			a[bit/8] |= mask
			low = low && bit >= 120
		}
	}
	if low {
		return netip.Addr{}
	}
	return netip.AddrFrom16(a)
}
