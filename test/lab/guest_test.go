package lab

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"

	"ingot/test/need"
)

// A testGuest is the image run by libvirt alone: nothing of Ingot is involved.
type testGuest struct {
	Guest
	console string
}

const guestDomain = `
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>guest</name>
  <memory unit='MiB'>96</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>%[1]s/kernel</kernel>
    <initrd>%[1]s/initramfs</initrd>
    <cmdline>%[2]s</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='%[1]s/rootfs'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='ethernet'>
      <mac address='52:54:00:00:00:07'/>
      <target dev='tap0' managed='no'/>
      <model type='virtio'/>
    </interface>
    <serial type='file'><source path='%[1]s/console'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-fw_cfg'/>
    <qemu:arg value='name=opt/com.coreos/config,file=%[1]s/ignition'/>
  </qemu:commandline>
</domain>`

// startGuest boots the image on a host with a tap that is answered by DHCPv4 with a /32 and a
// classless default route, as the dataplane answers.
func startGuest(t *testing.T, host *Host) testGuest {
	t.Helper()
	ctx := testContext(t)
	const inside = "/var/lib/ingot/guest" // QEMU, which is not root, cannot enter the lab's own folder
	dir := host.Path(inside)
	unpackImage(t, dir)
	ignition := fmt.Sprintf(`{"ignition":{"version":"3.4.0"},"storage":{"files":[{"path":"/etc/motd","mode":384,
		"contents":{"source":"data:;base64,%s"}}]}}`, base64.StdEncoding.EncodeToString([]byte("written by ignition\n")))
	if err := os.WriteFile(filepath.Join(dir, "ignition"), []byte(ignition), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := host.Do(func() error { return serveTap(t) }); err != nil {
		t.Fatal(err)
	}
	if _, err := host.StartLibvirt(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "domain.xml"), fmt.Appendf(nil, guestDomain, inside, guestCommandLine), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"define", inside + "/domain.xml"}, {"start", "guest"}} {
		if _, err := host.Virsh(ctx, command...); err != nil {
			t.Fatal(err)
		}
	}
	return testGuest{Guest{Host: host, Domain: "guest"}, filepath.Join(dir, "console")}
}

// unpackImage copies the layers of the image to dir.
func unpackImage(t *testing.T, dir string) {
	t.Helper()
	cache, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := BuildGuestImage(cache)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := layersOf(strings.TrimSuffix(strings.TrimPrefix(ref, "oci-layout:"), ":latest"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, blob := range layers {
		data, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("chown", "-R", "libvirt-qemu:", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// serveTap makes tap0 with the gateway's address and a DHCPv4 server on it.
func serveTap(t *testing.T) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "tap0"
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}
	if err := netlink.LinkAdd(tap); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		return err
	}
	gateway, own := net.IPv4(10, 0, 0, 1), net.IPv4(10, 0, 0, 7)
	if err := addAddress(tap, netip.MustParseAddr("10.0.0.1"), 24); err != nil {
		return err
	}
	server, err := server4.NewServer("tap0", nil, func(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
		kind := dhcpv4.MessageTypeOffer
		if m.MessageType() == dhcpv4.MessageTypeRequest {
			kind = dhcpv4.MessageTypeAck
		}
		reply, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(own), dhcpv4.WithServerIP(gateway),
			dhcpv4.WithNetmask(net.CIDRMask(32, 32)), dhcpv4.WithLeaseTime(0xffffffff),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gateway)), dhcpv4.WithOption(dhcpv4.OptHostName("seven")),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{1460 >> 8, 1460 & 0xff})),
			dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
				&dhcpv4.Route{Dest: &net.IPNet{IP: gateway, Mask: net.CIDRMask(32, 32)}, Router: net.IPv4zero},
				&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Router: gateway})))
		if err == nil {
			conn.WriteTo(reply.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
		}
	})
	if err != nil {
		return err
	}
	go server.Serve()
	t.Cleanup(func() { server.Close() })
	return nil
}

func TestGuestBootsUnderLibvirtAndAnswers(t *testing.T) {
	need.Commands(t, "/usr/sbin/libvirtd", "virsh", "qemu-system-x86_64", "apt-get", "mke2fs", busyboxPath)
	f := ForTest(t, FabricConfig{Hosts: 1})
	ctx := testContext(t)
	guest := startGuest(t, f.Hosts[0])
	started := time.Now()
	if err := guest.WaitReady(ctx); err != nil {
		t.Fatalf("%v; console:\n%s", err, readFile(t, guest.console))
	}
	waitFor(t, func() bool { return strings.Contains(readFile(t, guest.console), "ingot-guest ready seven") })
	t.Logf("ready %v after its start", time.Since(started).Round(10*time.Millisecond))

	addresses, err := guest.Addresses(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(addresses["eth0"]); got != "[10.0.0.7/32]" {
		t.Errorf("addresses of eth0 are %s", got)
	}
	for _, tc := range []struct {
		name, command string
		want          string
		code          int
	}{
		{"hostname by DHCP", "hostname", "seven\n", 0},
		{"file by Ignition", "cat /etc/motd; stat -c %a /etc/motd", "written by ignition\n600\n", 0},
		{"MTU by DHCP", "cat /sys/class/net/eth0/mtu", "1460\n", 0},
		{"exit code and standard error", "echo bad >&2; exit 7", "", 7},
		{"route by DHCP", "ip route | grep -c '^default via 10.0.0.1 '", "1\n", 0},
		{"root disk is writable", "echo x > /mark && cat /mark", "x\n", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			result, err := guest.Exec(ctx, "/bin/sh", "-c", tc.command)
			if err != nil {
				t.Fatal(err)
			}
			if string(result.Stdout) != tc.want || result.ExitCode != tc.code {
				t.Errorf("answered %q, %d, stderr %q; want %q, %d", result.Stdout, result.ExitCode, result.Stderr, tc.want, tc.code)
			}
		})
	}
	pinged, err := guest.Exec(ctx, "/bin/traffic", "ping", "-count", "5", "-interval", "20ms", "10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if pinged.ExitCode != 0 || !bytes.Contains(pinged.Stdout, []byte(`"received":5`)) {
		t.Errorf("ping: %s%s", pinged.Stdout, pinged.Stderr)
	}
	if _, err := guest.Host.Virsh(ctx, "shutdown", "--mode", "acpi", "guest"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		state, err := guest.Host.Virsh(ctx, "domstate", "guest")
		return err == nil && strings.TrimSpace(string(state)) == "shut off"
	})
}
