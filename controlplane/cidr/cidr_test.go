package cidr

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func parse(t testing.TB, texts ...string) []netip.Prefix {
	t.Helper()
	out, err := Parse(texts...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSubtractGivesTheMinimalRest(t *testing.T) {
	for _, tc := range []struct {
		name              string
		from, minus, want []string
	}{
		{"nothing taken", []string{"10.0.0.0/8"}, nil, []string{"10.0.0.0/8"}},
		{"one address of four", []string{"10.0.0.0/30"}, []string{"10.0.0.1/32"}, []string{"10.0.0.0/32", "10.0.0.2/31"}},
		{"all of it", []string{"10.0.0.0/24"}, []string{"10.0.0.0/16"}, []string{}},
		{"something elsewhere", []string{"10.0.0.0/24"}, []string{"10.0.1.0/24", "fd00::/8"}, []string{"10.0.0.0/24"}},
		{"everything but one private block", []string{"0.0.0.0/0"}, []string{"128.0.0.0/1", "64.0.0.0/2"}, []string{"0.0.0.0/2"}},
		{"IPv6", []string{"fd00::/126"}, []string{"fd00::3/128"}, []string{"fd00::/127", "fd00::2/128"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Strings(Subtract(parse(t, tc.from...), parse(t, tc.minus...)))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("Subtract (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefusesBitsBehindTheLength(t *testing.T) {
	if _, err := Parse("10.0.0.1/24"); err == nil {
		t.Error("Parse(10.0.0.1/24) succeeded")
	}
}

// small draws prefixes within a /24, so that a set of addresses is a set of bytes.
func small() *rapid.Generator[[]netip.Prefix] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
		a := netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "byte")})
		return netip.PrefixFrom(a, rapid.IntRange(24, 32).Draw(t, "bits")).Masked()
	}), 0, 12)
}

func members(set []netip.Prefix) (in [256]bool) {
	for i := range in {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		in[i] = slices.ContainsFunc(set, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return in
}

func TestSetsAgreeWithAModelOfSingleAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := small().Draw(t, "a"), small().Draw(t, "b")
		ma, mb, want := members(a), members(b), members(nil)
		for i := range want {
			want[i] = ma[i] && !mb[i]
		}
		if got := Subtract(a, b); members(got) != want {
			t.Fatalf("%v minus %v is not %v", a, b, got)
		}
		merged := Merge(a)
		if members(merged) != ma {
			t.Fatalf("%v merged is not %v", a, merged)
		}
		if again := Merge(merged); !slices.Equal(again, merged) {
			t.Fatalf("merging %v again gives %v", merged, again)
		}
		bits := rapid.IntRange(24, 32).Draw(t, "bits")
		whole := netip.MustParsePrefix("10.0.0.0/24")
		free, ok := FirstFree(whole, bits, a)
		size := 1 << (32 - bits)
		for start := 0; start < 256; start += size {
			if slices.Contains(ma[start:start+size], true) {
				continue
			}
			if !ok || int(free.Addr().As4()[3]) != start || free.Bits() != bits {
				t.Fatalf("first free /%d beside %v is %v, want 10.0.0.%d", bits, a, free, start)
			}
			return
		}
		if ok {
			t.Fatalf("found %v beside %v, where nothing is free", free, a)
		}
	})
}
