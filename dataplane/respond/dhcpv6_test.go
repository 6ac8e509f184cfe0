package respond

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

type dhcpv6Case struct {
	name string
	req  *dhcpv6.Message
	want string
	what outcome
}

const (
	to6      = "from fe80::1 to fe80::5054:ff:fe00:5 52:54:00:00:00:05\n"
	ids6     = "\nServer ID: DUID-LL{HWType=Ethernet HWAddr=02:00:00:00:00:01}\nClient ID: DUID-LL{HWType=Ethernet HWAddr=52:54:00:00:00:05}"
	forever6 = "PreferredLifetime=1193046h28m15s ValidLifetime=1193046h28m15s Options={[]}}"
	given6   = "\nIANA: {IAID=0x00000005 T1=1193046h28m15s T2=1193046h28m15s Options={[IA IP Address: {IP=fd01::5 " + forever6 +
		" IA IP Address: {IP=fd01::6 " + forever6
	dns6 = "\nDNS: [fd01::53]"
)

// message6 is a request of the machine's. Addresses in hold are listed in an IA_NA.
func message6(kind dhcpv6.MessageType, opts ...dhcpv6.Option) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	m.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: machineMAC}))
	for _, o := range opts {
		m.AddOption(o)
	}
	return m
}

func holds(iaid byte, addrs ...string) *dhcpv6.OptIANA {
	ia := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, iaid}}
	for _, a := range addrs {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: netip.MustParseAddr(a).AsSlice()})
	}
	return ia
}

