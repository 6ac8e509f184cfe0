package dataplane

import "testing"

func TestMachinesOfOneNetworkReachEachOtherAcrossHosts(t *testing.T) {
	hosts := newHosts(t)
	a := hosts[0].machine("a", 7, 0xa, "10.0.0.1", "fd01::1")
	b := hosts[1].machine("b", 7, 0xb, "10.0.0.2", "fd01::2")
	c := hosts[0].machine("c", 7, 0xc, "10.0.0.3", "fd01::3")
	hosts[0].knows(b)
	hosts[1].knows(a, c)
	a.pings("10.0.0.2")
	a.pings("fd01::2")
	a.pings("10.0.0.3")
	a.pings("fd01::3")
	b.pings("10.0.0.3")
}
