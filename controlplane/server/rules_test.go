package server_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/store"
)

// object writes a manifest in project shop.
func manifest(group, kind, name, body string) string {
	namespace := ", namespace: shop"
	if info, _ := api.Find(kind); info.Global {
		namespace = ""
	}
	return fmt.Sprintf("apiVersion: %s.ironcore.dev/v1alpha1\nkind: %s\nmetadata: {name: %s%s}\n%s\n", group, kind, name, namespace, body)
}

func machineWith(fields string) string {
	return manifest("compute", "Machine", "m", "spec: {machineClassRef: {name: small}, "+fields+"}")
}

func nicWith(fields string) string {
	return manifest("networking", "NetworkInterface", "nic", "spec: {networkRef: {name: lan}, "+fields+"}")
}

func policyWith(fields string) string {
	return manifest("networking", "NetworkPolicy", "p", "spec: {networkRef: {name: lan}, "+fields+"}")
}

func prefixWith(fields string) string {
	return manifest("ipam", "Prefix", "other", "spec: {"+fields+"}")
}

// badCreations are refused with all of the faults given as "path: text".
var badCreations = []struct {
	name, manifest string
	faults         []string
}{
	{"a name that is no label", manifest("core", "Project", "Shop_1", ""), []string{`metadata.name: "Shop_1" is not a DNS label`}},
	{"a name that is too long", manifest("core", "Project", strings.Repeat("a", 64), ""), []string{"metadata.name: "}},
	{"no such project", strings.Replace(machineWith("power: 'On'"), "namespace: shop", "namespace: nope", 1),
		[]string{`metadata.namespace: no Project "nope"; existing: shop`}},
	{"a label with a space", strings.Replace(machineWith("power: 'On'"), "namespace: shop", "namespace: shop, labels: {a: b c}", 1),
		[]string{`metadata.labels[a]: value "b c"`}},
	{"a label key without name", strings.Replace(machineWith("power: 'On'"), "namespace: shop", "namespace: shop, labels: {x/: b}", 1),
		[]string{`metadata.labels: key "x/"`}},

	{"a class without cpu", manifest("compute", "MachineClass", "c", "capabilities: {memory: 1Gi}"), []string{"capabilities.cpu: required"}},
	{"a class with half a core", manifest("compute", "MachineClass", "c", "capabilities: {cpu: 500m, memory: 1Gi}"),
		[]string{"capabilities.cpu: 500m is not a whole number of cores"}},
	{"a class with less than nothing", manifest("compute", "MachineClass", "c", "capabilities: {cpu: 0, memory: -1, gpu: much}"),
		[]string{"capabilities.cpu: 0 is not more than zero", "capabilities.memory: -1 is not", `capabilities.gpu: "much" is not a quantity`}},
	{"a taint with an unknown effect", manifest("compute", "MachinePool", "h9", "spec: {taints: [{key: a, effect: Never}]}"),
		[]string{`spec.taints[0].effect: "Never" is none of NoSchedule, NoExecute`}},
	{"a taint twice", manifest("compute", "MachinePool", "h9", "spec: {taints: [{key: a, effect: NoSchedule}, {key: a, effect: NoSchedule}]}"),
		[]string{"spec.taints[1]: key \"a\" has effect NoSchedule twice"}},

	{"no class", manifest("compute", "Machine", "m", "spec: {power: 'On'}"), []string{"spec.machineClassRef.name: required"}},
	{"an unknown class", strings.Replace(machineWith("power: 'On'"), "name: small", "name: huge", 1),
		[]string{`spec.machineClassRef.name: no MachineClass "huge"; existing: small`}},
	{"several faults at once", machineWith("power: Standby, guestConfig: {hostname: A.B}, ignitionRef: {name: S}"),
		[]string{`spec.power: "Standby" is none of On, Off`, `spec.guestConfig.hostname: "A.B" is not`, `spec.ignitionRef.name: "S" is not`}},
	{"a NIC name twice", machineWith("networkInterfaces: [{name: a, networkInterfaceRef: {name: x}}, {name: a, networkInterfaceRef: {name: z}}]"),
		[]string{`spec.networkInterfaces[1].name: duplicate "a"`}},
	{"an interface twice", machineWith("networkInterfaces: [{name: a, networkInterfaceRef: {name: x}}, {name: b, networkInterfaceRef: {name: x}}]"),
		[]string{`spec.networkInterfaces[1]: duplicate "x"`}},
	{"a NIC without source", machineWith("networkInterfaces: [{name: a}]"),
		[]string{"spec.networkInterfaces[0]: want exactly one of networkInterfaceRef and ephemeral"}},
	{"a NIC with two sources", machineWith("networkInterfaces: [{name: a, networkInterfaceRef: {name: x}, ephemeral: {}}]"),
		[]string{"spec.networkInterfaces[0]: want exactly one of networkInterfaceRef and ephemeral"}},
	{"a fault in a template", machineWith("networkInterfaces: [{name: a, ephemeral: {networkInterfaceTemplate: {spec: {networkRef: {name: lan}, ipFamilies: [IPv5], ips: [{value: 10.1.0.4}]}}}}]"),
		[]string{`spec.networkInterfaces[0].ephemeral.networkInterfaceTemplate.spec.ipFamilies[0]: "IPv5" is none of IPv4, IPv6`}},
	{"a template without spec", machineWith("networkInterfaces: [{name: a, ephemeral: {}}]"),
		[]string{"spec.networkInterfaces[0].ephemeral.networkInterfaceTemplate.spec: required"}},
	{"a volume name twice", machineWith("volumes: [{name: a, localDisk: {}}, {name: a, localDisk: {}}]"), []string{`spec.volumes[1].name: duplicate "a"`}},
	{"a bad device", machineWith("volumes: [{name: a, device: sda1, localDisk: {}}]"), []string{`spec.volumes[0].device: "sda1" does not match`}},
	{"a device twice", machineWith("volumes: [{name: a, device: oda, localDisk: {}}, {name: b, device: oda, localDisk: {}}]"),
		[]string{`spec.volumes[1].device: duplicate "oda"`}},
	{"a volume without source", machineWith("volumes: [{name: a}]"), []string{"spec.volumes[0]: want exactly one of localDisk and emptyDisk"}},
	{"a bad size", machineWith("volumes: [{name: a, localDisk: {sizeLimit: 10GB2}}]"), []string{`spec.volumes[0].localDisk.sizeLimit: "10GB2" is not a quantity`}},
	{"an empty disk with an image", machineWith("volumes: [{name: a, emptyDisk: {image: r/x:1}}]"), []string{"spec.volumes[0].emptyDisk.image: an empty disk has no image"}},
	{"root twice", machineWith("image: r/x:1, volumes: [{name: root, localDisk: {}}]"), []string{"spec.volumes[0].name: spec.image already stands for"}},
	{"a bad image", machineWith("image: 'oci-layout:relative:tag'"), []string{"spec.image: "}},
	{"a bad toleration", machineWith("tolerations: [{operator: Like, effect: Now}, {operator: Equal}, {key: a, operator: Exists, value: b}]"),
		[]string{`spec.tolerations[0].operator: "Like" is none of`, `spec.tolerations[0].effect: "Now" is none of`, "spec.tolerations[1].key: required", "spec.tolerations[2].value: operator Exists takes none"}},

	{"a VNI that is too large", manifest("networking", "Network", "nic", "spec: {providerID: 'ingot://vni/16777216'}"), []string{"spec.providerID: "}},
	{"an interface without families", nicWith("ips: [{value: 10.1.0.4}]"), []string{"spec.ipFamilies: required"}},
	{"fewer addresses than families", nicWith("ipFamilies: [IPv4, IPv6], ips: [{value: 10.1.0.4}]"), []string{"spec.ips: want one for each of ipFamilies (IPv4, IPv6), got 1"}},
	{"a family twice", nicWith("ipFamilies: [IPv4, IPv4], ips: [{value: 10.1.0.4}, {value: 10.1.0.5}]"), []string{`spec.ipFamilies[1]: duplicate "IPv4"`}},
	{"an address of the other family", nicWith("ipFamilies: [IPv6], ips: [{value: 10.1.0.4}]"), []string{"spec.ips[0].value: 10.1.0.4 is IPv4, but"}},
	{"no address", nicWith("ipFamilies: [IPv4], ips: [{value: 10.1.0.400}]"), []string{`spec.ips[0].value: "10.1.0.400" is not an IP address`}},
	{"an address for groups", nicWith("ipFamilies: [IPv4], ips: [{value: 224.0.0.1}]"), []string{"spec.ips[0].value: 224.0.0.1 cannot be"}},
	{"an address with both sources", nicWith("ipFamilies: [IPv4], ips: [{value: 10.1.0.4, ephemeral: {}}]"), []string{"spec.ips[0]: want exactly one of value and ephemeral"}},
	{"an address without parent", nicWith("ipFamilies: [IPv4], ips: [{ephemeral: {prefixTemplate: {spec: {}}}}]"),
		[]string{"spec.ips[0].ephemeral.prefixTemplate.spec.parentRef: required"}},
	{"a block for an address", nicWith("ipFamilies: [IPv4], ips: [{ephemeral: {prefixTemplate: {spec: {prefixLength: 24, parentRef: {name: block}}}}}]"),
		[]string{"spec.ips[0].ephemeral.prefixTemplate.spec.prefixLength: an address of a machine is a /32"}},
	{"an address in use", nicWith("ipFamilies: [IPv4], ips: [{value: 10.1.0.9}]"), []string{`spec.ips[0].value: 10.1.0.9 is the address of NetworkInterface "taken"`}},

	{"host bits in a prefix", prefixWith("prefix: 10.9.0.1/16"), []string{"spec.prefix: 10.9.0.1/16 has bits set behind /16; did you mean 10.9.0.0/16?"}},
	{"an overlapping prefix", prefixWith("prefix: 10.1.128.0/17"), []string{`spec.prefix: 10.1.128.0/17 overlaps 10.1.0.0/16 of Prefix "block"`}},
	{"no prefix at all", prefixWith("ipFamily: IPv4"), []string{"spec.prefix: required"}},
	{"a part of unknown length", prefixWith("parentRef: {name: block}"), []string{"spec.prefixLength: required"}},
	{"a part of unknown family", prefixWith("parentRef: {name: block}, prefixLength: 24"), []string{"spec.ipFamily: required"}},
	{"two ways to a parent", prefixWith("parentRef: {name: block}, parentSelector: {}, prefixLength: 24, ipFamily: IPv4"), []string{"spec.parentSelector: want one of"}},
	{"a prefix of the other family", prefixWith("prefix: 10.9.0.0/16, ipFamily: IPv6"), []string{"spec.ipFamily: IPv6, but spec.prefix is IPv4"}},
	{"a length that is too long", prefixWith("parentRef: {name: block}, prefixLength: 33, ipFamily: IPv4"), []string{"spec.prefixLength: 33 is too long"}},
	{"reserved outside", prefixWith("prefix: 10.9.0.0/16, reserved: [10.8.0.0/24]"), []string{"spec.reserved[0]: 10.8.0.0/24 is not within 10.9.0.0/16"}},

	{"an unknown protocol", policyWith("ingress: [{ports: [{protocol: GRE}]}]"), []string{`spec.ingress[0].ports[0].protocol: "GRE" is none of`}},
	{"ports of ICMP", policyWith("ingress: [{ports: [{protocol: ICMP, port: 8}]}]"), []string{"spec.ingress[0].ports[0]: ICMP has no ports"}},
	{"a range backwards", policyWith("ingress: [{ports: [{port: 90, endPort: 80}]}]"), []string{"spec.ingress[0].ports[0].endPort: 80 is below port 90"}},
	{"a port that is too large", policyWith("ingress: [{ports: [{port: 65536}]}]"), []string{"spec.ingress[0].ports[0].port: 65536 is more than 65535"}},
	{"a peer without source", policyWith("ingress: [{from: [{}]}]"), []string{"spec.ingress[0].from[0]: want exactly one of objectSelector and ipBlock"}},
	{"a block with host bits", policyWith("ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8}}]}]"), []string{"spec.ingress[0].from[0].ipBlock.cidr: 10.0.0.1/8 has bits"}},
	{"an exception outside", policyWith("ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]"),
		[]string{"spec.ingress[0].from[0].ipBlock.except[0]: 11.0.0.0/16 is not within 10.0.0.0/8"}},
	{"to in an ingress rule", policyWith("ingress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]"), []string{"spec.ingress[0].to: an ingress rule has from"}},
	{"rules of an absent type", policyWith("policyTypes: [Ingress], egress: [{}]"), []string{"spec.policyTypes: there are egress rules, but no Egress"}},
	{"an unknown operator", policyWith("networkInterfaceSelector: {matchExpressions: [{key: a, operator: Like}]}"),
		[]string{`spec.networkInterfaceSelector.matchExpressions[0].operator: "Like" is none of`}},

	{"a secret with a bad key", manifest("core", "Secret", "s", "stringData: {'a/b': c}"), []string{`data: key "a/b"`}},
	{"a token for a bad host", manifest("core", "JoinToken", "t", "spec: {host: H 1, secretHash: AAAA}"),
		[]string{`spec.host: "H 1" is not`, "spec.secretHash: want the 32 bytes", "spec.expires: required"}},
}

