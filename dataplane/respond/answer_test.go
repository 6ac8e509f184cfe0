package respond

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/mdlayher/ndp"
)

var (
	machineMAC   = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 5}
	gatewayMAC   = net.HardwareAddr{0x02, 0, 0, 0, 0, 1}
	machineIPv4  = netip.MustParseAddr("10.0.0.5")
	machineIPv6  = netip.MustParseAddr("fd01::5")
	machineIPv6b = netip.MustParseAddr("fd01::6")
	linkLocal    = netip.MustParseAddr("fe80::5054:ff:fe00:5")
)

func testPort() Port {
	return Port{
		MAC:        machineMAC,
		Addresses:  []netip.Addr{machineIPv6, machineIPv4, machineIPv6b},
		GatewayMAC: gatewayMAC,
		MTU:        1460,
		Hostname:   "web-1",
		DNS:        []netip.Addr{netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("fd01::53")},
	}
}

// fromMachine4 is a frame from the machine to UDP port 67.
func fromMachine4(payload []byte) []byte {
	b := ether(broadcastMAC, machineMAC, etherTypeIPv4, 0)
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4Len+udpLen+len(payload)))
	b = append(b, 0, 0, 0, 0, 64, protoUDP, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255)
	return appendUDP(b, netip.IPv4Unspecified(), broadcastIPv4, dhcpv4ClientPort, dhcpv4ServerPort, payload)
}

// fromMachine6 is a frame from the machine to the DHCPv6 group.
func fromMachine6(payload []byte) []byte {
	b := overIPv6(broadcastMAC, machineMAC, dhcpAgents, protoUDP, udpLen+len(payload))
	copy(b[etherLen+8:], linkLocal.AsSlice())
	return appendUDP(b, linkLocal, dhcpAgents, dhcpv6ClientPort, dhcpv6ServerPort, payload)
}

func fromRouterSolicitation(src netip.Addr, hopLimit uint8) []byte {
	message, err := ndp.MarshalMessageChecksum(&ndp.RouterSolicitation{}, src, netip.MustParseAddr("ff02::2"))
	if err != nil {
		panic(err)
	}
	b := overIPv6(allNodesMAC, machineMAC, netip.MustParseAddr("ff02::2"), protoICMPv6, len(message))
	copy(b[etherLen+8:], src.AsSlice())
	b[etherLen+7] = hopLimit
	return append(b, message...)
}

// render checks the headers of an answer and prints it, one fact a line.
func render(t *testing.T, frame []byte) string {
	t.Helper()
	if frame == nil {
		return "no answer"
	}
	pkt, ok := parse(frame)
	if !ok {
		t.Fatalf("answer does not parse: %x", frame)
	}
	if src := net.HardwareAddr(frame[6:12]); src.String() != gatewayMAC.String() {
		t.Errorf("answer comes from %s", src)
	}
	if got := transportSum(frame, pkt); got != 0xffff {
		t.Errorf("transport checksum sums up to %#x", got)
	}
	out := []string{fmt.Sprintf("from %s to %s %s", pkt.src, pkt.dst, net.HardwareAddr(frame[:6]))}
	switch {
	case pkt.proto == protoICMPv6:
		m, err := ndp.ParseMessage(pkt.payload)
		if err != nil {
			t.Fatal(err)
		}
		ra := m.(*ndp.RouterAdvertisement)
		out = append(out, fmt.Sprintf("RA managed=%t other=%t lifetime=%s hop limit=%d",
			ra.ManagedConfiguration, ra.OtherConfiguration, ra.RouterLifetime, pkt.hopLimit))
		for _, o := range ra.Options {
			out = append(out, fmt.Sprintf("%T %+v", o, o))
		}
	case pkt.dst.Is4():
		if got := fold(sum(0, frame[etherLen:etherLen+ipv4Len])); got != 0xffff {
			t.Errorf("IPv4 header checksum sums up to %#x", got)
		}
		m, err := dhcpv4.FromBytes(pkt.payload)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("ciaddr=%s yiaddr=%s chaddr=%s", m.ClientIPAddr, m.YourIPAddr, m.ClientHWAddr))
		for _, line := range strings.Split(strings.TrimSpace(m.Options.Summary(nil)), "\n") {
			out = append(out, strings.TrimSpace(line))
		}
	default:
		m, err := dhcpv6.MessageFromBytes(pkt.payload)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m.MessageType.String())
		for _, o := range m.Options.Options {
			out = append(out, o.String())
		}
	}
	return strings.Join(out, "\n")
}

