// Command bench measures what docs promise in numbers, prints a table and writes bench.json. It
// reports and never judges: a missed goal is no failure, only a benchmark that could not run is.
//
//	go run ./test/bench [ONLY=prefix] [OUT=bench.json]
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"ingot/test/bench/result"
	"ingot/test/bench/throughput"
)

// benches are all benchmarks in the order of the report.
var benches = slices.Concat(
	throughput.Benches(),
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	only, out := "", "bench.json"
	for _, arg := range args {
		switch key, value, _ := strings.Cut(arg, "="); key {
		case "ONLY":
			only = value
		case "OUT":
			out = value
		default:
			return fmt.Errorf("argument %q: want ONLY=prefix or OUT=file", arg)
		}
	}
	results, err := measure(ctx, only)
	if err := result.Table(os.Stdout, results); err != nil {
		return err
	}
	encoded, jsonErr := json.MarshalIndent(results, "", "  ")
	if jsonErr != nil {
		return fmt.Errorf("encode results: %w", jsonErr)
	}
	if err := os.WriteFile(out, append(encoded, '\n'), 0o644); err != nil {
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
