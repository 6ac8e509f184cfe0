// Command bench measures what docs promise in numbers, prints a table and writes bench.json. It
// reports and never judges: a missed goal is no failure, only a benchmark that could not run is.
//
//	go run ./test/bench [-only prefix] [-out bench.json]
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"ingot/test/bench/control"
	"ingot/test/bench/machines"
	"ingot/test/bench/program"
	"ingot/test/bench/resources"
	"ingot/test/bench/result"
	"ingot/test/bench/routes"
	"ingot/test/bench/throughput"
)

// benches are all benchmarks in the order of the report.
var benches = slices.Concat(
	resources.Benches(),
	machines.Benches(),
	throughput.Benches(),
	program.Benches(),
	routes.Benches(),
	control.Benches(),
)

func main() {
	var cfg config
	flag.StringVar(&cfg.only, "only", "", "run benchmarks whose name starts with `prefix`")
	flag.StringVar(&cfg.out, "out", "bench.json", "write the results to `file`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type config struct{ only, out string }

func run(ctx context.Context, cfg config) error {
	results, err := measure(ctx, cfg.only)
	if err := result.Table(os.Stdout, results); err != nil {
		return err
	}
	encoded, jsonErr := json.MarshalIndent(results, "", "  ")
	if jsonErr != nil {
		return fmt.Errorf("encode results: %w", jsonErr)
	}
	if err := os.WriteFile(cfg.out, append(encoded, '\n'), 0o644); err != nil {
		return err
	}
	return err
}

// measure runs what is wanted, one after the other. What fails does not keep the rest from running.
func measure(ctx context.Context, only string) ([]result.Result, error) {
	results, failed, matched := []result.Result{}, 0, false
	for _, bench := range benches {
		if !bench.Wanted(only) {
			continue
		}
		matched = true
		names := strings.Join(bench.Names, ", ")
		start := time.Now()
		fmt.Fprintf(os.Stderr, "%s ...\n", names)
		got, err := bench.Run(ctx)
		for _, r := range got {
			if strings.HasPrefix(r.Name, only) {
				results = append(results, r)
			}
		}
		if err != nil {
			failed++
			fmt.Fprintf(os.Stderr, "%s: %v\n", names, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", names, time.Since(start).Round(100*time.Millisecond))
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
	}
	switch {
	case failed > 0:
		return results, fmt.Errorf("%d benchmarks could not run", failed)
	case !matched:
		return results, fmt.Errorf("no benchmark's name starts with %q", only)
	}
	return results, nil
}