// transportSum is 0xffff when the checksum of an answer is right.
func transportSum(frame []byte, pkt packet) uint16 {
	segment := frame[etherLen+ipv6Len:]
	if pkt.dst.Is4() {
		segment = frame[etherLen+ipv4Len:]
	}
	pseudo := uint32(pkt.proto) + uint32(len(segment))
	return fold(sum(sum(sum(pseudo, pkt.src.AsSlice()), pkt.dst.AsSlice()), segment))
}

type dhcpv4Case struct {
	name string
	port func(*Port)
	req  []dhcpv4.Modifier
	want string
	what outcome
}

const lease4 = `Subnet Mask: ffffffff
Router: 169.254.0.1
Domain Name Server: 10.9.9.9
Host Name: web-1
Interface MTU: [5 180]
IP Addresses Lease Time: 1193046h28m15s
`

const tail4 = `Server Identifier: 169.254.0.1
Classless Static Route: route to 169.254.0.1/32 via 0.0.0.0; route to 0.0.0.0/0 via 169.254.0.1`

func message4(kind dhcpv4.MessageType) dhcpv4.Modifier { return dhcpv4.WithMessageType(kind) }

func requested(addr string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(addr)))
}

func server(addr string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(addr)))
}

func client(addr string) dhcpv4.Modifier { return dhcpv4.WithClientIP(net.ParseIP(addr)) }

func leased(kind, dst, ciaddr string) string {
	return "from 169.254.0.1 to " + dst + "\nciaddr=" + ciaddr + " yiaddr=10.0.0.5 chaddr=52:54:00:00:00:05\n" +
		lease4 + "DHCP Message Type: " + kind + "\n" + tail4
}

const (
	unicast4   = "10.0.0.5 52:54:00:00:00:05"
	broadcast4 = "255.255.255.255 ff:ff:ff:ff:ff:ff"
	nak4       = "from 169.254.0.1 to " + broadcast4 + "\nciaddr=0.0.0.0 yiaddr=0.0.0.0 chaddr=52:54:00:00:00:05\n" +
		"DHCP Message Type: NAK\nServer Identifier: 169.254.0.1\nMessage: address is not this machine's"
)

