package routing

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/runtime/fault"
)

func goodConfig() Config {
	return Config{
		ASN: 64512, RouterID: netip.MustParseAddr("10.0.0.1"),
		Reflectors:       []Reflector{{Address: netip.MustParseAddr("fd00:10::1")}, {Address: netip.MustParseAddr("fd00:10::2")}},
		NextHopPrefix:    netip.MustParsePrefix("fd00:10:0:1::/64"),
		UnderlaySupernet: netip.MustParsePrefix("fd00:10::/48"),
	}
}

func TestConfigFaultsAreAllToldAtOnce(t *testing.T) {
	if err := goodConfig().Validate(); err != nil {
		t.Fatalf("a good configuration is refused: %v", err)
	}
	c := goodConfig()
	c.ASN = 70000
	c.RouterID = netip.MustParseAddr("::1")
	c.NextHopPrefix = netip.MustParsePrefix("fd00:11:0:1::/64")
	c.UnderlaySupernet = netip.MustParsePrefix("fd00:10::1/48")
	c.Reflectors = append(c.Reflectors, c.Reflectors[0], Reflector{ASN: 7, Password: strings.Repeat("x", 81)})
	c.HoldTime = 10 * time.Second
	c.ConnectRetry = 1500 * time.Millisecond
	c.ListenPort = 70000
	c.MaxPrefixes = -1
	err := c.Validate()
	if !errors.Is(err, fault.Invalid) {
		t.Fatalf("got %v, want class Invalid", err)
	}
	want := []string{
		"asn", "routerID", "reflectors[2].address", "reflectors[3].address", "reflectors[3].asn",
		"reflectors[3].password", "underlaySupernet", "holdTime", "connectRetry", "listenPort", "maxPrefixes",
	}
	var fields fault.Fields
	errors.As(err, &fields)
	var got []string
	for _, f := range fields {
		got = append(got, f.Path)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("paths of the faults (-want +got):\n%s", diff)
	}
	if _, err := New(c, nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("New: got %v, want class Invalid", err)
	}
}

func TestAnnouncementsAreCheckedAndCompared(t *testing.T) {
	c := goodConfig()
	good := Announcement{PortID: "m/a", VNI: 1, Prefix: netip.MustParsePrefix("10.0.0.1/32"), NextHop: netip.MustParseAddr("fd00:10:0:1::5")}
	moved := good
	moved.NextHop = netip.MustParseAddr("fd00:10:0:1::6")
	other := good
	other.PortID = "m/b"
	bad := Announcement{VNI: 1 << 24, Prefix: netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 24), NextHop: netip.MustParseAddr("fd00:10:0:2::5")}

	if _, err := c.index([]Announcement{good, good, other}); err != nil {
		t.Errorf("repetition is refused: %v", err)
	}
	if _, err := c.index([]Announcement{good, moved}); err == nil {
		t.Error("two next hops of one port and prefix are accepted")
	}
	_, err := c.index([]Announcement{bad})
	for _, field := range []string{"portID", "vni", "prefix", "nextHop"} {
		if err == nil || !strings.Contains(err.Error(), "announcements[0]."+field) {
			t.Errorf("%s is not named in %v", field, err)
		}
	}
	have, _ := c.index([]Announcement{good, other})
	want, _ := c.index([]Announcement{moved})
	announce, withdraw := difference(want, have)
	if diff := cmp.Diff([][]Announcement{{moved}, {other}}, [][]Announcement{announce, withdraw}, cmp.Comparer(same)); diff != "" {
		t.Errorf("announce, withdraw (-want +got):\n%s", diff)
	}
}

func same(a, b Announcement) bool { return a == b }

func TestRouteDistinguishersNeverCollide(t *testing.T) {
	d := newDistinguishers()
	at := func(port, nextHop string) Announcement {
		return Announcement{PortID: port, VNI: 1, Prefix: netip.MustParsePrefix("10.0.0.1/32"), NextHop: netip.MustParseAddr(nextHop)}
	}
	get := func(a Announcement) uint16 {
		index, err := d.get(a)
		if err != nil {
			t.Fatal(err)
		}
		return index
	}
	// low bits of the underlay address: 5, 5 again, 6 (taken by the second), and 0, the presence's.
	a, b, c, e := at("a", "fd00::5"), at("b", "fd00::1:5"), at("c", "fd00::6"), at("e", "fd00::2:0")
	if diff := cmp.Diff([]uint16{5, 6, 7, 1, 5}, []uint16{get(a), get(b), get(c), get(e), get(a)}); diff != "" {
		t.Errorf("indexes (-want +got):\n%s", diff)
	}
	d.keep(map[announcementKey]Announcement{c.key(): c})
	if got := get(b); got != 5 {
		t.Errorf("a freed index is not used again: got %d", got)
	}
	for n := range 1 << 16 {
		d.used[uint16(n)] = true
	}
	if _, err := d.get(at("last", "fd00::9")); !errors.Is(err, fault.Exhausted) {
		t.Errorf("got %v, want class Exhausted", err)
	}
}
