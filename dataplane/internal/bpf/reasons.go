// Code generated from bpf/drops.txt. DO NOT EDIT.

package bpf

// Reasons names the drop reasons by number; 0 is none.
var Reasons = []string{
	"",
	"unknown-device",
	"malformed",
	"vlan",
	"spoofed-mac",
	"spoofed-ip",
	"unsupported-ethertype",
	"rogue-server",
	"multicast",
	"unanswered-arp",
	"fragment-unknown",
	"no-route",
	"policy-egress",
	"policy-ingress",
	"flow-table-full",
	"flow-quota",
	"ttl-exceeded",
	"too-big",
	"no-underlay-route",
	"unknown-endpoint",
	"foreign-destination",
	"forged-source",
	"ecn",
	"rewrite",
	"link-local",
}
