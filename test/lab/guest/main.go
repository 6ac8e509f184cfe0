// Command guest is all the user space of the lab's guest image besides busybox. The name it is
// called by, or else its first argument, says what to do:
//
//	init     process 1: in the initramfs it loads modules, mounts /dev/vda and goes there; on the
//	         root disk it starts the daemon and reaps orphans
//	daemon   configures the network by DHCP and router advertisements, applies Ignition, serves
//	         the QEMU guest agent's protocol, powers off at the ACPI power button
//	traffic  sends, receives and measures (see traffic.go)
//
// It is built without cgo and runs on hosts and in namespaces as well (traffic).
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	commands := map[string]func(args []string) error{
		"init": runInit, "daemon": runDaemon, "traffic": runTraffic,
	}
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if commands[name] == nil && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	command, ok := commands[name]
	if !ok {
		fmt.Fprintln(os.Stderr, "usage: guest init | daemon | traffic ...")
		os.Exit(2)
	}
	if err := command(args); err != nil {
		fmt.Fprintf(os.Stderr, "guest %s: %v\n", name, err)
		os.Exit(1)
	}
}
