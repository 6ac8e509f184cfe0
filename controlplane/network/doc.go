// Package network owns what makes a Network one on the wire, its VNI, and what makes an interface
// part of it: its Ethernet and IP addresses, each used once per network.
package network
