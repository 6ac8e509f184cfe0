package network

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/controlplane/api/v1alpha1"
)

func TestPlan(t *testing.T) {
	at := func(a string) Address { return Address{Address: netip.MustParseAddr(a)} }
	first, second := MAC("u", 0), MAC("u", 1)
	facts := func(change func(*Facts)) Facts {
		f := Facts{
			Spec: &v1alpha1.NetworkInterfaceSpec{IpFamilies: []string{"IPv4", "IPv6"}, Prefixes: []string{"10.1.0.0/24"}},
			UID:  "u", VNI: 7, Addresses: []Address{at("10.0.0.2"), at("fd00::2")},
			AddressHolder: func(string) string { return "" }, MACHolder: func(string) string { return "" },
		}
		if change != nil {
			change(&f)
		}
		return f
	}
	for _, tc := range []struct {
		name           string
		facts          Facts
		state, message string
		mac            string
	}{
		{"all known", facts(nil), Available, "", first},
		{"the MAC it has stays", facts(func(f *Facts) { f.MAC = "02:00:00:00:00:01" }), Available, "", "02:00:00:00:00:01"},
		{"a MAC that another has is not taken", facts(func(f *Facts) {
			f.MACHolder = func(mac string) string { return map[string]string{first: "x"}[mac] }
		}), Available, "", second},
		{"no VNI, an address on its way", facts(func(f *Facts) {
			f.VNI, f.NetworkWaits = 0, "network waits"
			f.Addresses[1] = Address{Waits: "address waits"}
		}), Pending, "network waits; address waits", ""},
		{"an address that another has", facts(func(f *Facts) {
			f.AddressHolder = func(a string) string { return map[string]string{"fd00::2": "x"}[a] }
		}), Error, `address fd00::2 is in use by network interface "x"`, ""},
		{"an address of the wrong family", facts(func(f *Facts) { f.Addresses[0] = at("fd00::3") }), Error,
			"address fd00::3 is not IPv4, as ipFamilies says", ""},
		{"faults come before waits", facts(func(f *Facts) {
			f.Addresses = []Address{{Waits: "w"}, {Fault: "f"}}
			f.Spec.Prefixes = []string{"10.1.0.1/24"}
		}), Error, "prefix 10.1.0.1/24 has bits behind its length; want 10.1.0.0/24; f; w", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := Plan(tc.facts)
			got := []string{v.State(), v.Message(), v.MAC}
			if diff := cmp.Diff([]string{tc.state, tc.message, tc.mac}, got); diff != "" {
				t.Errorf("Plan (-want +got):\n%s", diff)
			}
			if tc.state != Available && len(v.IPs) > 0 {
				t.Errorf("addresses %v are taken already", v.IPs)
			}
		})
	}
}

func TestMACsAreLocallyAdministeredUnicast(t *testing.T) {
	if a := MAC("u", 0); !strings.HasPrefix(a, "02:") || len(a) != 17 || a != MAC("u", 0) || a == MAC("v", 0) {
		t.Errorf("MAC %s", a)
	}
}

func TestFirstFreeVNI(t *testing.T) {
	for _, tc := range []struct {
		used []uint32
		want uint32
	}{{nil, 100}, {[]uint32{5, 7}, 100}, {[]uint32{101, 100}, 102}, {[]uint32{100, 102}, 101}} {
		if got, err := firstFree(tc.used); err != nil || got != tc.want {
			t.Errorf("firstFree(%v) = %d, %v; want %d", tc.used, got, err, tc.want)
		}
	}
}
