package respond

import (
	"bytes"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// infinite is the lease time that never ends (RFC 2131, section 3.3; RFC 8415, section 7.7).
const infinite = 0xffffffff * time.Second

// answerDHCPv4 is the server side of RFC 2131 for a client whose only possible address is known.
func (p *Port) answerDHCPv4(pkt packet) ([]byte, outcome) {
	req, err := dhcpv4.FromBytes(pkt.payload)
	if err != nil {
		return nil, malformed
	}
	addr, ok := p.ipv4()
	if !ok || req.OpCode != dhcpv4.OpcodeBootRequest || req.HWType != iana.HWTypeEthernet ||
		!bytes.Equal(req.ClientHWAddr, p.MAC) || !unset(req.GatewayIPAddr) || !p.addressed(req) {
		return nil, ignored
	}
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if req.Options.Has(dhcpv4.OptionRapidCommit) { // RFC 4039
			return p.lease(req, addr, dhcpv4.MessageTypeAck), sentDHCPv4
		}
		return p.lease(req, addr, dhcpv4.MessageTypeOffer), sentDHCPv4
	case dhcpv4.MessageTypeRequest:
		return p.answerRequest(req, addr)
	case dhcpv4.MessageTypeInform:
		client, _ := netip.AddrFromSlice(req.ClientIPAddr)
		if client != addr {
			return nil, ignored
		}
		return p.inform(req, addr), sentDHCPv4
	case dhcpv4.MessageTypeDecline:
		return nil, declined
	}
	return nil, ignored // RELEASE needs no answer: the address stays the machine's
}

// addressed tells whether req is for this server or for any.
func (p *Port) addressed(req *dhcpv4.DHCPv4) bool {
	id := req.ServerIdentifier()
	return id == nil || id.Equal(GatewayIPv4.AsSlice())
}

// answerRequest confirms the one right address, in whatever state the client asks for it
// (RFC 2131, section 4.3.2), and denies any other so that the client starts over at once.
func (p *Port) answerRequest(req *dhcpv4.DHCPv4, addr netip.Addr) ([]byte, outcome) {
	want := req.RequestedIPAddress() // SELECTING and INIT-REBOOT
	if unset(want) {
		want = req.ClientIPAddr // RENEWING and REBINDING
	}
	switch {
	case unset(want):
		return nil, malformed
	case want.Equal(addr.AsSlice()):
		return p.lease(req, addr, dhcpv4.MessageTypeAck), sentDHCPv4
	}
	nak := p.message(req, dhcpv4.MessageTypeNak)
	nak.ClientIPAddr = net.IPv4zero
	nak.UpdateOption(dhcpv4.OptMessage("address is not this machine's"))
	return udpIPv4(broadcastMAC, p.GatewayMAC, broadcastIPv4, nak.ToBytes()), sentNak
}

// lease offers or acknowledges addr.
func (p *Port) lease(req *dhcpv4.DHCPv4, addr netip.Addr, kind dhcpv4.MessageType) []byte {
	m := p.message(req, kind)
	m.YourIPAddr = addr.AsSlice()
	m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(infinite))
	if kind == dhcpv4.MessageTypeAck && req.MessageType() == dhcpv4.MessageTypeDiscover {
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionRapidCommit, nil))
	}
	p.configure(m)
	switch { // RFC 2131, section 4.1
	case !unset(req.ClientIPAddr):
		return udpIPv4(p.MAC, p.GatewayMAC, netip.AddrFrom4([4]byte(req.ClientIPAddr.To4())), m.ToBytes())
	case req.IsBroadcast():
		return udpIPv4(broadcastMAC, p.GatewayMAC, broadcastIPv4, m.ToBytes())
	}
	return udpIPv4(p.MAC, p.GatewayMAC, addr, m.ToBytes())
}

// inform tells the configuration to a client that has its address already: no address, no lease.
func (p *Port) inform(req *dhcpv4.DHCPv4, addr netip.Addr) []byte {
	m := p.message(req, dhcpv4.MessageTypeAck)
	p.configure(m)
	return udpIPv4(p.MAC, p.GatewayMAC, addr, m.ToBytes())
}

// message starts an answer to req.
func (p *Port) message(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        iana.HWTypeEthernet,
		TransactionID: req.TransactionID,
		Flags:         req.Flags,
		ClientIPAddr:  req.ClientIPAddr,
		ServerIPAddr:  GatewayIPv4.AsSlice(),
		ClientHWAddr:  p.MAC,
		Options:       make(dhcpv4.Options),
	}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	m.UpdateOption(dhcpv4.OptServerIdentifier(GatewayIPv4.AsSlice()))
	dhcpv4.WithOptionCopied(req, dhcpv4.OptionClientIdentifier)(m) // RFC 6842
	return m
}

// configure adds what does not depend on the state of the client. The machine is alone on its link:
// its mask is /32, and everything, the gateway's own address excepted, goes through the gateway.
// Option 121 says so (RFC 3442); option 3 is for clients that do not know 121.
func (p *Port) configure(m *dhcpv4.DHCPv4) {
	gateway := net.IP(GatewayIPv4.AsSlice())
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(32, 32)))
	m.UpdateOption(dhcpv4.OptRouter(gateway))
	m.UpdateOption(dhcpv4.OptClasslessStaticRoute(
		&dhcpv4.Route{Dest: &net.IPNet{IP: gateway, Mask: net.CIDRMask(32, 32)}, Router: net.IPv4zero},
		&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Router: gateway},
	))
	if p.MTU > 0 {
		m.UpdateOption(dhcpv4.Option{Code: dhcpv4.OptionInterfaceMTU, Value: dhcpv4.Uint16(p.MTU)})
	}
	if name := p.hostname(); name != "" {
		m.UpdateOption(dhcpv4.OptHostName(name))
	}
	if dns := p.resolvers(false); len(dns) > 0 {
		m.UpdateOption(dhcpv4.OptDNS(netIPs(dns)...))
	}
}

func unset(ip net.IP) bool { return len(ip) == 0 || ip.IsUnspecified() }