func TestBadObjectsAreRefusedWithThePathOfEachFault(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	apply(t, c, base+"---\n"+manifest("networking", "NetworkInterface", "taken", "spec: {networkRef: {name: lan}, ipFamilies: [IPv4], ips: [{value: 10.1.0.9}]}"))
	revision := w.store.Revision()
	for _, test := range badCreations {
		t.Run(test.name, func(t *testing.T) {
			o := one(t, test.manifest)
			for _, try := range []func() error{
				func() error { _, err := c.Create(t.Context(), &v1alpha1.CreateRequest{Object: o}); return err },
				func() error { _, err := c.Apply(t.Context(), &v1alpha1.ApplyRequest{Object: o}); return err },
				func() error {
					_, err := c.Apply(t.Context(), &v1alpha1.ApplyRequest{Object: o, DryRun: true})
					return err
				},
			} {
				err := try()
				for _, f := range test.faults {
					wantError(t, err, codes.InvalidArgument, "Invalid", f)
				}
			}
		})
	}
	if got := w.store.Revision(); got != revision {
		t.Errorf("store is at revision %d, was at %d: something was created", got, revision)
	}
}

func TestWhatCannotChangeIsRefused(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	placed := strings.Replace(machine, "spec:", "spec:\n  machinePoolRef: {name: h1}\n  ignitionRef: {name: ign}", 1)
	apply(t, c, base+"---"+placed+"---\n"+nicWith("ipFamilies: [IPv4], ips: [{value: 10.1.0.9}]")+"---\n"+policyWith("ingress: [{}]"))
	swap := func(m, old, next string) string {
		if !strings.Contains(m, old) {
			t.Fatalf("%q is not in %s", old, m)
		}
		return strings.Replace(m, old, next, 1)
	}
	for _, test := range []struct{ name, manifest, fault string }{
		{"a class", manifest("compute", "MachineClass", "small", "capabilities: {cpu: 4, memory: 1Gi}"), "capabilities: a MachineClass cannot be changed"},
		{"a machine's class", swap(placed, "machineClassRef: {name: small}", "machineClassRef: {name: big}"), "spec.machineClassRef: cannot be changed from"},
		{"a machine's pool", swap(placed, "h1", "h2"), `spec.machinePoolRef: can be set once; it is "h1"`},
		{"a machine's image", swap(placed, "guest:1", "guest:2"), "spec.image: cannot be changed"},
		{"a machine's ignition", swap(placed, "name: ign", "name: other"), "spec.ignitionRef: cannot be changed"},
		{"a machine's hostname", swap(placed, "spec:", "spec:\n  guestConfig: {hostname: x}"), "spec.guestConfig.hostname: cannot be changed"},
		{"a machine's interfaces", swap(placed, "eth0", "eth1"), "spec.networkInterfaces: cannot be changed"},
		{"a machine's volumes", swap(placed, "spec:", "spec:\n  volumes: [{name: a, localDisk: {}}]"), "spec.volumes: cannot be changed"},
		{"a network's id", manifest("networking", "Network", "lan", "spec: {providerID: 'ingot://vni/7'}"), "spec.providerID: cannot be set"},
		{"an interface's network", swap(nicWith("ipFamilies: [IPv4], ips: [{value: 10.1.0.9}]"), "lan", "wan"), "spec.networkRef: cannot be changed"},
		{"a policy's network", swap(policyWith("ingress: [{}]"), "lan", "wan"), "spec.networkRef: cannot be changed"},
		{"a prefix", manifest("ipam", "Prefix", "block", "spec: {prefix: 10.2.0.0/16}"), "spec: only reserved can be changed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := c.Apply(t.Context(), &v1alpha1.ApplyRequest{Object: one(t, test.manifest)})
			wantError(t, err, codes.InvalidArgument, "Invalid", test.fault)
		})
	}
	got := apply(t, c, swap(placed, "spec:", "spec:\n  power: 'Off'"))
	diff(t, "power may change", "configured", got.Result)
	got = apply(t, c, manifest("ipam", "Prefix", "block", "spec: {prefix: 10.1.0.0/16, reserved: [10.1.1.0/24]}"))
	diff(t, "reserved may change", "configured", got.Result)
}

