package respond

import (
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
)

const (
	// routerLifetime is the most that the field can carry; RFC 8319, section 4, raised the
	// protocol's limit from 9000 s to it.
	routerLifetime = 65535 * time.Second
	// RFC 4861, section 6.2.1: default MaxRtrAdvInterval, and MinRtrAdvInterval as a third of it.
	maxInterval = 600 * time.Second
	minInterval = 200 * time.Second

	solicitation = 133
)

// answerSolicitation answers a router solicitation (RFC 4861, section 6.1.1).
func (p *Port) answerSolicitation(pkt packet) ([]byte, outcome) {
	if len(pkt.payload) == 0 || pkt.payload[0] != solicitation || len(p.ipv6()) == 0 {
		return nil, ignored
	}
	if _, err := ndp.ParseMessage(pkt.payload); err != nil || pkt.payload[1] != 0 || pkt.hopLimit != 255 {
		return nil, malformed
	}
	if pkt.src.IsUnspecified() {
		return p.advertise(allNodes, allNodesMAC), sentAdvertisement
	}
	return p.advertise(pkt.src, p.MAC), sentAdvertisement
}

// advertise builds a router advertisement: addresses come from DHCPv6 (M and O flags), nothing is on
// the link (no prefix), the gateway is the way to everything.
func (p *Port) advertise(dst netip.Addr, dstMAC net.HardwareAddr) []byte {
	options := []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: p.GatewayMAC}}
	if p.MTU > 0 {
		options = append(options, ndp.NewMTU(uint32(p.MTU)))
	}
	if dns := p.resolvers(true); len(dns) > 0 {
		options = append(options, &ndp.RecursiveDNSServer{Lifetime: ndp.Infinity, Servers: dns})
	}
	message, err := ndp.MarshalMessageChecksum(&ndp.RouterAdvertisement{
		CurrentHopLimit:      64,
		ManagedConfiguration: true,
		OtherConfiguration:   true,
		RouterLifetime:       routerLifetime,
		Options:              options,
	}, GatewayIPv6, dst)
	if err != nil {
		return nil
	}
	return append(overIPv6(dstMAC, p.GatewayMAC, dst, protoICMPv6, len(message)), message...)
}
