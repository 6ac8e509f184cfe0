// Package policy owns what NetworkPolicies mean: it compiles those of a network into the rules of each
// of its interfaces. It knows no packets; the dataplane answers DHCP and neighbour discovery before policy.
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/cidr"
	"ingot/controlplane/labels"
)

// Priority of all rules: NetworkPolicies only allow, so their order never matters.
const Priority = 1000

const (
	// maxRules and maxPeers bound what one interface gets in one direction: what a host can load,
	// and what fits into a message to it. Without them, a tenant could write policies that keep a
	// host from hearing of anything.
	maxRules = 1 << 14
	maxPeers = 1 << 17 // over all rules
)

// A Policy is a NetworkPolicy by name.
type Policy struct {
	Name string
	Spec *v1alpha1.NetworkPolicySpec
}

// A Member is an interface of the network.
type Member struct {
	Name   string
	UID    string
	Labels map[string]string
	// Addresses are the member's own; empty while it has none yet.
	Addresses []netip.Addr
}

// Result is what compiling a network gives.
type Result struct {
	// Compiled has one entry per member, in order. Rules are shared between entries: frozen.
	Compiled []*v1alpha1.CompiledPolicySpec
	// Policies has one entry per policy, by name.
	Policies []Outcome
}

// An Outcome is what became of one policy.
type Outcome struct {
	Name string
	// Selected counts the members that it applies to.
	Selected uint32
	// Fault says what cannot be compiled; such a rule allows nothing.
	Fault error
}

// Compile turns the policies of one network into rules for its members. Equal input in any order
// gives equal rules.
func Compile(policies []Policy, members []Member) Result {
	policies = slices.Clone(policies)
	slices.SortFunc(policies, func(a, b Policy) int { return strings.Compare(a.Name, b.Name) })
	r := Result{Policies: make([]Outcome, len(policies))}
	parts := make([]part, len(policies))
	for i, p := range policies {
		r.Policies[i].Name = p.Name
		parts[i], r.Policies[i].Fault = compilePolicy(p, members)
	}
	for _, m := range members {
		c := &v1alpha1.CompiledPolicySpec{InterfaceUid: m.UID, Ingress: &v1alpha1.CompiledRuleSet{}, Egress: &v1alpha1.CompiledRuleSet{}}
		var inPeers, outPeers int
		for i, p := range policies {
			if !labels.Matches(p.Spec.GetNetworkInterfaceSelector(), m.Labels) {
				continue
			}
			r.Policies[i].Selected++
			in, out := parts[i].ingress.addTo(c.Ingress, &inPeers), parts[i].egress.addTo(c.Egress, &outPeers)
			if r.Policies[i].Fault == nil && !(in && out) {
				r.Policies[i].Fault = fmt.Errorf("interface %s would have more than %d rules or %d peers in one direction: what this policy allows is left out there",
					m.Name, maxRules, maxPeers)
			}
		}
		r.Compiled = append(r.Compiled, c)
	}
	return r
}

// A part is what one policy adds to each interface that it selects.
type part struct{ ingress, egress direction }

type direction struct {
	enforced bool
	rules    []*v1alpha1.CompiledRule
	peers    int // of all rules
}

// addTo reports false when there is no room; the direction is enforced all the same. peers counts
// those of set.
func (d direction) addTo(set *v1alpha1.CompiledRuleSet, peers *int) bool {
	set.Enforced = set.Enforced || d.enforced
	if len(set.Rules)+len(d.rules) > maxRules || *peers+d.peers > maxPeers {
		return false
	}
	set.Rules = append(set.Rules, d.rules...)
	*peers += d.peers
	return true
}

// add appends rules.
func (d *direction) add(rules []*v1alpha1.CompiledRule) {
	d.rules = append(d.rules, rules...)
	for _, r := range rules {
		d.peers += len(r.Peers)
	}
}

