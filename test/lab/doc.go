// Package lab builds small data centres out of Linux namespaces, for the demo, the stories in
// test/e2e and the benchmarks: a spine, hosts joined to it by veth with an IPv6 underlay, a
// libvirtd on each host, and a guest image that boots in about two seconds.
//
// Everything of a lab lives in namespaces held by one process per host. When that process ends,
// by Close or because the lab's own process died, the kernel ends whatever ran in them and frees
// every device, mount and route; nothing has a name outside. A lab never touches the machine's
// own network and never ends a process that it did not start.
package lab
