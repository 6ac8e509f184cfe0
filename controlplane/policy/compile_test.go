package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"ingot/controlplane/api/v1alpha1"
)

func member(name, labels string, addresses ...string) Member {
	m := Member{Name: name, UID: "uid-" + name, Labels: map[string]string{}}
	for _, l := range strings.Fields(labels) {
		k, v, _ := strings.Cut(l, "=")
		m.Labels[k] = v
	}
	for _, a := range addresses {
		m.Addresses = append(m.Addresses, netip.MustParseAddr(a))
	}
	return m
}

func selector(labels string) *v1alpha1.LabelSelector {
	return &v1alpha1.LabelSelector{MatchLabels: member("", labels).Labels}
}

func peersWith(labels string) *v1alpha1.NetworkPolicyPeer {
	return &v1alpha1.NetworkPolicyPeer{ObjectSelector: &v1alpha1.ObjectSelector{Kind: "NetworkInterface", MatchLabels: member("", labels).Labels}}
}

func block(cidr string, except ...string) *v1alpha1.NetworkPolicyPeer {
	return &v1alpha1.NetworkPolicyPeer{IpBlock: &v1alpha1.IPBlock{Cidr: cidr, Except: except}}
}

func port(protocol string, first, last uint32) *v1alpha1.NetworkPolicyPort {
	return &v1alpha1.NetworkPolicyPort{Protocol: protocol, Port: first, EndPort: last}
}

// render is a compiled policy as text, one fact a line.
func render(c *v1alpha1.CompiledPolicySpec) string {
	var b strings.Builder
	for _, d := range []struct {
		name string
		set  *v1alpha1.CompiledRuleSet
	}{{"ingress", c.GetIngress()}, {"egress", c.GetEgress()}} {
		if d.set.GetEnforced() {
			fmt.Fprintf(&b, "%s enforced\n", d.name)
		}
		for _, r := range d.set.GetRules() {
			fmt.Fprintf(&b, "%s proto %d ports %d-%d peers %s\n", r.GetId(), r.GetProtocol(), r.GetPortFirst(), r.GetPortLast(), strings.Join(r.GetPeers(), ","))
		}
	}
	return b.String()
}

