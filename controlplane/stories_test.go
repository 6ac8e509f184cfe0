package controlplane

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/hostview"
	"ingot/runtime/resource"
)

func TestTwoMachinesComeToLifeOnTwoHostsAndLeaveNothing(t *testing.T) {
	r := newRig(t)
	r.world()
	before := r.count()
	r.create(api.Machine, "a", nil, machineSpec(nil))
	r.create(api.Machine, "b", nil, machineSpec(nil))
	r.settle()
	if a, b := hostOf(r, "a"), hostOf(r, "b"); a == "" || b == "" || a == b {
		t.Errorf("a is on %q, b on %q; want two hosts\n%s", a, b, r.dump())
	}
	if got := len(r.list(api.HostMachine)); got != 2 {
		t.Fatalf("%d host machines, want 2; waiting for: %q %q", got, prepared(r, "a"), prepared(r, "b"))
	}
	var ips []string
	for _, hi := range r.list(api.HostInterface) {
		s := resource.Spec[*v1alpha1.HostInterfaceSpec](hi)
		ips = append(ips, s.GetIps()...)
		if s.GetVni() != 100 || !strings.HasPrefix(s.GetMac(), "02:") || s.GetHost() == "" {
			t.Errorf("host interface %v", s)
		}
	}
	slices.Sort(ips)
	if got := strings.Join(ips, " "); got != "10.0.0.2 10.0.0.3" {
		t.Errorf("addresses %s", got)
	}
	hm := resource.Spec[*v1alpha1.HostMachineSpec](r.list(api.HostMachine)[0])
	if v := hm.GetVolumes(); len(v) != 1 || v[0].GetDevice() != "oda" || v[0].GetSizeBytes() != 10<<30 || hm.GetPower() != "On" || hm.GetHostname() != hm.GetName() {
		t.Errorf("host machine %v", hm)
	}
	r.delete(api.Machine, "a")
	r.delete(api.Machine, "b")
	r.settle()
	if diff := r.count(); diff != before {
		t.Errorf("left behind: %s, was %s\n%s", diff, before, r.dump())
	}
}

