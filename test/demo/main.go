// Command demo tells the story of Ingot on one machine, from nothing: a fabric of namespaces with
// a route reflector, a control plane, two hosts that join it, and two machines on different hosts
// that reach each other through the dataplane. It says what it does and how long that took, and
// removes everything at the end, however it ends.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	var cfg config
	flag.StringVar(&cfg.bin, "bin", "bin", "folder with the binaries")
	flag.StringVar(&cfg.examples, "examples", "examples", "folder with the manifests")
	flag.StringVar(&cfg.dir, "dir", ".demo", "folder for logs and state")
	keep := flag.String("keep", "", "leave everything running at the end (1 or empty)")
	flag.Parse()
	cfg.keep = *keep != "" && *keep != "0"
	if flag.Arg(0) == "stop" {
		exit(stop(cfg.dir))
	}
	if os.Geteuid() != 0 {
		exit(fmt.Errorf("the demo makes network namespaces and loads BPF programs: run it as root"))
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	exit(run(ctx, cfg, os.Stdout))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