var dhcpv4Cases = []dhcpv4Case{
	{
		name: "discover is offered the address",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeDiscover)},
		want: leased("OFFER", unicast4, "0.0.0.0"), what: sentDHCPv4,
	}, {
		name: "discover that asks for another address is offered the right one",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeDiscover), requested("10.0.0.9")},
		want: leased("OFFER", unicast4, "0.0.0.0"), what: sentDHCPv4,
	}, {
		name: "client that cannot take unicast gets broadcast",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeDiscover), dhcpv4.WithBroadcast(true)},
		want: leased("OFFER", broadcast4, "0.0.0.0"), what: sentDHCPv4,
	}, {
		name: "rapid commit skips the offer",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeDiscover), dhcpv4.WithGeneric(dhcpv4.OptionRapidCommit, nil)},
		want: strings.Replace(leased("ACK", unicast4, "0.0.0.0"),
			"Classless", "Rapid Commit: []\nClassless", 1), what: sentDHCPv4,
	}, {
		name: "selecting client is acknowledged",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeRequest), requested("10.0.0.5"), server("169.254.0.1")},
		want: leased("ACK", unicast4, "0.0.0.0"), what: sentDHCPv4,
	}, {
		name: "client that selected another server is left alone",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeRequest), requested("10.0.0.5"), server("10.0.0.1")},
		want: "no answer", what: ignored,
	}, {
		name: "rebooting client is acknowledged",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeRequest), requested("10.0.0.5")},
		want: leased("ACK", unicast4, "0.0.0.0"), what: sentDHCPv4,
	}, {
		name: "rebooting client with an old address is denied",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeRequest), requested("10.0.0.9")},
		want: nak4, what: sentNak,
	}, {
		name: "renewing client is acknowledged at its address",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeRequest), client("10.0.0.5")},
		want: leased("ACK", unicast4, "10.0.0.5"), what: sentDHCPv4,
	}, {
		name: "renewing client with an old address is denied by broadcast",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeRequest), client("10.0.0.9")},
		want: nak4, what: sentNak,
	}, {
		name: "request for no address",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeRequest)},
		want: "no answer", what: malformed,
	}, {
		name: "inform gets the configuration without a lease",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeInform), client("10.0.0.5")},
		want: strings.Replace(strings.Replace(leased("ACK", unicast4, "10.0.0.5"),
			"yiaddr=10.0.0.5", "yiaddr=0.0.0.0", 1), "IP Addresses Lease Time: 1193046h28m15s\n", "", 1), what: sentDHCPv4,
	}, {
		name: "inform from a foreign address",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeInform), client("10.0.0.9")},
		want: "no answer", what: ignored,
	}, {
		name: "release changes nothing",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeRelease), client("10.0.0.5"), server("169.254.0.1")},
		want: "no answer", what: ignored,
	}, {
		name: "decline is noted",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeDecline), requested("10.0.0.5"), server("169.254.0.1")},
		want: "no answer", what: declined,
	}, {
		name: "another hardware address",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeDiscover), dhcpv4.WithHwAddr(gatewayMAC)},
		want: "no answer", what: ignored,
	}, {
		name: "relayed request",
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeDiscover), dhcpv4.WithGatewayIP(net.IPv4(10, 0, 0, 1))},
		want: "no answer", what: ignored,
	}, {
		name: "port without IPv4",
		port: func(p *Port) { p.Addresses = []netip.Addr{machineIPv6} },
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeDiscover)},
		want: "no answer", what: ignored,
	}, {
		name: "port that tells nothing but the address",
		port: func(p *Port) { p.MTU, p.Hostname, p.DNS = 0, "", nil },
		req:  []dhcpv4.Modifier{message4(dhcpv4.MessageTypeDiscover)},
		want: strings.NewReplacer("Domain Name Server: 10.9.9.9\n", "", "Host Name: web-1\n", "",
			"Interface MTU: [5 180]\n", "").Replace(leased("OFFER", unicast4, "0.0.0.0")), what: sentDHCPv4,
	},
}

func TestDHCPv4(t *testing.T) {
	for _, tc := range dhcpv4Cases {
		t.Run(tc.name, func(t *testing.T) {
			req, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(machineMAC)}, tc.req...)...)
			if err != nil {
				t.Fatal(err)
			}
			port := testPort()
			if tc.port != nil {
				tc.port(&port)
			}
			reply, what := port.answer(fromMachine4(req.ToBytes()))
			if diff := cmp.Diff(tc.want, render(t, reply)); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if what != tc.what {
				t.Errorf("outcome is %d, want %d", what, tc.what)
			}
		})
	}
}

