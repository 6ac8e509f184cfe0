package main

import (
	"fmt"
	"io"
	"time"
)

// A progress prints one line for each step: what it is while it runs, how long it took when it
// is done, and below it what there is to see.
type progress struct {
	out     io.Writer
	started time.Time
	number  int
	details []string
}

func newProgress(out io.Writer) *progress { return &progress{out: out, started: time.Now()} }

// step runs f. Its error names the step.
func (p *progress) step(what string, f func() error) error {
	p.number++
	p.details = nil
	fmt.Fprintf(p.out, "%2d  %-58s", p.number, what)
	begin := time.Now()
	err := f()
	result := fmt.Sprintf("%5.1f s", time.Since(begin).Seconds())
	if err != nil {
		result = "failed"
		err = fmt.Errorf("step %d (%s): %w", p.number, what, err)
	}
	fmt.Fprintln(p.out, result)
	for _, detail := range p.details {
		fmt.Fprintln(p.out, "      "+detail)
	}
	return err
}

// show adds a line below the running step.
func (p *progress) show(format string, args ...any) {
	p.details = append(p.details, fmt.Sprintf(format, args...))
}
