// Package result is what a benchmark reports: a value, the runs it is the median of, and, where
// there is one, a baseline measured in the same run. It knows no benchmark.
package result

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// A Bench measures something. The explicit list of all is in package main.
type Bench struct {
	// Names are those of its results. Its Run is called when one of them is wanted.
	Names []string
	// Run measures. Results that it has are reported even with an error.
	Run func(ctx context.Context) ([]Result, error)
}

// Wanted tells whether a name of b starts with prefix.
func (b Bench) Wanted(prefix string) bool {
	return slices.ContainsFunc(b.Names, func(name string) bool { return strings.HasPrefix(name, prefix) })
}

// A Result is one line of the report. Its JSON form is stable.
type Result struct {
	// Name is "<area>/<what>".
	Name string `json:"name"`
	// Value is the median of Runs, in Unit.
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Baseline says what BaselineValue, the median of the same quantity, was measured of; "" for nothing.
	Baseline      string   `json:"baseline"`
	BaselineValue *float64 `json:"baseline_value"`
	// Ratio is Value divided by BaselineValue.
	Ratio *float64  `json:"ratio"`
	Runs  []float64 `json:"runs"`
	// Goal is shown in the table; missing it is no error.
	Goal Goal `json:"-"`
}

// New makes a result without a baseline.
func New(name, unit string, goal Goal, runs ...float64) Result {
	return Result{Name: name, Value: Median(runs), Unit: unit, Runs: runs, Goal: goal}
}

// Against returns r with a baseline that was measured interleaved with it.
func (r Result) Against(baseline string, runs ...float64) Result {
	value := Median(runs)
	r.Baseline, r.BaselineValue = baseline, &value
	if value != 0 {
		ratio := r.Value / value
		r.Ratio = &ratio
	}
	return r
}

// Median of values, 0 of none.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// A Goal bounds a result's value or ratio from one side. The zero value is always met.
type Goal struct {
	ratio, atLeast bool
	bound          float64
}

// AtMost bounds the value from above.
func AtMost(bound float64) Goal { return Goal{bound: bound} }

// AtLeast bounds the value from below.
func AtLeast(bound float64) Goal { return Goal{atLeast: true, bound: bound} }

// RatioAtMost bounds the ratio from above.
func RatioAtMost(bound float64) Goal { return Goal{ratio: true, bound: bound} }

// RatioAtLeast bounds the ratio from below.
func RatioAtLeast(bound float64) Goal { return Goal{ratio: true, atLeast: true, bound: bound} }

func (g Goal) String() string {
	if g == (Goal{}) {
		return ""
	}
	what, relation := "value", "≤"
	if g.ratio {
		what = "ratio"
	}
	if g.atLeast {
		relation = "≥"
	}
	return fmt.Sprintf("%s %s %s", what, relation, number(g.bound))
}

// MetBy tells whether r reaches the goal; a result without a ratio misses a goal for one.
func (g Goal) MetBy(r Result) bool {
	value := r.Value
	switch {
	case g == (Goal{}):
		return true
	case g.ratio && r.Ratio == nil:
		return false
	case g.ratio:
		value = *r.Ratio
	}
	if g.atLeast {
		return value >= g.bound
	}
	return value <= g.bound
}

// Table prints results for people.
func Table(w io.Writer, results []Result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tVALUE\tUNIT\tBASELINE\tRATIO\tGOAL\t")
	for _, r := range results {
		baseline, ratio, verdict := "", "", ""
		if r.BaselineValue != nil {
			baseline = number(*r.BaselineValue) + " " + r.Baseline
		}
		if r.Ratio != nil {
			ratio = number(*r.Ratio)
		}
		if !r.Goal.MetBy(r) {
			verdict = "missed"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, number(r.Value), r.Unit, baseline, ratio, r.Goal, verdict)
	}
	return tw.Flush()
}

// number prints three significant digits, and all digits of what is a thousand or more.
func number(v float64) string {
	if v >= 1000 || v <= -1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