func TestDHCPv4AnswerFitsEveryClient(t *testing.T) {
	port := testPort()
	port.Hostname = strings.Repeat("h", 63) + strings.Repeat(".example", 20)
	for i := range 20 {
		port.DNS = append(port.DNS, netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}))
	}
	if err := port.Validate(); err != nil {
		t.Fatal(err)
	}
	id := dhcpv4.WithOption(dhcpv4.OptClientIdentifier(make([]byte, 19)))
	req, err := dhcpv4.NewDiscovery(machineMAC, id)
	if err != nil {
		t.Fatal(err)
	}
	reply, _ := port.answer(fromMachine4(req.ToBytes()))
	if got := len(reply) - etherLen; got > 576 {
		t.Errorf("answer has %d bytes", got)
	}
	m, err := dhcpv4.FromBytes(reply[etherLen+ipv4Len+udpLen:])
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m.HostName(), strings.Repeat("h", 63); got != want {
		t.Errorf("hostname is %q, want its first label", got)
	}
	if !slices.Equal(m.Options.Get(dhcpv4.OptionClientIdentifier), make([]byte, 19)) {
		t.Error("client identifier is not echoed (RFC 6842)")
	}
}

func TestRouterSolicitation(t *testing.T) {
	const options = `*ndp.LinkLayerAddress &{Direction:1 Addr:02:00:00:00:00:01}
*ndp.MTU &{MTU:1460}
*ndp.RecursiveDNSServer &{Lifetime:1193046h28m15s Servers:[fd01::53]}`
	const header = "RA managed=true other=true lifetime=18h12m15s hop limit=255\n"
	for _, tc := range []struct {
		name  string
		port  func(*Port)
		frame []byte
		want  string
		what  outcome
	}{
		{
			name:  "from a link-local address is answered there",
			frame: fromRouterSolicitation(linkLocal, 255),
			want:  "from fe80::1 to " + linkLocal.String() + " 52:54:00:00:00:05\n" + header + options, what: sentAdvertisement,
		}, {
			name:  "from nowhere is answered to all nodes",
			frame: fromRouterSolicitation(netip.IPv6Unspecified(), 255),
			want:  "from fe80::1 to ff02::1 33:33:00:00:00:01\n" + header + options, what: sentAdvertisement,
		}, {
			name:  "that crossed a router",
			frame: fromRouterSolicitation(linkLocal, 254),
			want:  "no answer", what: malformed,
		}, {
			name:  "on a port without IPv6",
			port:  func(p *Port) { p.Addresses = []netip.Addr{machineIPv4} },
			frame: fromRouterSolicitation(linkLocal, 255),
			want:  "no answer", what: ignored,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			port := testPort()
			if tc.port != nil {
				tc.port(&port)
			}
			reply, what := port.answer(tc.frame)
			if diff := cmp.Diff(tc.want, render(t, reply)); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if what != tc.what {
				t.Errorf("outcome is %d, want %d", what, tc.what)
			}
		})
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	port := Port{
		MAC: net.HardwareAddr{1}, MTU: 70000, Hostname: strings.Repeat("h", 254),
		Addresses: []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")}, DNS: []netip.Addr{{}},
	}
	err := port.Validate()
	for _, want := range []string{"MAC", "gateway MAC", "::ffff:10.0.0.1", "invalid IP", "MTU 70000", "hostname of 254"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	good := testPort()
	if err := good.Validate(); err != nil {
		t.Errorf("a good port: %v", err)
	}
}

// FuzzAnswer looks for packets that panic, and for answers that are no packets.
func FuzzAnswer(f *testing.F) {
	port := testPort()
	for _, tc := range dhcpv4Cases {
		req, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(machineMAC)}, tc.req...)...)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(fromMachine4(req.ToBytes()))
	}
	for _, tc := range dhcpv6Cases(&port) {
		f.Add(fromMachine6(tc.req.ToBytes()))
	}
	f.Add(fromRouterSolicitation(linkLocal, 255))
	f.Fuzz(func(t *testing.T, frame []byte) {
		reply, what := port.answer(frame)
		if what == parserPanic {
			t.Fatal("a parser panicked")
		}
		if reply != nil {
			render(t, reply)
		}
	})
}
