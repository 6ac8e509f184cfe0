package routing

import (
	"errors"
	"net/netip"
	"testing"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// peerConfig is another host of the same fabric.
func peerConfig() Config {
	c := goodConfig()
	c.RouterID = netip.MustParseAddr("10.0.0.2")
	c.NextHopPrefix = netip.MustParsePrefix("fd00:10:0:2::/64")
	return c
}

func TestWhatOneHostEncodesAnotherDecodes(t *testing.T) {
	for _, prefix := range []string{"10.1.2.3/32", "0.0.0.0/0", "192.168.0.0/17", "2001:db8::1/128", "::/0"} {
		for _, vni := range []uint32{1, 65535, 65536, maxVNI} {
			a := Announcement{PortID: "p", VNI: vni, Prefix: netip.MustParsePrefix(prefix), NextHop: netip.MustParseAddr("fd00:10:0:2::7")}
			encoded, err := encodeAnnouncement(a, peerConfig(), 0x1234)
			if err != nil {
				t.Fatal(err)
			}
			key, p, err := decodePath(encoded, goodConfig())
			if err != nil {
				t.Errorf("%s in %d: %v", prefix, vni, err)
				continue
			}
			wantRD := distinguisher{0, 1, 10, 0, 0, 2, 0x12, 0x34}
			if key != (pathKey{wantRD, a.Prefix}) || p != (path{vni, a.NextHop}) {
				t.Errorf("%s in %d: got %v %v", prefix, vni, key, p)
			}
		}
	}
}

func TestPresenceIsNoTenantRoute(t *testing.T) {
	encoded, err := encodePresence(peerConfig())
	if err != nil {
		t.Fatal(err)
	}
	key, p, err := decodePath(encoded, goodConfig())
	if err != nil || !p.isPresence() || key.rd.host() != peerConfig().RouterID {
		t.Errorf("got %v %v %v", key, p, err)
	}
}

// TestImportFilter lists what a host or a reflector gone bad could tell.
func TestTheImportFilterRefuses(t *testing.T) {
	nextHop, prefix := netip.MustParseAddr("fd00:10:0:2::7"), netip.MustParsePrefix("10.0.0.1/32")
	encode := func(index uint16, nextHop netip.Addr, label, target uint32) *api.Path {
		p, err := encodeRoute(peerConfig(), index, prefix, nextHop, label, target)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	custom := func(gateway string, etag uint32, communities ...bgp.ExtendedCommunityInterface) *api.Path {
		nlri := bgp.NewEVPNIPPrefixRoute(bgp.NewRouteDistinguisherIPAddressAS("10.0.0.2", 1),
			bgp.EthernetSegmentIdentifier{}, etag, 32, "10.0.0.1", gateway, 5)
		p, err := newPath(nlri, bgp.NewPathAttributeMpReachNLRI(nextHop.String(), []bgp.AddrPrefixInterface{nlri}),
			bgp.NewPathAttributeExtendedCommunities(communities))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	empty := custom("0.0.0.0", 0, routeTarget(64512, 5))
	empty.Pattrs = nil
	noNLRI := custom("0.0.0.0", 0, routeTarget(64512, 5))
	noNLRI.Nlri.Value = []byte{0xff}
	for _, c := range []struct {
		name string
		path *api.Path
		want error
	}{
		{"nothing, to be sure that the rest is right", custom("0.0.0.0", 0, routeTarget(64512, 5)), nil},
		{"own next hop", encode(1, netip.MustParseAddr("fd00:10:0:1::7"), 5, 5), errOwn},
		{"next hop outside the underlay", encode(1, netip.MustParseAddr("2001:db8::1"), 5, 5), errNextHop},
		{"IPv4 next hop", encode(1, netip.MustParseAddr("10.9.9.9"), 5, 5), errNextHop},
		{"label of another network", encode(1, nextHop, 6, 5), errTarget},
		{"target of another AS", custom("0.0.0.0", 0, routeTarget(64513, 5)), errTarget},
		{"no target", custom("0.0.0.0", 0), errTarget},
		{"no attributes", empty, errNextHop},
		{"undecodable NLRI", noNLRI, errMalformed},
		{"label 0", encode(1, nextHop, 0, 0), errMalformed},
		{"tenant route with the distinguisher of a presence", encode(presenceIndex, nextHop, 5, 5), errTarget},
		{"gateway overlay index", custom("10.0.0.9", 0, routeTarget(64512, 5)), errMalformed},
		{"Ethernet tag", custom("0.0.0.0", 7, routeTarget(64512, 5)), errMalformed},
		{"other encapsulation", custom("0.0.0.0", 0, routeTarget(64512, 5), bgp.NewEncapExtended(bgp.TUNNEL_TYPE_VXLAN)), errMalformed},
	} {
		if _, _, err := decodePath(c.path, goodConfig()); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}