func TestCompile(t *testing.T) {
	members := []Member{
		member("web", "app=web", "10.0.0.2", "fd00::2"), member("db", "app=db", "10.0.0.3"),
		member("web2", "app=web", "10.0.0.4"), member("new", "app=new"),
	}
	toDB := func(rules ...*v1alpha1.NetworkPolicyRule) *v1alpha1.NetworkPolicySpec {
		return &v1alpha1.NetworkPolicySpec{NetworkInterfaceSelector: selector("app=db"), Ingress: rules}
	}
	for _, tc := range []struct {
		name  string
		spec  *v1alpha1.NetworkPolicySpec
		fault string
		want  string // the rules of db
	}{
		{"a policy that selects others changes nothing", &v1alpha1.NetworkPolicySpec{NetworkInterfaceSelector: selector("app=web")}, "", ""},
		{"selected without rules: nothing may enter", toDB(), "", "ingress enforced\n"},
		{"an empty selector selects everything", &v1alpha1.NetworkPolicySpec{}, "", "ingress enforced\n"},
		{"an empty rule allows everything", toDB(&v1alpha1.NetworkPolicyRule{}), "",
			"ingress enforced\np/ingress/0 proto 0 ports 0-0 peers \n"},
		{"ports and peers are combined; ICMP is that of both families", toDB(&v1alpha1.NetworkPolicyRule{
			Ports: []*v1alpha1.NetworkPolicyPort{port("", 80, 0), port("UDP", 1000, 2000), port("ICMP", 0, 0), port("SCTP", 0, 0)},
			From:  []*v1alpha1.NetworkPolicyPeer{peersWith("app=web")}}), "",
			`ingress enforced
p/ingress/0 proto 6 ports 80-80 peers 10.0.0.2/32,10.0.0.4/32,fd00::2/128
p/ingress/0 proto 17 ports 1000-2000 peers 10.0.0.2/32,10.0.0.4/32,fd00::2/128
p/ingress/0 proto 1 ports 0-0 peers 10.0.0.2/32,10.0.0.4/32,fd00::2/128
p/ingress/0 proto 58 ports 0-0 peers 10.0.0.2/32,10.0.0.4/32,fd00::2/128
p/ingress/0 proto 132 ports 0-0 peers 10.0.0.2/32,10.0.0.4/32,fd00::2/128
`},
		{"peers that select nobody allow nobody", toDB(&v1alpha1.NetworkPolicyRule{From: []*v1alpha1.NetworkPolicyPeer{peersWith("app=none")}}), "",
			"ingress enforced\n"},
		{"peers without addresses allow nobody", toDB(&v1alpha1.NetworkPolicyRule{From: []*v1alpha1.NetworkPolicyPeer{peersWith("app=new")}}), "",
			"ingress enforced\n"},
		{"except excepts", toDB(&v1alpha1.NetworkPolicyRule{From: []*v1alpha1.NetworkPolicyPeer{block("10.0.0.0/29", "10.0.0.4/31")}}), "",
			"ingress enforced\np/ingress/0 proto 0 ports 0-0 peers 10.0.0.0/30,10.0.0.6/31\n"},
		{"a block that is excepted whole allows nobody", toDB(&v1alpha1.NetworkPolicyRule{From: []*v1alpha1.NetworkPolicyPeer{block("10.0.0.0/29", "10.0.0.0/8")}}), "",
			"ingress enforced\n"},
		{"egress rules enforce egress too", &v1alpha1.NetworkPolicySpec{Egress: []*v1alpha1.NetworkPolicyRule{{To: []*v1alpha1.NetworkPolicyPeer{block("0.0.0.0/0")}}}}, "",
			"ingress enforced\negress enforced\np/egress/0 proto 0 ports 0-0 peers 0.0.0.0/0\n"},
		{"only the types given are enforced", &v1alpha1.NetworkPolicySpec{PolicyTypes: []string{"Egress"}, Ingress: []*v1alpha1.NetworkPolicyRule{{}}}, "",
			"egress enforced\n"},
		{"a faulty rule allows nothing and is told", toDB(
			&v1alpha1.NetworkPolicyRule{From: []*v1alpha1.NetworkPolicyPeer{block("10.0.0.1/29")}}, &v1alpha1.NetworkPolicyRule{Ports: []*v1alpha1.NetworkPolicyPort{port("TCP", 22, 0)}}),
			"compile rules: p/ingress/0: prefix 10.0.0.1/29 has bits behind its length; want 10.0.0.0/29",
			"ingress enforced\np/ingress/1 proto 6 ports 22-22 peers \n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := Compile([]Policy{{Name: "p", Spec: tc.spec}}, members)
			if diff := cmp.Diff(tc.want, render(r.Compiled[1])); diff != "" {
				t.Errorf("rules of db (-want +got):\n%s", diff)
			}
			var fault string
			if err := r.Policies[0].Fault; err != nil {
				fault = err.Error()
			}
			if fault != tc.fault {
				t.Errorf("fault %q, want %q", fault, tc.fault)
			}
		})
	}
}

func TestSeveralPoliciesAddUp(t *testing.T) {
	allow := func(p uint32) *v1alpha1.NetworkPolicySpec {
		return &v1alpha1.NetworkPolicySpec{Ingress: []*v1alpha1.NetworkPolicyRule{{Ports: []*v1alpha1.NetworkPolicyPort{port("TCP", p, 0)}}}}
	}
	r := Compile([]Policy{{"b", allow(443)}, {"a", allow(80)}}, []Member{member("x", "")})
	want := "ingress enforced\na/ingress/0 proto 6 ports 80-80 peers \nb/ingress/0 proto 6 ports 443-443 peers \n"
	if diff := cmp.Diff(want, render(r.Compiled[0])); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Outcome{{Name: "a", Selected: 1}, {Name: "b", Selected: 1}}, r.Policies); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
}

func TestOrderOfInputDoesNotChangeTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		label := rapid.SampledFrom([]string{"app=a", "app=b", "app=c"})
		var members []Member
		for i := range rapid.IntRange(1, 8).Draw(t, "members") {
			members = append(members, member(fmt.Sprint("m", i), label.Draw(t, "label"), fmt.Sprintf("10.0.0.%d", i+2)))
		}
		var policies []Policy
		for i := range rapid.IntRange(1, 4).Draw(t, "policies") {
			policies = append(policies, Policy{Name: fmt.Sprint("p", i), Spec: &v1alpha1.NetworkPolicySpec{
				NetworkInterfaceSelector: selector(label.Draw(t, "selects")),
				Ingress: []*v1alpha1.NetworkPolicyRule{{From: []*v1alpha1.NetworkPolicyPeer{
					peersWith(label.Draw(t, "peer")), peersWith(label.Draw(t, "peer")), block("192.168.0.0/24", "192.168.0.128/25")}}},
			}})
		}
		first := Compile(policies, members)
		shuffled := rapid.Permutation(members).Draw(t, "order")
		second := Compile(rapid.Permutation(policies).Draw(t, "policy order"), shuffled)
		for i, c := range second.Compiled {
			j := slices.IndexFunc(members, func(m Member) bool { return m.UID == shuffled[i].UID })
			if !proto.Equal(c, first.Compiled[j]) {
				t.Fatalf("rules of %s differ by order of input:\n%s\n%s", shuffled[i].Name, render(c), render(first.Compiled[j]))
			}
		}
	})
}

func TestPolicyTooLargeForAHostAllowsNothing(t *testing.T) {
	var ports []*v1alpha1.NetworkPolicyPort
	for i := range maxRules {
		ports = append(ports, port("TCP", uint32(i+1), 0))
	}
	var except []string
	for i := range 2048 {
		except = append(except, fmt.Sprintf("fd00:%x::1/128", i))
	}
	many := &v1alpha1.NetworkPolicySpec{Ingress: []*v1alpha1.NetworkPolicyRule{{Ports: ports}}}
	for _, tc := range []struct {
		name     string
		policies []Policy
		fault    string
		rules    int
	}{
		{"as many as fit", []Policy{{"a", many}}, "", maxRules},
		{"too many rules of two policies", []Policy{{"a", many}, {"b", many}}, "more than 16384 rules", maxRules},
		{"too many peers", []Policy{{"b", &v1alpha1.NetworkPolicySpec{Ingress: []*v1alpha1.NetworkPolicyRule{
			{Ports: ports[:10], From: []*v1alpha1.NetworkPolicyPeer{block("::/0", except[:256]...)}}}}}}, "131072 peers", 0},
		{"too many exceptions", []Policy{{"b", &v1alpha1.NetworkPolicySpec{Ingress: []*v1alpha1.NetworkPolicyRule{
			{From: []*v1alpha1.NetworkPolicyPeer{block("::/0", except...)}}}}}}, "more than 131072 blocks", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := Compile(tc.policies, []Member{member("m", "")})
			if got := len(r.Compiled[0].Ingress.Rules); got != tc.rules || !r.Compiled[0].Ingress.Enforced {
				t.Errorf("%d rules, enforced %v; want %d, enforced", got, r.Compiled[0].Ingress.Enforced, tc.rules)
			}
			fault := r.Policies[len(r.Policies)-1].Fault
			if got := fmt.Sprint(fault); tc.fault == "" && fault != nil || !strings.Contains(got, tc.fault) && tc.fault != "" {
				t.Errorf("fault %v, want %q", fault, tc.fault)
			}
		})
	}
}
