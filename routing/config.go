package routing

import (
	"log/slog"
	"net/netip"
	"strconv"
	"time"

	"ingot/runtime/fault"
)

// Config is what a Speaker needs to know. Zero values of optional fields are the defaults named.
type Config struct {
	// ASN is the autonomous system of this host and of its reflectors (iBGP). Route targets are
	// 2-octet AS : VNI, so it is 1 to 65535.
	ASN uint32
	// RouterID is an IPv4-formatted number, unique in the fabric. It need not be an address.
	RouterID netip.Addr
	// LocalAddress is the source of the BGP sessions. Optional: the kernel chooses.
	LocalAddress netip.Addr
	// Reflectors are the route reflectors, one session each. Every one carries the whole table.
	Reflectors []Reflector
	// NextHopPrefix is this host's underlay prefix. What is announced has its next hop inside;
	// what comes back with a next hop inside is our own and ignored.
	NextHopPrefix netip.Prefix
	// UnderlaySupernet holds the underlay prefixes of all hosts. Routes to a next hop outside are refused.
	UnderlaySupernet netip.Prefix
	// ListenPort accepts sessions from reflectors as well. 0 and -1: this side only connects.
	ListenPort int
	// HoldTime is 3 s to 9 s; default 9 s. Keepalives go out at a third of it.
	HoldTime time.Duration
	// ConnectRetry is the longest pause between attempts to reach a reflector; default 2 s, whole seconds.
	ConnectRetry time.Duration
	// RestartTime is asked of the reflectors: how long they keep this host's routes while
	// this process is away; default 120 s, at most 4095 s.
	RestartTime time.Duration
	// StaleTime is how long routes of a reflector that went away are kept after its session
	// is back, for the other hosts to find their way back to it too; default 20 s.
	StaleTime time.Duration
	// MaxPrefixes per reflector; a session that exceeds it is closed. Default 1,000,000.
	MaxPrefixes int
	// ForwardingPreserved says that the dataplane of this host forwarded while this process was
	// away (its pins were adopted). Only then are peers told so (the F bit of RFC 4724).
	ForwardingPreserved bool
	// BatchDelay is how long the first change waits for company before the sink is called; default 2 ms.
	BatchDelay time.Duration
	// Logger is slog.Default() when nil.
	Logger *slog.Logger
}

// A Reflector is one BGP neighbour.
type Reflector struct {
	Address netip.Addr
	// Port is 179 when 0.
	Port uint16
	// ASN is that of the Config when 0; another one is a fault.
	ASN uint32
	// Password turns on TCP MD5 (RFC 2385); at most 80 bytes.
	Password string
	// MaxHops turns on GTSM (RFC 5082): packets that travelled further are dropped. 0: off.
	MaxHops uint8
	// RouteTargetConstraint asks the reflector for the routes of imported networks only (RFC
	// 4684). It must know that family: FRR does not, and closes the session.
	RouteTargetConstraint bool
}

const (
	defaultBGPPort   = 179
	maxTCPMD5Key     = 80
	maxRestartTime   = 4095 * time.Second
	maxASN2          = 1<<16 - 1
	maxVNI           = 1<<24 - 1
	maxBatch         = 4096
	firstRetryPause  = time.Second
	longestRetryWait = time.Minute
)

// withDefaults fills the zero fields.
func (c Config) withDefaults() Config {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&c.HoldTime, 9*time.Second)
	set(&c.ConnectRetry, 2*time.Second)
	set(&c.RestartTime, 120*time.Second)
	set(&c.StaleTime, 20*time.Second)
	set(&c.BatchDelay, 2*time.Millisecond)
	if c.ListenPort == 0 {
		c.ListenPort = -1
	}
	if c.MaxPrefixes == 0 {
		c.MaxPrefixes = 1_000_000
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	reflectors := make([]Reflector, len(c.Reflectors))
	for i, r := range c.Reflectors {
		if r.Port == 0 {
			r.Port = defaultBGPPort
		}
		if r.ASN == 0 {
			r.ASN = c.ASN
		}
		r.Address = r.Address.Unmap()
		reflectors[i] = r
	}
	c.Reflectors = reflectors
	return c
}