// count is how many objects there are of each kind, without what is kept of pools and reports.
func (r *rig) count() string {
	var b strings.Builder
	for _, info := range api.Kinds() {
		switch info.Kind {
		case api.MachinePoolUsage, api.MachineStatus, api.PrefixStatus, api.NetworkStatus, api.VNIAllocation:
			continue
		}
		if n := len(r.list(info.Kind)); n > 0 {
			fmt.Fprintf(&b, "%s=%d ", info.Kind, n)
		}
	}
	return b.String()
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func TestAMachineThatIsRefusedGoesElsewhere(t *testing.T) {
	r := newRig(t)
	r.world()
	r.refuses = func(host string, m *v1alpha1.HostMachineSpec) string {
		if host == "h1" || m.GetName() == "b" {
			return "no KVM"
		}
		return ""
	}
	r.create(api.Machine, "a", nil, machineSpec(nil))
	r.settle()
	want(t, "host", hostOf(r, "a"), "h2")
	p := resource.Spec[*v1alpha1.MachinePlacementSpec](r.get(api.MachinePlacement, "a"))
	want(t, "refused", fmt.Sprint(p.GetRefused()), "map[h1:no KVM]")
	want(t, "machines at h1", fmt.Sprint(resource.Spec[*v1alpha1.MachinePoolUsageSpec](r.get(api.MachinePoolUsage, "h1")).GetUsed()), "map[]")
	if hm := r.list(api.HostMachine); len(hm) != 1 || resource.Spec[*v1alpha1.HostMachineSpec](hm[0]).GetHost() != "h2" {
		t.Errorf("host machines %v", hm)
	}

	r.create(api.Machine, "b", nil, machineSpec(nil))
	r.settle()
	want(t, "why not scheduled", scheduled(r, "b"), "0/2 pools fit: 2 refused the machine: no KVM")
	if hm := r.list(api.HostMachine); len(hm) != 1 {
		t.Errorf("host machines %v", hm)
	}
}

func TestWhatDoesNotFitWaitsForRoom(t *testing.T) {
	r := newRig(t)
	r.world()
	big := func() *v1alpha1.MachineSpec {
		s := machineSpec(nil)
		s.MachineClassRef.Name = "big"
		return s
	}
	r.create(api.Machine, "a", nil, big())
	r.settle()
	want(t, "why not scheduled", scheduled(r, "a"), `machine class "big" does not exist`)
	r.create(api.MachineClass, "big", nil, &v1alpha1.MachineClassSpec{Capabilities: map[string]string{"cpu": "1", "memory": "12Gi"}})
	r.settle()
	want(t, "why not scheduled", scheduled(r, "a"), `0/2 pools fit: 2 class "big" not offered`)
	for _, pool := range []string{"h1", "h2"} {
		r.change(api.MachinePoolStatus, pool, func(res *resource.Resource) {
			s := resource.Spec[*v1alpha1.MachinePoolStatus](res)
			s.AvailableMachineClasses = append(s.AvailableMachineClasses, &v1alpha1.LocalRef{Name: "big"})
		})
	}
	r.create(api.Machine, "b", nil, big())
	r.create(api.Machine, "c", nil, big())
	r.settle()
	waiting := ""
	for _, m := range []string{"a", "b", "c"} {
		if hostOf(r, m) == "" {
			waiting = m
		}
	}
	want(t, "why not scheduled", scheduled(r, waiting), "0/2 pools fit: 2 not enough memory (need 12Gi, free 4Gi)")
	for _, m := range []string{"a", "b", "c"} {
		if m != waiting {
			r.delete(api.Machine, m)
			break
		}
	}
	r.settle()
	if hostOf(r, waiting) == "" {
		t.Errorf("%s was not placed when another went: %s", waiting, scheduled(r, waiting))
	}
}

func TestASilentHostKeepsWhatItHas(t *testing.T) {
	r := newRig(t)
	r.world()
	r.create(api.Machine, "a", nil, machineSpec(nil))
	r.settle()
	host := hostOf(r, "a")
	r.frozen[host] = true
	r.put("presence", resource.Key{Kind: api.MachinePoolPresence, Name: host}, &v1alpha1.MachinePoolPresenceSpec{State: "Offline"})
	r.create(api.Machine, "b", nil, machineSpec(nil))
	r.create(api.Machine, "c", nil, machineSpec(nil))
	r.settle()
	want(t, "host of a", hostOf(r, "a"), host)
	if hostOf(r, "b") == host || hostOf(r, "c") == host {
		t.Errorf("machines were placed on the silent host %s", host)
	}

	uid := r.get(api.Machine, "a").UID
	ip := nicStatus(r, "a-nic0").GetIps()[0]
	r.delete(api.Machine, "a")
	r.settle()
	if m := r.find(api.Machine, "a"); m == nil || m.UID != uid || hostOf(r, "a") != host {
		t.Fatalf("the machine was forgotten before its host had let go\n%s", r.dump())
	}
	want(t, "address of a", nicStatus(r, "a-nic0").GetIps()[0], ip)
	want(t, "a waits", prepared(r, "a"), fmt.Sprintf("host %q has not let go of the machine yet", host))

	r.frozen[host] = false
	r.settle()
	if r.find(api.Machine, "a") != nil || r.find(api.NetworkInterface, "a-nic0") != nil || r.find(api.MachinePlacement, "a") != nil {
		t.Errorf("the machine is still there\n%s", r.dump())
	}
	r.create(api.Machine, "a", nil, machineSpec(nil))
	r.settle()
	want(t, "address of the new a", nicStatus(r, "a-nic0").GetIps()[0], ip)
	if r.get(api.Machine, "a").UID == uid || prepared(r, "a") != "" {
		t.Errorf("new machine waits for %q", prepared(r, "a"))
	}
}

func TestAHostThatIsWrittenOffHoldsNothing(t *testing.T) {
	r := newRig(t)
	r.world()
	r.create(api.Machine, "a", nil, machineSpec(nil))
	r.create(api.Machine, "b", nil, machineSpec(nil))
	r.settle()
	host := hostOf(r, "a")
	r.frozen[host] = true
	presence := func(state string) {
		key := resource.Key{Kind: api.MachinePoolPresence, Name: host}
		r.put("presence", key, &v1alpha1.MachinePoolPresenceSpec{State: state})
	}
	presence("Online")
	r.delete(api.Machine, "a")
	r.settle()
	r.change(api.MachinePool, host, func(p *resource.Resource) {
		p.Annotations = map[string]string{hostview.AnnotationWrittenOff: "true"}
	})
	r.settle()
	if r.find(api.Machine, "a") == nil {
		t.Fatal("a host that is heard of was believed to be gone")
	}
	presence("Offline")
	r.settle()
	if r.find(api.Machine, "a") != nil || r.find(api.NetworkInterface, "a-nic0") != nil || r.find(api.MachinePlacement, "a") != nil {
		t.Errorf("the machine is still there\n%s", r.dump())
	}
	if r.find(api.Machine, "b") == nil || hostOf(r, "b") == "" {
		t.Errorf("a machine that nobody deleted is gone\n%s", r.dump())
	}
}

func TestAMachineSaysWhatItWaitsFor(t *testing.T) {
	r := newRig(t)
	r.pool("h1", capacity)
	r.create(api.MachineClass, "small", nil, &v1alpha1.MachineClassSpec{Capabilities: map[string]string{"cpu": "1", "memory": "1Gi"}})
	spec := machineSpec(nil)
	spec.IgnitionRef = &v1alpha1.KeyRef{Name: "boot"}
	r.create(api.Machine, "a", nil, spec)
	r.settle()
	want(t, "waits", prepared(r, "a"), `secret "boot" does not exist; network interface "a-nic0": network "net" has no VNI yet; parent "root" does not exist`)
	r.create(api.Secret, "boot", nil, &v1alpha1.SecretSpec{Data: map[string][]byte{"other": nil}})
	r.create(api.Network, "net", nil, &v1alpha1.NetworkSpec{})
	r.settle()
	want(t, "waits", prepared(r, "a"), `secret "boot" has no key "ignition.yaml"; network interface "a-nic0": parent "root" does not exist`)
	r.create(api.Prefix, "root", nil, &v1alpha1.PrefixSpec{Prefix: "10.0.0.0/29"})
	r.change(api.Secret, "boot", func(res *resource.Resource) {
		resource.Spec[*v1alpha1.SecretSpec](res).Data = map[string][]byte{"ignition.yaml": []byte("hello")}
	})
	r.settle()
	want(t, "waits", prepared(r, "a"), "")
	hm := r.list(api.HostMachine)
	if len(hm) != 1 || string(resource.Spec[*v1alpha1.HostMachineSpec](hm[0]).GetIgnition()) != "hello" {
		t.Errorf("host machines %v", hm)
	}
}

func TestAnExhaustedPrefixIsNamedAndRetried(t *testing.T) {
	r := newRig(t)
	r.create(api.Network, "net", nil, &v1alpha1.NetworkSpec{})
	r.create(api.Prefix, "tiny", nil, &v1alpha1.PrefixSpec{Prefix: "10.9.0.0/30"})
	r.settle()
	r.create(api.NetworkInterface, "x", nil, nicSpec(ephemeralIP("tiny")))
	r.settle()
	r.create(api.NetworkInterface, "y", nil, nicSpec(ephemeralIP("tiny")))
	r.settle()
	want(t, "state", nicStatus(r, "y").GetState(), "Pending")
	want(t, "why", nicStatus(r, "y").GetConditions()[0].GetMessage(), `prefix "tiny" (10.9.0.0/30) has no free /32: 1 of 4 addresses in use`)
	r.delete(api.NetworkInterface, "x")
	r.settle()
	want(t, "address", strings.Join(nicStatus(r, "y").GetIps(), " "), "10.9.0.2")
	want(t, "used", strings.Join(resource.Spec[*v1alpha1.PrefixStatus](r.get(api.PrefixStatus, "tiny")).GetUsed(), " "), "10.9.0.2/32")
}

func TestPrefixesAreTakenFromParentsThatFit(t *testing.T) {
	r := newRig(t)
	labels := map[string]string{"zone": "a"}
	r.create(api.Prefix, "wide", labels, &v1alpha1.PrefixSpec{Prefix: "10.0.0.0/8"})
	r.create(api.Prefix, "narrow", labels, &v1alpha1.PrefixSpec{Prefix: "192.168.0.0/23", Reserved: []string{"192.168.0.0/24"}})
	r.create(api.Prefix, "other", map[string]string{"zone": "b"}, &v1alpha1.PrefixSpec{Prefix: "172.16.0.0/23"})
	r.settle()
	selector := &v1alpha1.LabelSelector{MatchLabels: labels}
	for _, name := range []string{"s1", "s2"} {
		r.create(api.Prefix, name, nil, &v1alpha1.PrefixSpec{IpFamily: "IPv4", PrefixLength: 24, ParentSelector: selector})
		r.settle()
	}
	r.create(api.Prefix, "s3", nil, &v1alpha1.PrefixSpec{Prefix: "10.0.0.0/16", ParentRef: &v1alpha1.LocalRef{Name: "wide"}})
	r.settle()
	status := func(name string) *v1alpha1.PrefixStatus {
		return resource.Spec[*v1alpha1.PrefixStatus](r.get(api.PrefixStatus, name))
	}
	want(t, "first part: the smaller parent, not its reserved half", status("s1").GetPrefix(), "192.168.1.0/24")
	want(t, "second part", status("s2").GetPrefix(), "10.0.0.0/24")
	want(t, "overlapping part", status("s3").GetConditions()[0].GetMessage(), `10.0.0.0/16 of prefix "wide" (10.0.0.0/8) is in use: it overlaps 10.0.0.0/24`)

	r.delete(api.Prefix, "wide")
	r.settle()
	if r.find(api.Prefix, "wide") == nil {
		t.Fatal("a prefix with parts in use was forgotten")
	}
	r.delete(api.Prefix, "s2")
	r.delete(api.Prefix, "s3")
	r.settle()
	if r.find(api.Prefix, "wide") != nil || len(r.list(api.PrefixAllocation)) != 1 {
		t.Errorf("left behind\n%s", r.dump())
	}
}

func TestNobodyTakesOverWhatBelongsToAnother(t *testing.T) {
	r := newRig(t)
	r.world()
	fixed := &v1alpha1.InterfaceIP{Value: "10.0.0.50"}
	r.create(api.NetworkInterface, "a-nic0", nil, nicSpec(fixed))
	r.create(api.Prefix, "b-nic0-0", nil, &v1alpha1.PrefixSpec{Prefix: "10.77.0.0/24"})
	r.settle()
	uid := r.get(api.NetworkInterface, "a-nic0").UID
	r.create(api.Machine, "a", nil, machineSpec(nil))
	r.create(api.Machine, "b", nil, machineSpec(nil))
	r.settle()
	want(t, "a waits", prepared(r, "a"), `network interface "a-nic0" exists and was not made for this machine`)
	want(t, "b waits", prepared(r, "b"), `network interface "b-nic0": prefix "b-nic0-0" exists and was not made for this interface`)
	want(t, "uid", r.get(api.NetworkInterface, "a-nic0").UID, uid)
	r.delete(api.NetworkInterface, "a-nic0")
	r.delete(api.Prefix, "b-nic0-0")
	r.settle()
	want(t, "a waits", prepared(r, "a"), "")
	want(t, "b waits", prepared(r, "b"), "")
}

func TestAnAddressIsUsedOncePerNetwork(t *testing.T) {
	r := newRig(t)
	r.world()
	r.create(api.Network, "net2", nil, &v1alpha1.NetworkSpec{})
	fixed := &v1alpha1.InterfaceIP{Value: "10.0.0.2"}
	r.create(api.NetworkInterface, "x", nil, nicSpec(fixed))
	r.settle()
	r.create(api.NetworkInterface, "y", nil, nicSpec(fixed))
	other := nicSpec(fixed)
	other.NetworkRef.Name = "net2"
	r.create(api.NetworkInterface, "z", nil, other)
	r.settle()
	want(t, "y", nicStatus(r, "y").GetState()+": "+nicStatus(r, "y").GetConditions()[0].GetMessage(), `Error: address 10.0.0.2 is in use by network interface "x"`)
	want(t, "z in another network", nicStatus(r, "z").GetState(), "Available")
	if nicStatus(r, "x").GetMac() == nicStatus(r, "z").GetMac() {
		t.Error("two interfaces have one MAC")
	}
	mac := nicStatus(r, "x").GetMac()
	r.restart()
	r.settle()
	want(t, "MAC after a restart", nicStatus(r, "x").GetMac(), mac)
	r.delete(api.NetworkInterface, "x")
	r.settle()
	want(t, "y when x is gone", nicStatus(r, "y").GetState(), "Available")
}

func TestAnInterfaceServesOneMachineAtATime(t *testing.T) {
	r := newRig(t)
	r.world()
	r.create(api.NetworkInterface, "shared", nil, nicSpec(ephemeralIP("root")))
	spec := machineSpec(nil)
	spec.NetworkInterfaces = []*v1alpha1.MachineInterface{{Name: "nic0", NetworkInterfaceRef: &v1alpha1.LocalRef{Name: "shared"}}}
	r.create(api.Machine, "a", nil, proto.CloneOf(spec))
	r.settle()
	r.create(api.Machine, "b", nil, proto.CloneOf(spec))
	r.settle()
	want(t, "b waits", prepared(r, "b"), fmt.Sprintf(`network interface "shared": in use by another machine on host %q`, hostOf(r, "a")))
	r.delete(api.NetworkInterface, "shared")
	r.settle()
	if r.find(api.NetworkInterface, "shared") == nil {
		t.Fatal("an interface in use was forgotten")
	}
	r.delete(api.Machine, "a")
	r.settle()
	if r.find(api.NetworkInterface, "shared") != nil || r.find(api.Machine, "a") != nil {
		t.Errorf("left behind\n%s", r.dump())
	}
	want(t, "b waits", prepared(r, "b"), `network interface "shared" does not exist`)
}

func TestNetworksGetTheFirstFreeVNIAndKeepItWhileInUse(t *testing.T) {
	r := newRig(t)
	vni := func(name string) string {
		s := resource.Spec[*v1alpha1.NetworkStatus](r.get(api.NetworkStatus, name))
		return fmt.Sprintf("%s %d %s", s.GetState(), s.GetVni(), s.GetConditions()[0].GetMessage())
	}
	r.create(api.Network, "wanted", nil, &v1alpha1.NetworkSpec{ProviderId: "ingot://vni/101"})
	r.settle()
	for _, name := range []string{"n1", "n2"} {
		r.create(api.Network, name, nil, &v1alpha1.NetworkSpec{})
		r.settle()
	}
	r.create(api.Network, "late", nil, &v1alpha1.NetworkSpec{ProviderId: "ingot://vni/102"})
	r.create(api.Network, "wrong", nil, &v1alpha1.NetworkSpec{ProviderId: "ingot://vni/many"})
	r.settle()
	want(t, "n1", vni("n1"), "Available 100 ")
	want(t, "n2", vni("n2"), "Available 102 ")
	want(t, "late", vni("late"), "Error 0 VNI 102 is in use by network p/n2")
	want(t, "wrong", vni("wrong"), `Error 0 providerID "ingot://vni/many" is not ingot://vni/ and a number from 1 to 16777215`)
	nic := nicSpec(&v1alpha1.InterfaceIP{Value: "10.0.0.9"})
	nic.NetworkRef.Name = "n2"
	r.create(api.NetworkInterface, "x", nil, nic)
	r.delete(api.Network, "n2")
	r.settle()
	if r.find(api.Network, "n2") == nil {
		t.Fatal("a network in use was forgotten")
	}
	r.delete(api.NetworkInterface, "x")
	r.settle()
	want(t, "late, once 102 is free", vni("late"), "Available 102 ")
	for _, name := range []string{"n1", "late", "wanted", "wrong"} {
		r.delete(api.Network, name)
	}
	r.settle()
	if n := len(r.list(api.VNIAllocation)) + len(r.list(api.NetworkStatus)) + len(r.list(api.Network)); n != 0 {
		t.Errorf("left behind\n%s", r.dump())
	}
}

func TestAPolicyChangeWritesOnlyWhatItTouches(t *testing.T) {
	r := newRig(t)
	r.world()
	for _, name := range []string{"web", "db", "other"} {
		r.create(api.Machine, name, nil, machineSpec(map[string]string{"app": name}))
	}
	r.create(api.NetworkPolicy, "db-from-web", nil, &v1alpha1.NetworkPolicySpec{
		NetworkRef: &v1alpha1.LocalRef{Name: "net"}, NetworkInterfaceSelector: &v1alpha1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
		Ingress: []*v1alpha1.NetworkPolicyRule{{From: []*v1alpha1.NetworkPolicyPeer{{ObjectSelector: &v1alpha1.ObjectSelector{MatchLabels: map[string]string{"app": "web"}}}}}},
	})
	r.settle()
	peers := func() []string {
		for _, hi := range r.list(api.HostInterface) {
			if s := resource.Spec[*v1alpha1.HostInterfaceSpec](hi); s.GetName() == "db-nic0" {
				return s.GetIngress().GetRules()[0].GetPeers()
			}
		}
		return nil
	}
	web := nicStatus(r, "web-nic0").GetIps()[0] + "/32"
	want(t, "peers of db", strings.Join(peers(), " "), web)
	status := resource.Spec[*v1alpha1.NetworkPolicyStatus](r.get(api.NetworkPolicyStatus, "db-from-web"))
	want(t, "selected", fmt.Sprint(status.GetSelectedInterfaces()), "1")

	revisions := map[string]uint64{}
	for _, c := range append(r.list(api.CompiledPolicy), r.list(api.HostInterface)...) {
		revisions[c.Key.String()] = c.Revision
	}
	r.change(api.Machine, "other", func(res *resource.Resource) {
		resource.Spec[*v1alpha1.MachineSpec](res).NetworkInterfaces[0].Ephemeral.NetworkInterfaceTemplate.Metadata.Labels = map[string]string{"app": "web"}
	})
	r.settle()
	both := []string{web, nicStatus(r, "other-nic0").GetIps()[0] + "/32"}
	slices.Sort(both)
	want(t, "peers of db", strings.Join(peers(), " "), strings.Join(both, " "))
	var touched []string
	for _, c := range append(r.list(api.CompiledPolicy), r.list(api.HostInterface)...) {
		if revisions[c.Key.String()] != c.Revision {
			touched = append(touched, string(c.Kind))
		}
	}
	want(t, "written", strings.Join(touched, " "), "CompiledPolicy HostInterface")
	r.delete(api.NetworkPolicy, "db-from-web")
	r.settle()
	if n := len(r.list(api.NetworkPolicyStatus)); n != 0 {
		t.Errorf("%d policy statuses left", n)
	}
	for _, c := range r.list(api.CompiledPolicy) {
		if s := resource.Spec[*v1alpha1.CompiledPolicySpec](c); s.GetIngress().GetEnforced() {
			t.Errorf("%s is enforced without a policy", c.Key)
		}
	}
}
