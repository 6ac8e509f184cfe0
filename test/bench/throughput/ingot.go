package throughput

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"ingot/dataplane"
	"ingot/test/lab"
)

// ingot is the dataplane with policy enforced in both directions and flows tracked.
func ingot(receive dataplane.ReceiveMode) network {
	return network{
		name:   "Ingot",
		mtu:    underlayMTU - 40, // IPv6
		routed: true,
		connect: func(fabric *lab.Fabric, hosts [2]*space, n int) (func() error, error) {
			return connectIngot(fabric, hosts[n], n, receive)
		},
	}
}

// policy allows what is measured, by rules behind others that do not match.
var policy = func() dataplane.Policy {
	set := dataplane.RuleSet{Enforced: true}
	for port := range uint16(8) {
		set.Rules = append(set.Rules, dataplane.Rule{
			ID: fmt.Sprintf("other-%d", port), Protocol: protoTCP, PortFirst: 8000 + port, PortLast: 8000 + port, Priority: 10,
		})
	}
	for _, proto := range []uint8{protoTCP, protoUDP} {
		set.Rules = append(set.Rules, dataplane.Rule{
			ID: fmt.Sprintf("measured-%d", proto), Protocol: proto, PortFirst: tcpPort, PortLast: udpPort, Priority: 20,
			Peers: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		})
	}
	return dataplane.Policy{Ingress: set, Egress: set}
}()

// underlay is the address that stands for the machine's port on a host.
func underlay(host *lab.Host) netip.Addr {
	bytes := host.Prefix.Addr().As16()
	bytes[15] = 0x80
	return netip.AddrFrom16(bytes)
}

// connectIngot runs the dataplane of host n on the host's thread, where its bpffs is mounted too.
func connectIngot(fabric *lab.Fabric, host *space, n int, receive dataplane.ReceiveMode) (func() error, error) {
	dir, err := os.MkdirTemp("", "ingot-bench-")
	if err != nil {
		return nil, err
	}
	cleanup := func() error { return os.RemoveAll(dir) }
	var manager *dataplane.Manager
	err = host.Do(func() error {
		bpf := filepath.Join(dir, "bpf")
		if err := os.Mkdir(bpf, 0o700); err != nil {
			return err
		}
		manager, err = dataplane.Open(dataplane.Config{
			Dir: bpf, StateDir: filepath.Join(dir, "state"), Uplinks: []string{uplink},
			UnderlayPrefix: fabric.Hosts[n].Prefix, Receive: receive, GatewayMAC: gatewayMAC,
			Device: func(string) string { return portDevice }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		return err
	})
	if err != nil {
		return cleanup, err
	}
	ctx := context.Background()
	err = host.Do(func() error {
		_, err := manager.EnsurePort(ctx, dataplane.PortSpec{
			ID: "machine/eth0", VNI: 7, MAC: macs[n], Addresses: []netip.Addr{addresses[n]},
			Underlay: underlay(fabric.Hosts[n]), Policy: policy,
		})
		if err != nil {
			return err
		}
		return manager.ApplyRoutes(ctx, []dataplane.Route{{
			Key:      dataplane.RouteKey{VNI: 7, Prefix: netip.PrefixFrom(addresses[1-n], 32)},
			NextHops: []dataplane.NextHop{{Address: underlay(fabric.Hosts[1-n])}},
		}})
	})
	return func() error { return errors.Join(host.Do(manager.Close), cleanup()) }, err
}
