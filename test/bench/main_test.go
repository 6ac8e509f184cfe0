package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/test/bench/result"
)

func TestNamesAreUniqueAndHaveAnArea(t *testing.T) {
	areas := map[string]bool{"runtime": true, "dataplane": true, "machine": true, "routing": true, "control": true, "storage": true}
	seen := make(map[string]bool)
	for _, bench := range benches {
		for _, name := range bench.Names {
			if area, _, ok := strings.Cut(name, "/"); !ok || !areas[area] {
				t.Errorf("%s is in no known area", name)
			}
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
	}
}

func TestReport(t *testing.T) {
	saved := benches
	defer func() { benches = saved }()
	one := func(err error, names ...string) result.Bench {
		return result.Bench{Names: names, Run: func(context.Context) (results []result.Result, _ error) {
			for _, name := range names {
				results = append(results, result.New(name, "s", result.AtMost(0), 1))
			}
			return results, err
		}}
	}
	benches = []result.Bench{one(nil, "a/x", "a/y"), one(errors.New("no kernel"), "b/z")}
	for _, tc := range []struct {
		name, only, fault string
		want              []string
	}{
		{"a missed goal is no error", "a/", "", []string{"a/x", "a/y"}},
		{"only what is asked for is reported", "a/y", "", []string{"a/y"}},
		{"what could not run is an error, the rest is reported", "", "1 benchmarks could not run", []string{"a/x", "a/y", "b/z"}},
		{"nothing matches", "c", `starts with "c"`, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			results, err := measure(t.Context(), tc.only)
			var names []string
			for _, r := range results {
				names = append(names, r.Name)
			}
			if diff := cmp.Diff(tc.want, names); diff != "" {
				t.Errorf("reported (-want +got):\n%s", diff)
			}
			if (err == nil) != (tc.fault == "") || err != nil && !strings.Contains(err.Error(), tc.fault) {
				t.Errorf("error is %v, want %q", err, tc.fault)
			}
		})
	}
	out := filepath.Join(t.TempDir(), "bench.json")
	if err := run(t.Context(), config{only: "a/x", out: out}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || !strings.Contains(string(got), `"name": "a/x"`) {
		t.Errorf("file is %s, error %v", got, err)
	}
}