// Validate returns all faults of c, as one error of class fault.Invalid.
func (c Config) Validate() error {
	var f fault.Fields
	c = c.withDefaults()
	if c.ASN < 1 || c.ASN > maxASN2 {
		f.Add("asn", "%d is not in 1 to %d (route targets carry a 2-octet AS)", c.ASN, maxASN2)
	}
	if !c.RouterID.Is4() || c.RouterID.IsUnspecified() {
		f.Add("routerID", "%v is not an IPv4-formatted identifier", c.RouterID)
	}
	if len(c.Reflectors) == 0 {
		f.Add("reflectors", "at least one is needed")
	}
	c.validateReflectors(&f)
	c.validatePrefixes(&f)
	within := func(path string, d, low, high time.Duration) {
		if d < low || d > high {
			f.Add(path, "%v is not in %v to %v", d, low, high)
		}
		if low >= time.Second && d%time.Second != 0 {
			f.Add(path, "%v is not a whole number of seconds", d)
		}
	}
	within("holdTime", c.HoldTime, 3*time.Second, 9*time.Second)
	within("connectRetry", c.ConnectRetry, time.Second, time.Minute)
	within("restartTime", c.RestartTime, time.Second, maxRestartTime)
	within("staleTime", c.StaleTime, time.Millisecond, time.Hour)
	within("batchDelay", c.BatchDelay, time.Microsecond, time.Second)
	if c.ListenPort < -1 || c.ListenPort > 65535 {
		f.Add("listenPort", "%d is not -1 and not a port", c.ListenPort)
	}
	if c.MaxPrefixes < 0 {
		f.Add("maxPrefixes", "%d is negative", c.MaxPrefixes)
	}
	return f.Err()
}

func (c Config) validateReflectors(f *fault.Fields) {
	seen := map[netip.Addr]bool{}
	for i, r := range c.Reflectors {
		at := func(name string) string { return "reflectors[" + strconv.Itoa(i) + "]." + name }
		switch {
		case !r.Address.IsValid() || r.Address.IsUnspecified() || r.Address.IsMulticast():
			f.Add(at("address"), "%v is not the address of a host", r.Address)
		case seen[r.Address]:
			f.Add(at("address"), "%v is named twice", r.Address)
		case c.LocalAddress.IsValid() && c.LocalAddress.Is4() != r.Address.Is4():
			f.Add(at("address"), "%v and the local address %v are of different families", r.Address, c.LocalAddress)
		}
		seen[r.Address] = true
		if r.ASN != c.ASN {
			f.Add(at("asn"), "%d differs from %d: a reflector is an iBGP neighbour", r.ASN, c.ASN)
		}
		if len(r.Password) > maxTCPMD5Key {
			f.Add(at("password"), "%d bytes; TCP MD5 takes at most %d", len(r.Password), maxTCPMD5Key)
		}
	}
}

func (c Config) validatePrefixes(f *fault.Fields) {
	own, all := c.NextHopPrefix, c.UnderlaySupernet
	ok := func(path string, p netip.Prefix) bool {
		switch {
		case !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6():
			f.Add(path, "%v is not an IPv6 prefix", p)
		case p.Masked() != p:
			f.Add(path, "%v has bits set beyond its length; %v is meant?", p, p.Masked())
		default:
			return true
		}
		return false
	}
	okOwn, okAll := ok("nextHopPrefix", own), ok("underlaySupernet", all)
	if okOwn && okAll && (own.Bits() < all.Bits() || !all.Contains(own.Addr())) {
		f.Add("nextHopPrefix", "%v is not inside the underlay supernet %v", own, all)
	}
}
