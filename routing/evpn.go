package routing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/apiutil"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"google.golang.org/protobuf/types/known/anypb"
)

var (
	familyEVPN = &api.Family{Afi: api.Family_AFI_L2VPN, Safi: api.Family_SAFI_EVPN}
	familyRTC  = &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_ROUTE_TARGET_CONSTRAINTS}
)

// Why a path is refused; each has a counter.
var (
	errMalformed = errors.New("not a route of the kind that is used here")
	errNextHop   = errors.New("next hop is outside the underlay")
	errTarget    = errors.New("no route target for the label")
	errOwn       = errors.New("own route, reflected back")
)

// A distinguisher is a route distinguisher as on the wire (RFC 4364, 4.2).
type distinguisher [8]byte

// A pathKey identifies a path of EVPN type 5 (RFC 9136, 3.1) within a session; the Ethernet tag is always 0.
type pathKey struct {
	rd     distinguisher
	prefix netip.Prefix
}

// A path is what a reflector tells about a pathKey.
type path struct {
	vni     uint32
	nextHop netip.Addr
}

// encodeAnnouncement gives EVPN type 5: the label is the VNI as a 24-bit number (RFC 9136, 4.4),
// the route target 2-octet AS : VNI, the encapsulation IP in IP (RFC 9012, 4.1).
func encodeAnnouncement(a Announcement, cfg Config, index uint16) (*api.Path, error) {
	return encodeRoute(cfg, index, a.Prefix, a.NextHop, a.VNI, a.VNI)
}

func encodeRoute(cfg Config, index uint16, prefix netip.Prefix, nextHop netip.Addr, label, target uint32) (*api.Path, error) {
	gateway := netip.IPv4Unspecified()
	if prefix.Addr().Is6() {
		gateway = netip.IPv6Unspecified()
	}
	nlri := bgp.NewEVPNIPPrefixRoute(
		bgp.NewRouteDistinguisherIPAddressAS(cfg.RouterID.String(), index),
		bgp.EthernetSegmentIdentifier{}, 0,
		uint8(prefix.Bits()), prefix.Addr().String(), gateway.String(), label)
	return newPath(nlri,
		bgp.NewPathAttributeOrigin(0),
		bgp.NewPathAttributeAsPath(nil),
		bgp.NewPathAttributeMpReachNLRI(nextHop.String(), []bgp.AddrPrefixInterface{nlri}),
		bgp.NewPathAttributeExtendedCommunities([]bgp.ExtendedCommunityInterface{
			routeTarget(cfg.ASN, target),
			bgp.NewEncapExtended(bgp.TUNNEL_TYPE_IP_IN_IP),
		}))
}

// encodeMembership asks for the routes of vni (RFC 4684).
func encodeMembership(vni uint32, cfg Config) (*api.Path, error) {
	nlri := bgp.NewRouteTargetMembershipNLRI(cfg.ASN, routeTarget(cfg.ASN, vni))
	return newPath(nlri,
		bgp.NewPathAttributeOrigin(0),
		bgp.NewPathAttributeAsPath(nil),
		bgp.NewPathAttributeMpReachNLRI(cfg.NextHopPrefix.Addr().String(), []bgp.AddrPrefixInterface{nlri}))
}

func routeTarget(asn, vni uint32) bgp.ExtendedCommunityInterface {
	return bgp.NewTwoOctetAsSpecificExtended(bgp.EC_SUBTYPE_ROUTE_TARGET, uint16(asn), vni, true)
}

func newPath(nlri bgp.AddrPrefixInterface, attrs ...bgp.PathAttributeInterface) (*api.Path, error) {
	p, err := apiutil.NewPath(nlri, false, attrs, time.Now())
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", nlri, err)
	}
	return p, nil
}

// decodeKey reads what a path is about; also all there is in a withdrawal.
func decodeKey(p *api.Path) (pathKey, *api.EVPNIPPrefixRoute, error) {
	var route api.EVPNIPPrefixRoute
	if p.GetNlri() == nil || !p.Nlri.MessageIs(&route) || p.Nlri.UnmarshalTo(&route) != nil || route.EthernetTag != 0 {
		return pathKey{}, nil, errMalformed
	}
	addr, err := netip.ParseAddr(route.IpPrefix)
	if err != nil {
		return pathKey{}, nil, errMalformed
	}
	prefix, err := addr.Unmap().Prefix(int(route.IpPrefixLen))
	if err != nil {
		return pathKey{}, nil, errMalformed
	}
	rd, err := decodeDistinguisher(route.Rd)
	return pathKey{rd: rd, prefix: prefix}, &route, err
}