func compilePolicy(p Policy, members []Member) (part, error) {
	ingress, egress := types(p.Spec)
	var out part
	out.ingress.enforced, out.egress.enforced = ingress, egress
	if err := labels.Validate(p.Spec.GetNetworkInterfaceSelector()); err != nil {
		return out, err
	}
	var faults []string
	note := func(id string, err error) {
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", id, err))
		}
	}
	if ingress {
		for i, rule := range p.Spec.GetIngress() {
			id := fmt.Sprintf("%s/ingress/%d", p.Name, i)
			rules, err := compileRule(id, rule.GetPorts(), rule.GetFrom(), members)
			note(id, err)
			out.ingress.add(rules)
		}
	}
	if egress {
		for i, rule := range p.Spec.GetEgress() {
			id := fmt.Sprintf("%s/egress/%d", p.Name, i)
			rules, err := compileRule(id, rule.GetPorts(), rule.GetTo(), members)
			note(id, err)
			out.egress.add(rules)
		}
	}
	if len(faults) > 0 {
		return out, fmt.Errorf("compile rules: %s", strings.Join(faults, "; "))
	}
	return out, nil
}

// types are the directions a policy enforces: those given, else ingress, and egress when it has such rules.
func types(s *v1alpha1.NetworkPolicySpec) (ingress, egress bool) {
	if len(s.GetPolicyTypes()) == 0 {
		return true, len(s.GetEgress()) > 0
	}
	return slices.Contains(s.GetPolicyTypes(), "Ingress"), slices.Contains(s.GetPolicyTypes(), "Egress")
}

// compileRule gives no rule when peers are given and none exists: an empty list would allow any.
func compileRule(id string, ports []*v1alpha1.NetworkPolicyPort, from []*v1alpha1.NetworkPolicyPeer, members []Member) ([]*v1alpha1.CompiledRule, error) {
	peers, err := compilePeers(from, members)
	if err != nil || len(from) > 0 && len(peers) == 0 {
		return nil, err
	}
	if len(ports) == 0 {
		ports = []*v1alpha1.NetworkPolicyPort{nil}
	}
	var rules []*v1alpha1.CompiledRule
	for _, port := range ports {
		protocols, err := protocolNumbers(port)
		if err != nil {
			return nil, err
		}
		for _, protocol := range protocols {
			rules = append(rules, &v1alpha1.CompiledRule{Id: id, Priority: Priority, Peers: peers, Protocol: protocol,
				PortFirst: port.GetPort(), PortLast: max(port.GetPort(), port.GetEndPort())})
		}
	}
	return rules, nil
}

// compilePeers is the sorted union of what peers select.
func compilePeers(peers []*v1alpha1.NetworkPolicyPeer, members []Member) ([]string, error) {
	var set []netip.Prefix
	for _, peer := range peers {
		switch {
		case peer.GetObjectSelector() != nil:
			s := peer.GetObjectSelector()
			if kind := s.GetKind(); kind != "" && kind != "NetworkInterface" {
				return nil, fmt.Errorf("peers of kind %q cannot be selected, only NetworkInterface", kind)
			}
			if err := labels.Validate(s); err != nil {
				return nil, err
			}
			for _, m := range members {
				if labels.Matches(s, m.Labels) {
					for _, a := range m.Addresses {
						set = append(set, cidr.Host(a))
					}
				}
			}
		case peer.GetIpBlock() != nil:
			from, err := cidr.Parse(peer.GetIpBlock().GetCidr())
			if err != nil {
				return nil, err
			}
			except, err := cidr.Parse(peer.GetIpBlock().GetExcept()...)
			if err != nil {
				return nil, err
			}
			set = append(set, cidr.Subtract(from, except)...)
			if len(set) > maxPeers {
				return nil, fmt.Errorf("ipBlocks with their exceptions make more than %d blocks", maxPeers)
			}
		default:
			return nil, fmt.Errorf("peer has neither objectSelector nor ipBlock")
		}
	}
	slices.SortFunc(set, cidr.Compare)
	return cidr.Strings(slices.Compact(set)), nil
}

// protocolNumbers are those of IANA's protocol registry; ICMP means that of either family.
func protocolNumbers(port *v1alpha1.NetworkPolicyPort) ([]uint32, error) {
	if port == nil {
		return []uint32{0}, nil
	}
	switch port.GetProtocol() {
	case "", "TCP":
		return []uint32{6}, nil
	case "UDP":
		return []uint32{17}, nil
	case "SCTP":
		return []uint32{132}, nil
	case "ICMP":
		if port.GetPort() != 0 || port.GetEndPort() != 0 {
			return nil, fmt.Errorf("ICMP has no ports")
		}
		return []uint32{1, 58}, nil
	}
	return nil, fmt.Errorf("protocol %q is none of TCP, UDP, SCTP, ICMP", port.GetProtocol())
}
