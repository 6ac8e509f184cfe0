package respond

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// answerDHCPv6 is the server side of RFC 8415 for a client whose addresses are known.
func (p *Port) answerDHCPv6(pkt packet) ([]byte, outcome) {
	req, err := dhcpv6.MessageFromBytes(pkt.payload)
	if err != nil {
		return nil, malformed
	}
	addrs := p.ipv6()
	if len(addrs) == 0 || pkt.dst != dhcpAgents || !pkt.src.IsLinkLocalUnicast() || !p.valid(req) {
		return nil, ignored
	}
	reply := p.reply(req, addrs)
	if reply == nil {
		return nil, ignored
	}
	payload := reply.ToBytes()
	b := overIPv6(p.MAC, p.GatewayMAC, pkt.src, protoUDP, udpLen+len(payload))
	b = appendUDP(b, GatewayIPv6, pkt.src, dhcpv6ServerPort, dhcpv6ClientPort, payload)
	if req.MessageType == dhcpv6.MessageTypeDecline {
		return b, declined
	}
	return b, sentDHCPv6
}

// duid identifies the server. It depends on nothing but the gateway's MAC, so it outlives restarts.
func (p *Port) duid() dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: p.GatewayMAC}
}

// valid applies RFC 8415, section 16: who must be named in a message, and who must not.
func (p *Port) valid(req *dhcpv6.Message) bool {
	client, server := req.Options.ClientID(), req.Options.ServerID()
	named := server != nil && bytes.Equal(server.ToBytes(), p.duid().ToBytes())
	switch req.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		return client != nil && server == nil
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		return client != nil && named
	case dhcpv6.MessageTypeInformationRequest:
		return (server == nil || named) && req.GetOneOption(dhcpv6.OptionIANA) == nil &&
			req.GetOneOption(dhcpv6.OptionIATA) == nil && req.GetOneOption(dhcpv6.OptionIAPD) == nil
	}
	return false
}

// reply returns nil where none is due.
func (p *Port) reply(req *dhcpv6.Message, addrs []netip.Addr) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: req.TransactionID}
	m.AddOption(dhcpv6.OptServerID(p.duid()))
	if id := req.GetOneOption(dhcpv6.OptionClientID); id != nil {
		m.AddOption(id)
	}
	switch req.MessageType {
	case dhcpv6.MessageTypeSolicit:
		if req.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
			dhcpv6.WithRapidCommit(m)
		} else {
			m.MessageType = dhcpv6.MessageTypeAdvertise
			m.AddOption(dhcpv6.OptPreference(255)) // the client need not wait for others
		}
		assign(m, req, addrs)
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		assign(m, req, addrs)
	case dhcpv6.MessageTypeConfirm:
		code, ok := confirm(req, addrs)
		if !ok {
			return nil
		}
		m.AddOption(status(code))
		return m
	case dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		m.AddOption(status(iana.StatusSuccess))
		return m
	}
	if dns := p.resolvers(true); len(dns) > 0 {
		m.AddOption(dhcpv6.OptDNS(netIPs(dns)...))
	}
	return m
}

// assign answers each identity association of req. One of them gets all addresses: the one that
// holds some already, else the first; prefixes and temporary addresses are not given out.
func assign(m, req *dhcpv6.Message, addrs []netip.Addr) {
	associations := req.Options.IANA()
	holder := max(0, slices.IndexFunc(associations, func(ia *dhcpv6.OptIANA) bool {
		return slices.ContainsFunc(listed(ia), func(a netip.Addr) bool { return slices.Contains(addrs, a) })
	}))
	for i, ia := range associations {
		out := &dhcpv6.OptIANA{IaId: ia.IaId, T1: infinite, T2: infinite}
		foreign := slices.DeleteFunc(listed(ia), func(a netip.Addr) bool { return slices.Contains(addrs, a) })
		switch {
		case i != holder:
			out.Options.Add(status(iana.StatusNoAddrsAvail))
		case len(foreign) > 0 && req.MessageType == dhcpv6.MessageTypeRequest:
			out.Options.Add(status(iana.StatusNotOnLink)) // section 18.3.2
		default:
			give(out, addrs, foreign, req.MessageType)
		}
		m.AddOption(out)
	}
	for _, ia := range req.Options.IATA() {
		out := &dhcpv6.OptIATA{IaId: ia.IaId}
		out.Options.Add(status(iana.StatusNoAddrsAvail))
		m.AddOption(out)
	}
	for _, ia := range req.Options.IAPD() {
		out := &dhcpv6.OptIAPD{IaId: ia.IaId}
		out.Options.Add(status(iana.StatusNoPrefixAvail))
		m.AddOption(out)
	}
}

// give assigns addrs for ever and, to a client that prolongs its leases, ends those of foreign
// addresses (RFC 8415, sections 18.3.4 and 18.3.5).
func give(ia *dhcpv6.OptIANA, addrs, foreign []netip.Addr, kind dhcpv6.MessageType) {
	for _, a := range addrs {
		ia.Options.Add(&dhcpv6.OptIAAddress{
			IPv6Addr: a.AsSlice(), PreferredLifetime: infinite, ValidLifetime: infinite,
		})
	}
	if kind == dhcpv6.MessageTypeSolicit {
		return // there they are only hints
	}
	for _, a := range foreign {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice()})
	}
}

// confirm tells whether all addresses that req lists are the machine's; ok is false when it lists
// none, which must not be answered (RFC 8415, section 18.3.3).
func confirm(req *dhcpv6.Message, addrs []netip.Addr) (code iana.StatusCode, ok bool) {
	for _, ia := range req.Options.IANA() {
		for _, a := range listed(ia) {
			ok = true
			if !slices.Contains(addrs, a) {
				return iana.StatusNotOnLink, true
			}
		}
	}
	return iana.StatusSuccess, ok
}

// maxListed bounds the foreign addresses that are answered, so that an answer fits its link.
const maxListed = 16

func listed(ia *dhcpv6.OptIANA) []netip.Addr {
	var out []netip.Addr
	for _, opt := range ia.Options.Addresses() {
		if a, ok := netip.AddrFromSlice(opt.IPv6Addr); ok && len(out) < maxListed {
			out = append(out, a)
		}
	}
	return out
}

func status(code iana.StatusCode) *dhcpv6.OptStatusCode {
	return &dhcpv6.OptStatusCode{StatusCode: code}
}