// decodePath reads an announced path and applies the import filter. The key is valid with
// errNextHop, errTarget and errOwn: what it announced before is no longer true.
func decodePath(p *api.Path, cfg Config) (pathKey, path, error) {
	key, route, err := decodeKey(p)
	if err != nil {
		return key, path{}, err
	}
	gateway, err := netip.ParseAddr(route.GwAddress)
	if err != nil || !gateway.IsUnspecified() || route.Label < 1 || route.Label > maxVNI {
		return key, path{}, errMalformed
	}
	out := path{vni: route.Label}
	if key.rd.isPresence() {
		out.vni = presenceVNI
	}
	targeted := false
	for _, attribute := range p.Pattrs {
		switch {
		case attribute.MessageIs((*api.MpReachNLRIAttribute)(nil)):
			if out.nextHop, err = decodeNextHop(attribute); err != nil {
				return key, path{}, err
			}
		case attribute.MessageIs((*api.ExtendedCommunitiesAttribute)(nil)):
			if targeted, err = decodeCommunities(attribute, cfg.ASN, out.vni); err != nil {
				return key, path{}, err
			}
		}
	}
	switch {
	case cfg.NextHopPrefix.Contains(out.nextHop):
		return key, path{}, errOwn
	case !cfg.UnderlaySupernet.Contains(out.nextHop):
		return key, path{}, errNextHop
	case !targeted:
		return key, path{}, errTarget
	}
	return key, out, nil
}

func decodeNextHop(attribute *anypb.Any) (netip.Addr, error) {
	var reach api.MpReachNLRIAttribute
	if attribute.UnmarshalTo(&reach) != nil || len(reach.NextHops) == 0 {
		return netip.Addr{}, errMalformed
	}
	addr, err := netip.ParseAddr(reach.NextHops[0])
	if err != nil {
		return netip.Addr{}, errMalformed
	}
	return addr, nil
}

// decodeCommunities reports whether asn:vni is among the route targets. An encapsulation that
// the dataplane does not speak is an error.
func decodeCommunities(attribute *anypb.Any, asn, vni uint32) (targeted bool, err error) {
	var list api.ExtendedCommunitiesAttribute
	if attribute.UnmarshalTo(&list) != nil {
		return false, errMalformed
	}
	for _, community := range list.Communities {
		switch {
		case community.MessageIs((*api.TwoOctetAsSpecificExtended)(nil)):
			var c api.TwoOctetAsSpecificExtended
			if community.UnmarshalTo(&c) != nil {
				return false, errMalformed
			}
			if c.SubType == uint32(bgp.EC_SUBTYPE_ROUTE_TARGET) && c.Asn == asn && c.LocalAdmin == vni {
				targeted = true
			}
		case community.MessageIs((*api.EncapExtended)(nil)):
			var c api.EncapExtended
			if community.UnmarshalTo(&c) != nil || c.TunnelType != uint32(bgp.TUNNEL_TYPE_IP_IN_IP) {
				return false, errMalformed
			}
		}
	}
	return targeted, nil
}

func decodeDistinguisher(rd *anypb.Any) (out distinguisher, err error) {
	message, err := rd.UnmarshalNew()
	if err != nil {
		return out, errMalformed
	}
	switch v := message.(type) {
	case *api.RouteDistinguisherTwoOctetASN:
		binary.BigEndian.PutUint16(out[2:], uint16(v.Admin))
		binary.BigEndian.PutUint32(out[4:], v.Assigned)
	case *api.RouteDistinguisherIPAddress:
		admin, err := netip.ParseAddr(v.Admin)
		if err != nil || !admin.Is4() {
			return out, errMalformed
		}
		raw := admin.As4()
		out[1] = byte(bgp.BGP_RD_IPV4_ADDRESS)
		copy(out[2:], raw[:])
		binary.BigEndian.PutUint16(out[6:], uint16(v.Assigned))
	case *api.RouteDistinguisherFourOctetASN:
		out[1] = byte(bgp.BGP_RD_FOUR_OCTET_AS)
		binary.BigEndian.PutUint32(out[2:], v.Admin)
		binary.BigEndian.PutUint16(out[6:], uint16(v.Assigned))
	default:
		return out, errMalformed
	}
	return out, nil
}
