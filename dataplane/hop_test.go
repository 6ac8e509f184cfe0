package dataplane

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// A flow remembers the way to its next hop, but not for long, and not beyond a change of its route.
func TestFlowFollowsAChangedNeighbour(t *testing.T) {
	w := newWorkbench(t)
	spec := w.port(1, 7, Policy{})
	w.remote(7, "10.0.0.2/32", 2)
	packet := ip("10.0.0.1", "10.0.0.2", udp(1000, 2000, 10))
	send := func() (mac net.HardwareAddr, outer []byte) {
		t.Helper()
		r := w.sends(spec, packet)
		r.wantForwarded(t)
		return r.packet[:6], r.packet[14+24 : 14+40]
	}
	for range 3 { // made, looked up, remembered
		if mac, _ := send(); !bytes.Equal(mac, wireB) {
			t.Fatalf("sent to %s, want %s", mac, wireB)
		}
	}
	wireC := net.HardwareAddr{2, 0, 0, 0, 0xff, 3}
	sh(t, "ip -n %s neigh replace fd00::2 lladdr %s dev up0", w.ns, wireC)
	changed := time.Now()
	for {
		mac, _ := send()
		if bytes.Equal(mac, wireC) {
			break
		}
		if time.Since(changed) > 10*time.Second {
			t.Fatalf("still sent to %s", mac)
		}
	}
	w.remote(7, "10.0.0.2/32", 3)
	if _, outer := send(); !bytes.Equal(outer, w.underlay(1, 3).AsSlice()) {
		t.Errorf("sent to %x after the route moved, want %s", outer, w.underlay(1, 3))
	}
}
