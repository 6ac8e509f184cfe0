package respond_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"

	"ingot/dataplane/respond"
	"ingot/test/lab"
	"ingot/test/need"
)

// plug joins machine's eth0 to a new device called port on host and returns the device's index.
func plug(t *testing.T, host, machine *lab.Host, port string) int {
	t.Helper()
	var index int
	err := host.Do(func() error {
		script := fmt.Sprintf(`echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
			ip link add %[1]s type veth peer name eth0 address 52:54:00:00:00:05 netns %[2]d
			ip link set %[1]s up`, port, machine.Pid())
		if err := sh(script); err != nil {
			return err
		}
		dev, err := net.InterfaceByName(port)
		if err != nil {
			return err
		}
		index = dev.Index
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func sh(script string) error {
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// serve starts a server on host that ends with t.
func serve(t *testing.T, host *lab.Host) *respond.Server {
	t.Helper()
	var srv *respond.Server
	if err := host.Do(func() (err error) { srv, err = respond.New(respond.Config{}); return err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		srv.Close()
	})
	return srv
}

func port() respond.Port {
	return respond.Port{
		MAC:        net.HardwareAddr{0x52, 0x54, 0, 0, 0, 5},
		GatewayMAC: net.HardwareAddr{0x02, 0, 0, 0, 0, 1},
		Addresses:  []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd01::5"), netip.MustParseAddr("fd01::6")},
		MTU:        1460,
		Hostname:   "web-1",
		DNS:        []netip.Addr{netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("fd01::53")},
	}
}

// udhcpc runs busybox's client on machine and returns what it was told, as sorted NAME=value lines.
func udhcpc(t *testing.T, machine *lab.Host, args ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	script, told := filepath.Join(dir, "script"), filepath.Join(dir, "told")
	body := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = bound ] && env | grep -E '^(ip|mask|router|dns|hostname|mtu|lease|staticroutes|serverid)=' | sort > %s\nexit 0\n", told)
	if err := os.WriteFile(script, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := machine.Exec(ctx, "busybox", append([]string{"udhcpc", "-i", "eth0", "-f", "-q", "-n", "-s", script,
		"-O", "staticroutes", "-O", "mtu"}, args...)...); err != nil {
		return "", err
	}
	out, err := os.ReadFile(told)
	return string(out), err
}

const toldIPv4 = `dns=10.9.9.9
hostname=web-1
ip=10.0.0.5
lease=4294967295
mask=32
mtu=1460
router=169.254.0.1
serverid=169.254.0.1
staticroutes=169.254.0.1/32 0.0.0.0 0.0.0.0/0 169.254.0.1
`

func TestRealClientsConfigureThemselves(t *testing.T) {
	need.Commands(t, "busybox", "ip")
	fabric := lab.ForTest(t, lab.FabricConfig{Hosts: 2})
	host, machine := fabric.Hosts[0], fabric.Hosts[1]
	srv := serve(t, host)
	index := plug(t, host, machine, "port0")
	if err := srv.Set(index, port()); err != nil {
		t.Fatal(err)
	}
	enter := func(script string) func() error {
		return func() error { return machine.Do(func() error { return sh(script) }) }
	}
	if err := enter("echo 2 >/proc/sys/net/ipv6/conf/eth0/accept_ra; ip link set eth0 up")(); err != nil {
		t.Fatal(err)
	}

	t.Run("the kernel takes its IPv6 route from a router advertisement", func(t *testing.T) {
		eventually(t, "default route", enter(`ip -6 route show default dev eth0 | grep -q 'via fe80::1 .*expires 6[0-9]*sec'`))
		if err := enter(`test "$(cat /proc/sys/net/ipv6/conf/eth0/mtu)" = 1460`)(); err != nil {
			t.Errorf("MTU is not taken: %v", err)
		}
	})
	t.Run("udhcpc gets its address and routes", func(t *testing.T) {
		told, err := udhcpc(t, machine, "-t", "20", "-T", "1")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(toldIPv4, told); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
	t.Run("udhcpc that remembers an old address gets the new one", func(t *testing.T) {
		told, err := udhcpc(t, machine, "-t", "20", "-T", "1", "-B", "-r", "10.0.0.99")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(toldIPv4, told); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
	t.Run("a DHCPv6 client gets all addresses", func(t *testing.T) { testDHCPv6Client(t, machine) })
	t.Run("a removed port is not answered, another device with the same machine is", func(t *testing.T) {
		srv.Remove(index)
		if told, err := udhcpc(t, machine, "-t", "2", "-T", "1"); err == nil {
			t.Errorf("told %q", told)
		}
		if err := srv.Set(index, port()); err != nil {
			t.Fatal(err)
		}
		// The device vanishes under the server, which has an advertisement to send.
		if err := host.Do(func() error { return sh("ip link del port0") }); err != nil {
			t.Fatal(err)
		}
		changed := port()
		changed.MTU = 1400
		if err := srv.Set(index, changed); err != nil {
			t.Fatal(err)
		}
		eventually(t, "send error is counted", func() error {
			if srv.Counters().SendErrors == 0 {
				return fmt.Errorf("counters are %+v", srv.Counters())
			}
			return nil
		})
		if err := srv.Set(plug(t, host, machine, "port1"), port()); err != nil {
			t.Fatal(err)
		}
		if err := enter("ip link set eth0 up")(); err != nil {
			t.Fatal(err)
		}
		if told, err := udhcpc(t, machine, "-t", "20", "-T", "1"); err != nil || told != toldIPv4 {
			t.Errorf("told %q, error %v", told, err)
		}
	})
	counters := srv.Counters()
	if counters.DHCPv4 < 6 || counters.DHCPv6 < 3 || counters.Advertisements == 0 || counters.UnknownPort == 0 ||
		counters.Malformed+counters.Panics+counters.Lost+counters.ReceiveErrors > 0 {
		t.Errorf("counters are %+v", counters)
	}
}

func testDHCPv6Client(t *testing.T, machine *lab.Host) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var client *nclient6.Client
	eventually(t, "link-local address", func() error {
		return machine.Do(func() (err error) {
			client, err = nclient6.New("eth0", nclient6.WithTimeout(time.Second), nclient6.WithRetry(20))
			return err
		})
	})
	defer client.Close()
	want := []string{"fd01::5", "fd01::6"}
	check := func(m *dhcpv6.Message, err error) *dhcpv6.Message {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range m.Options.OneIANA().Options.Addresses() {
			got = append(got, a.IPv6Addr.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s addresses (-want +got):\n%s", m.MessageType, diff)
		}
		if dns := fmt.Sprint(m.Options.DNS()); dns != "[fd01::53]" {
			t.Errorf("%s resolvers are %s", m.MessageType, dns)
		}
		return m
	}
	offer := check(client.Solicit(ctx))
	check(client.Request(ctx, offer))
	rapid := check(client.RapidSolicit(ctx))
	if rapid.MessageType != dhcpv6.MessageTypeReply {
		t.Errorf("rapid commit is answered by %s", rapid.MessageType)
	}
}

// A machine that is no client of ours must not disturb one that is.
func TestAFloodIsCountedAndOthersAreServed(t *testing.T) {
	need.Commands(t, "busybox", "ip")
	fabric := lab.ForTest(t, lab.FabricConfig{Hosts: 3})
	host, flooder, machine := fabric.Hosts[0], fabric.Hosts[1], fabric.Hosts[2]
	srv := serve(t, host)
	for i, m := range []*lab.Host{flooder, machine} {
		if err := srv.Set(plug(t, host, m, "port"+strconv.Itoa(i)), port()); err != nil {
			t.Fatal(err)
		}
		if err := m.Do(func() error { return sh("ip link set eth0 up; ip addr add 10.0.0.5/8 dev eth0") }); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	flooded := make(chan error, 1)
	go func() {
		flooded <- flooder.Do(func() error {
			conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 255, 255, 255), Port: 67})
			if err != nil {
				return err
			}
			defer conn.Close()
			for ctx.Err() == nil {
				if _, err := conn.Write([]byte("garbage that is no DHCP")); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	told, err := udhcpc(t, machine, "-t", "30", "-T", "1")
	stop()
	if err := <-flooded; err != nil && !strings.Contains(err.Error(), "no buffer") {
		t.Errorf("flood: %v", err)
	}
	if err != nil || told != toldIPv4 {
		t.Errorf("told %q, error %v", told, err)
	}
	if c := srv.Counters(); c.RateLimited == 0 || c.Malformed == 0 {
		t.Errorf("counters are %+v", c)
	}
}
