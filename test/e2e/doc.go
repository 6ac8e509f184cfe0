// Package e2e tells stories: scripts that use a whole cloud (control plane, hosts, fabric, guests)
// by its command line, as an operator does, and that break parts of it on the way. Everything
// in them is real: FRR, libvirtd, QEMU, BPF.
package e2e