func TestWhatIsInUseIsNotDeleted(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	nic := nicWith("ipFamilies: [IPv4], ips: [{value: 10.1.0.9}]")
	apply(t, c, base+"---\n"+nic+"---\n"+machineWith("networkInterfaces: [{name: a, networkInterfaceRef: {name: nic}}]")+
		"---\n"+manifest("compute", "MachinePool", "h1", "spec: {}"))
	m := w.write("scheduler", store.Op{Resource: placement("shop", "m", "h1", "uid")})[0]
	for _, test := range []struct{ kind, namespace, name, text string }{
		{"Project", "", "shop", "it still holds 1 machines (m), 1 networks (lan), 1 networkinterfaces (nic), 1 prefixes (block)"},
		{"MachineClass", "", "small", "in use by Machine shop/m"},
		{"MachinePool", "", "h1", "in use by Machine shop/m"},
		{"Network", "shop", "lan", "in use by NetworkInterface nic"},
		{"NetworkInterface", "shop", "nic", "in use by Machine m"},
	} {
		t.Run(test.kind, func(t *testing.T) {
			_, err := c.Delete(t.Context(), &v1alpha1.DeleteRequest{Kind: test.kind, Namespace: test.namespace, Name: test.name})
			wantError(t, err, codes.FailedPrecondition, "Precondition", test.text)
		})
	}
	t.Run("an interface of a machine is not another's", func(t *testing.T) {
		other := strings.Replace(machineWith("networkInterfaces: [{name: a, networkInterfaceRef: {name: nic}}]"), "name: m,", "name: m2,", 1)
		_, err := c.Create(t.Context(), &v1alpha1.CreateRequest{Object: one(t, other)})
		wantError(t, err, codes.InvalidArgument, "Invalid", `spec.networkInterfaces[0]: NetworkInterface "nic" is used by Machine "m"`)
	})
	w.write("scheduler", store.Op{Type: store.Delete, Resource: m})
	for _, key := range [][3]string{{"Machine", "shop", "m"}, {"NetworkInterface", "shop", "nic"}, {"Network", "shop", "lan"},
		{"Prefix", "shop", "block"}, {"MachineClass", "", "small"}, {"MachinePool", "", "h1"}, {"Project", "", "shop"}} {
		if _, err := c.Delete(t.Context(), &v1alpha1.DeleteRequest{Kind: key[0], Namespace: key[1], Name: key[2]}); err != nil {
			t.Errorf("delete %v, unused: %v", key, err)
		}
	}
}
