package admission

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/cidr"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// maxVNI is the greatest network identifier: 24 bits (RFC 7348, 5).
const maxVNI = 1<<24 - 1

func (c *check) network(spec *v1alpha1.NetworkSpec) {
	if id := spec.ProviderId; id != "" {
		vni, ok := strings.CutPrefix(id, "ingot://vni/")
		n, err := strconv.ParseUint(vni, 10, 32)
		if !ok || err != nil || n == 0 || n > maxVNI || vni != strconv.FormatUint(n, 10) {
			c.add("spec.providerID", "%q is not ingot://vni/<1 to %d>; leave it out and the server chooses", id, maxVNI)
		}
	}
	if old := was[*v1alpha1.NetworkSpec](c); old != nil && old.ProviderId != spec.ProviderId {
		if old.ProviderId == "" {
			c.add("spec.providerID", "cannot be set: the network was made without it and has a VNI")
		} else {
			c.add("spec.providerID", "cannot be changed from %q", old.ProviderId)
		}
	}
}

// networkInterface checks a spec at path: of an object, or of a template in a machine.
func (c *check) networkInterface(path string, spec *v1alpha1.NetworkInterfaceSpec) {
	c.ref(path+".networkRef", spec.NetworkRef)
	if spec.MachineRef != nil {
		c.ref(path+".machineRef", spec.MachineRef)
	}
	families := seen{}
	for i, f := range spec.IpFamilies {
		at := index(path+".ipFamilies", i)
		if c.oneOf(at, f, ipv4, ipv6) {
			c.unique(families, at, f)
		}
	}
	switch {
	case len(spec.IpFamilies) == 0:
		c.add(path+".ipFamilies", "required: IPv4, IPv6 or both")
	case len(spec.Ips) != len(spec.IpFamilies):
		c.add(path+".ips", "want one for each of ipFamilies (%s), got %d", strings.Join(spec.IpFamilies, ", "), len(spec.Ips))
	default:
		for i, ip := range spec.Ips {
			c.interfaceIP(index(path+".ips", i), ip, spec.IpFamilies[i])
		}
	}
	for i, p := range spec.Prefixes {
		c.cidr(index(path+".prefixes", i), p)
	}
}

func (c *check) interfaceIP(path string, ip *v1alpha1.InterfaceIP, want string) {
	switch {
	case (ip.Value == "") == (ip.Ephemeral == nil):
		c.add(path, "want exactly one of value and ephemeral")
	case ip.Value != "":
		a, ok := c.address(path+".value", ip.Value)
		if ok && family(a) != want {
			c.add(path+".value", "%s is %s, but the entry of ipFamilies is %s", a, family(a), want)
		}
		if ok {
			ip.Value = a.String()
		}
	default:
		path += ".ephemeral.prefixTemplate"
		spec := ip.Ephemeral.GetPrefixTemplate().GetSpec()
		if spec == nil {
			c.add(path+".spec", "required")
			return
		}
		c.labels(path+".metadata.labels", ip.Ephemeral.PrefixTemplate.GetMetadata().GetLabels())
		c.ephemeralPrefix(path+".spec", spec, want)
	}
}

// ephemeralPrefix is one address out of a parent.
func (c *check) ephemeralPrefix(path string, spec *v1alpha1.PrefixSpec, want string) {
	bits := map[string]uint32{ipv4: 32, ipv6: 128}[want]
	if spec.IpFamily == "" {
		spec.IpFamily = want
	}
	if spec.IpFamily != want {
		c.add(path+".ipFamily", "%s, but the entry of ipFamilies is %s", spec.IpFamily, want)
	}
	if spec.Prefix == "" && spec.PrefixLength == 0 {
		spec.PrefixLength = bits
	}
	if spec.PrefixLength != 0 && bits != 0 && spec.PrefixLength != bits {
		c.add(path+".prefixLength", "an address of a machine is a /%d", bits)
	}
	if spec.Prefix != "" {
		p, ok := c.cidr(path+".prefix", spec.Prefix)
		if ok && (!p.IsSingleIP() || family(p.Addr()) != want) {
			c.add(path+".prefix", "%s is not one %s address", p, want)
		}
	}
	c.parent(path, spec)
	if spec.ParentRef == nil && spec.ParentSelector == nil {
		c.add(path+".parentRef", "required: the Prefix that the address is taken from, or parentSelector")
	}
	if len(spec.Reserved) > 0 {
		c.add(path+".reserved", "a single address has no parts to reserve")
	}
}

// interfaceUpdate checks what is special to NetworkInterface objects.
func (c *check) interfaceUpdate(spec *v1alpha1.NetworkInterfaceSpec) error {
	if old := was[*v1alpha1.NetworkInterfaceSpec](c); old != nil {
		if !proto.Equal(old.NetworkRef, spec.NetworkRef) {
			c.add("spec.networkRef", "cannot be changed from %q", old.GetNetworkRef().GetName())
		}
		if old.MachineRef != nil && !proto.Equal(old.MachineRef, spec.MachineRef) {
			c.add("spec.machineRef", "is set by the server")
		}
	} else if spec.MachineRef != nil {
		c.add("spec.machineRef", "is set by the server for the machine that refers to the interface")
	}
	return c.addressesFree(spec)
}

