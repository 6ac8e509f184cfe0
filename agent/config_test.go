package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/runtime/fault"
)

const goodConfig = `
host: host-a
underlay: {prefix: "fd00:10:0:1::/64", supernet: "fd00:10::/32", uplinks: [eth0]}
bgp: {asn: 65000, routerID: 10.0.0.1, reflectors: [{address: "fd00:10::1"}]}
`

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(path)
}

func TestDefaultsAreFilledIn(t *testing.T) {
	c, err := load(t, goodConfig)
	if err != nil {
		t.Fatal(err)
	}
	if c.StateDir != "/var/lib/ingot" || c.Machines.Accelerator != "auto" {
		t.Errorf("got %+v", c)
	}
	if got := c.machine().Reserve.MemoryBytes; got != 512<<20 {
		t.Errorf("reserve is %d bytes, want 512 MiB", got)
	}
}

func TestReserveOfCPUsLeavesThatOfMemory(t *testing.T) {
	c, err := load(t, goodConfig+"machines: {reserve: {cpu: 2}}")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.machine().Reserve; got.CPUs != 2 || got.MemoryBytes != 512<<20 {
		t.Errorf("reserve is %+v, want 2 CPUs and 512 MiB", got)
	}
}

func TestOnlyHostNeedsNoBGP(t *testing.T) {
	text, _, _ := strings.Cut(goodConfig, "bgp:")
	c, err := load(t, text)
	if err != nil || !c.BGP.off() {
		t.Errorf("got %+v, %v", c.BGP, err)
	}
}

func TestConfigurationFaultsNameTheField(t *testing.T) {
	for _, tt := range []struct{ name, from, to, want string }{
		{"no host", "host: host-a", "", "host: required"},
		{"unknown field", "host: host-a", "host: host-a\nhots: x", `unknown field "hots"`},
		{"prefix with host bits", "0:1::/64", "0:1::5/64", "underlay.prefix"},
		{"prefix too small", "0:1::/64", "0:1::/120", "too small"},
		{"supernet elsewhere", "fd00:10::/32", "fd99::/32", "underlay.supernet"},
		{"no uplink", "uplinks: [eth0]", "uplinks: []", "underlay.uplinks"},
		{"asn of four octets", "65000", "4200000000", "bgp.asn"},
		{"router id of IPv6", "10.0.0.1", `"::1"`, "bgp.routerID"},
		{"no reflector", `[{address: "fd00:10::1"}]`, "[]", "bgp.reflectors"},
		{"no memory for the host", "host: host-a", "host: host-a\nmachines: {reserve: {memory: 0}}", "machines.reserve.memory"},
		{"classes beside a control plane", "host: host-a", "host: host-a\nmachines: {classes: [{name: small}]}", "machines.classes"},
		{"relative directory", "host: host-a", "host: host-a\nstateDir: x", "stateDir"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, strings.Replace(goodConfig, tt.from, tt.to, 1))
			if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want class Invalid and %q", err, tt.want)
			}
		})
	}
}