func dhcpv6Cases(port *Port) []dhcpv6Case {
	us := dhcpv6.OptServerID(port.duid())
	other := dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: machineMAC})
	rapid := &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit}
	const none = "no answer"
	anonymous := message6(dhcpv6.MessageTypeSolicit, holds(5))
	anonymous.Options.Del(dhcpv6.OptionClientID)
	nameless := message6(dhcpv6.MessageTypeInformationRequest)
	nameless.Options.Del(dhcpv6.OptionClientID)
	return []dhcpv6Case{
		{"solicit is offered all addresses", message6(dhcpv6.MessageTypeSolicit, holds(5)),
			to6 + "ADVERTISE" + ids6 + "\nPreference: 255" + given6 + "]}}" + dns6, sentDHCPv6},
		{"solicit with a hint is offered the right addresses", message6(dhcpv6.MessageTypeSolicit, holds(5, "fd01::99")),
			to6 + "ADVERTISE" + ids6 + "\nPreference: 255" + given6 + "]}}" + dns6, sentDHCPv6},
		{"rapid commit skips the offer", message6(dhcpv6.MessageTypeSolicit, rapid, holds(5)),
			to6 + "REPLY" + ids6 + "\nRapid Commit" + given6 + "]}}" + dns6, sentDHCPv6},
		{"solicit that names a server", message6(dhcpv6.MessageTypeSolicit, us, holds(5)), none, ignored},
		{"solicit without client id", anonymous, none, ignored},
		{"request is given all addresses", message6(dhcpv6.MessageTypeRequest, us, holds(5, "fd01::5")),
			to6 + "REPLY" + ids6 + given6 + "]}}" + dns6, sentDHCPv6},
		{"request for a foreign address must start over", message6(dhcpv6.MessageTypeRequest, us, holds(5, "fd02::5")),
			to6 + "REPLY" + ids6 + "\nIANA: {IAID=0x00000005 T1=1193046h28m15s T2=1193046h28m15s Options={[Status Code: {Code=NotOnLink (4); Message=}]}}" + dns6, sentDHCPv6},
		{"request to another server", message6(dhcpv6.MessageTypeRequest, other, holds(5)), none, ignored},
		{"request to no server", message6(dhcpv6.MessageTypeRequest, holds(5)), none, ignored},
		{"renew ends an old address", message6(dhcpv6.MessageTypeRenew, us, holds(5, "fd01::5", "fd02::5")),
			to6 + "REPLY" + ids6 + given6 + " IA IP Address: {IP=fd02::5 PreferredLifetime=0s ValidLifetime=0s Options={[]}}]}}" + dns6, sentDHCPv6},
		{"rebind is answered without server id", message6(dhcpv6.MessageTypeRebind, holds(5, "fd01::6")),
			to6 + "REPLY" + ids6 + given6 + "]}}" + dns6, sentDHCPv6},
		{"second association gets nothing, the holder keeps its addresses",
			message6(dhcpv6.MessageTypeRenew, us, holds(4), holds(5, "fd01::6")),
			to6 + "REPLY" + ids6 + "\nIANA: {IAID=0x00000004 T1=1193046h28m15s T2=1193046h28m15s Options={[Status Code: {Code=NoAddrsAvail (2); Message=}]}}" +
				given6 + "]}}" + dns6, sentDHCPv6},
		{"prefixes and temporary addresses are not given", message6(dhcpv6.MessageTypeSolicit, &dhcpv6.OptIATA{}, &dhcpv6.OptIAPD{}),
			to6 + "ADVERTISE" + ids6 + "\nPreference: 255" +
				"\nIATA: {IAID=0x00000000, Options={[Status Code: {Code=NoAddrsAvail (2); Message=}]}}" +
				"\nIAPD: {IAID=0x00000000 T1=0s T2=0s Options={[Status Code: {Code=NoPrefixAvail (6); Message=}]}}" + dns6, sentDHCPv6},
		{"confirm of our addresses", message6(dhcpv6.MessageTypeConfirm, holds(5, "fd01::5")),
			to6 + "REPLY" + ids6 + "\nStatus Code: {Code=Success (0); Message=}", sentDHCPv6},
		{"confirm of a foreign address", message6(dhcpv6.MessageTypeConfirm, holds(5, "fd01::5", "fd02::5")),
			to6 + "REPLY" + ids6 + "\nStatus Code: {Code=NotOnLink (4); Message=}", sentDHCPv6},
		{"confirm of nothing", message6(dhcpv6.MessageTypeConfirm, holds(5)), none, ignored},
		{"release is acknowledged", message6(dhcpv6.MessageTypeRelease, us, holds(5, "fd01::5")),
			to6 + "REPLY" + ids6 + "\nStatus Code: {Code=Success (0); Message=}", sentDHCPv6},
		{"decline is acknowledged and noted", message6(dhcpv6.MessageTypeDecline, us, holds(5, "fd01::5")),
			to6 + "REPLY" + ids6 + "\nStatus Code: {Code=Success (0); Message=}", declined},
		{"information request without client id", nameless,
			to6 + "REPLY" + strings.Split(ids6, "\nClient")[0] + dns6, sentDHCPv6},
		{"information request with addresses", message6(dhcpv6.MessageTypeInformationRequest, holds(5)), none, ignored},
		{"message of a server", message6(dhcpv6.MessageTypeAdvertise, holds(5)), none, ignored},
	}
}

func TestDHCPv6(t *testing.T) {
	port := testPort()
	for _, tc := range dhcpv6Cases(&port) {
		t.Run(tc.name, func(t *testing.T) {
			reply, what := port.answer(fromMachine6(tc.req.ToBytes()))
			if diff := cmp.Diff(tc.want, render(t, reply)); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if what != tc.what {
				t.Errorf("outcome is %d, want %d", what, tc.what)
			}
		})
	}
	t.Run("port without IPv6", func(t *testing.T) {
		port := testPort()
		port.Addresses = []netip.Addr{machineIPv4}
		reply, what := port.answer(fromMachine6(message6(dhcpv6.MessageTypeSolicit, holds(5)).ToBytes()))
		if reply != nil || what != ignored {
			t.Errorf("outcome is %d, with answer %x", what, reply)
		}
	})
}