// addressesFree checks that no other interface of the network has one of the fixed addresses.
func (c *check) addressesFree(spec *v1alpha1.NetworkInterfaceSpec) error {
	fixed := map[string]string{}
	for i, ip := range spec.Ips {
		if ip.Value != "" {
			fixed[ip.Value] = index("spec.ips", i) + ".value"
		}
	}
	if len(fixed) == 0 || !isLabel(spec.GetNetworkRef().GetName()) {
		return nil
	}
	page, err := c.reader.List(c.ctx, store.Query{
		Kind: api.NetworkInterface, Project: c.next.Project, Index: api.ByNetwork, Value: spec.NetworkRef.Name,
	})
	if err != nil {
		return err
	}
	for _, other := range page.Items {
		if other.Name == c.next.Name {
			continue
		}
		for _, ip := range resource.Spec[*v1alpha1.NetworkInterfaceSpec](other).Ips {
			if at, taken := fixed[ip.Value]; taken && ip.Value != "" {
				c.add(at, "%s is the address of NetworkInterface %q", ip.Value, other.Name)
			}
		}
	}
	return nil
}

// The directions of policies.
const (
	ingress = "Ingress"
	egress  = "Egress"
)

func (c *check) networkPolicy(spec *v1alpha1.NetworkPolicySpec) {
	c.ref("spec.networkRef", spec.NetworkRef)
	if old := was[*v1alpha1.NetworkPolicySpec](c); old != nil && !proto.Equal(old.NetworkRef, spec.NetworkRef) {
		c.add("spec.networkRef", "cannot be changed from %q", old.GetNetworkRef().GetName())
	}
	c.selector("spec.networkInterfaceSelector", spec.NetworkInterfaceSelector)
	if len(spec.PolicyTypes) == 0 {
		spec.PolicyTypes = []string{ingress}
		if len(spec.Egress) > 0 {
			spec.PolicyTypes = append(spec.PolicyTypes, egress)
		}
	}
	types := seen{}
	for i, t := range spec.PolicyTypes {
		at := index("spec.policyTypes", i)
		if c.oneOf(at, t, ingress, egress) {
			c.unique(types, at, t)
		}
	}
	if len(spec.Ingress) > 0 && types[ingress] == 0 {
		c.add("spec.policyTypes", "there are ingress rules, but no %s", ingress)
	}
	if len(spec.Egress) > 0 && types[egress] == 0 {
		c.add("spec.policyTypes", "there are egress rules, but no %s", egress)
	}
	for i, r := range spec.Ingress {
		at := index("spec.ingress", i)
		if len(r.To) > 0 {
			c.add(at+".to", "an ingress rule has from")
		}
		c.rule(at, r, at+".from", r.From)
	}
	for i, r := range spec.Egress {
		at := index("spec.egress", i)
		if len(r.From) > 0 {
			c.add(at+".from", "an egress rule has to")
		}
		c.rule(at, r, at+".to", r.To)
	}
}

func (c *check) rule(path string, r *v1alpha1.NetworkPolicyRule, peersPath string, peers []*v1alpha1.NetworkPolicyPeer) {
	for i, p := range r.Ports {
		c.port(index(path+".ports", i), p)
	}
	for i, p := range peers {
		c.peer(index(peersPath, i), p)
	}
}

func (c *check) port(path string, p *v1alpha1.NetworkPolicyPort) {
	const most = 1<<16 - 1
	if p.Protocol == "" {
		p.Protocol = "TCP"
	}
	c.oneOf(path+".protocol", p.Protocol, "TCP", "UDP", "SCTP", "ICMP")
	switch {
	case p.Protocol == "ICMP" && (p.Port != 0 || p.EndPort != 0):
		c.add(path, "ICMP has no ports")
	case p.Port > most:
		c.add(path+".port", "%d is more than %d", p.Port, most)
	case p.EndPort > most:
		c.add(path+".endPort", "%d is more than %d", p.EndPort, most)
	case p.EndPort != 0 && p.Port == 0:
		c.add(path+".port", "required with endPort")
	case p.EndPort != 0 && p.EndPort < p.Port:
		c.add(path+".endPort", "%d is below port %d", p.EndPort, p.Port)
	}
}

func (c *check) peer(path string, p *v1alpha1.NetworkPolicyPeer) {
	if (p.ObjectSelector == nil) == (p.IpBlock == nil) {
		c.add(path, "want exactly one of objectSelector and ipBlock")
		return
	}
	if s := p.ObjectSelector; s != nil {
		if s.Kind == "" {
			s.Kind = string(api.NetworkInterface)
		}
		c.oneOf(path+".objectSelector.kind", s.Kind, string(api.NetworkInterface))
		c.selector(path+".objectSelector", s)
		return
	}
	block, ok := c.cidr(path+".ipBlock.cidr", p.IpBlock.Cidr)
	for i, text := range p.IpBlock.Except {
		at := index(path+".ipBlock.except", i)
		if e, eok := c.cidr(at, text); ok && eok && !cidr.Covers(block, e) {
			c.add(at, "%s is not within %s", e, block)
		}
	}
}
