// Package hostview owns what each host is told: one HostMachine per machine and one HostInterface per
// interface on it, complete, and nothing else. What is not complete is not told, and the machine says
// what it waits for. It also owns the order of the end: a machine, its addresses and its place are
// given back only after its host has said that it holds nothing of it any more.
//
//	create: HostInterface (address, policy known) → HostMachine (all interfaces known) → host starts it
//	delete: HostMachine tearing down → host says gone → HostMachine gone → HostInterface gone → interface and machine go
package hostview
