package result

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := Median(tc.values); got != tc.want {
			t.Errorf("median of %v is %v, want %v", tc.values, got, tc.want)
		}
	}
}

func TestJSONHasEveryKey(t *testing.T) {
	with := New("a/b", "s", RatioAtMost(2), 1, 3, 2).Against("the other", 4, 4)
	without := New("a/c", "ms", Goal{}, 7)
	for _, tc := range []struct {
		result Result
		want   string
	}{
		{with, `{"name":"a/b","value":2,"unit":"s","baseline":"the other","baseline_value":4,"ratio":0.5,"runs":[1,3,2]}`},
		{without, `{"name":"a/c","value":7,"unit":"ms","baseline":"","baseline_value":null,"ratio":null,"runs":[7]}`},
	} {
		got, err := json.Marshal(tc.result)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, string(got)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestTableMarksWhatMissesItsGoal(t *testing.T) {
	var out strings.Builder
	err := Table(&out, []Result{
		New("a/good", "ns", AtMost(200), 123.4),
		New("a/slow", "ns", AtMost(100), 123.4),
		New("a/better", "Gbit/s", RatioAtLeast(1), 12).Against("bridge", 10),
		New("a/worse", "Gbit/s", RatioAtLeast(1), 9).Against("bridge", 10),
		New("a/alone", "Gbit/s", RatioAtLeast(1), 9),
		New("a/free", "1/s", Goal{}, 123456),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `NAME      VALUE   UNIT    BASELINE   RATIO  GOAL
a/good    123     ns                        value ≤ 200
a/slow    123     ns                        value ≤ 100  missed
a/better  12      Gbit/s  10 bridge  1.2    ratio ≥ 1
a/worse   9       Gbit/s  10 bridge  0.9    ratio ≥ 1    missed
a/alone   9       Gbit/s                    ratio ≥ 1    missed
a/free    123456  1/s
`
	var got strings.Builder
	for line := range strings.Lines(out.String()) {
		got.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWantedMatchesAnyName(t *testing.T) {
	b := Bench{Names: []string{"a/x", "b/y"}}
	for prefix, want := range map[string]bool{"": true, "b/": true, "a/x": true, "a/xx": false, "c": false} {
		if got := b.Wanted(prefix); got != want {
			t.Errorf("prefix %q: %t, want %t", prefix, got, want)
		}
	}
}
