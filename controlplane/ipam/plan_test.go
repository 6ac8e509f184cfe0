package ipam

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/controlplane/cidr"
	"ingot/runtime/fault"
)

func space(t *testing.T, prefix string, reserved ...string) Space {
	t.Helper()
	r, err := cidr.Parse(reserved...)
	if err != nil {
		t.Fatal(err)
	}
	return Space{Name: "root", Prefix: netip.MustParsePrefix(prefix), Reserved: r}
}

// drain takes parts until none is left.
func drain(t *testing.T, s Space, bits int) []string {
	t.Helper()
	var out []string
	for {
		p, err := s.Free(bits)
		if errors.Is(err, fault.Exhausted) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Check(p); err != nil {
			t.Fatalf("Free gave what Check refuses: %v", err)
		}
		s.Used = Take(s.Used, p)
		out = append(out, p.String())
	}
}

func TestAddressesAreHandedOutInOrderAndNeverThoseThatAreKeptBack(t *testing.T) {
	for _, tc := range []struct {
		name  string
		space Space
		bits  int
		want  []string
	}{
		{"IPv4 keeps network, gateway and broadcast", space(t, "10.0.0.0/29"), 32,
			[]string{"10.0.0.2/32", "10.0.0.3/32", "10.0.0.4/32", "10.0.0.5/32", "10.0.0.6/32"}},
		{"IPv6 has no broadcast", space(t, "fd00::/126"), 128, []string{"fd00::2/128", "fd00::3/128"}},
		{"reserved parts are skipped", space(t, "10.0.0.0/29", "10.0.0.4/30"), 32, []string{"10.0.0.2/32", "10.0.0.3/32"}},
		{"subnets may start at the network address", space(t, "10.0.0.0/22"), 24,
			[]string{"10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"}},
		{"a pair has no address of its own to keep back", space(t, "10.0.0.0/29"), 31, []string{"10.0.0.2/31", "10.0.0.4/31"}},
		{"a single address can be passed on", space(t, "10.0.0.7/32"), 32, []string{"10.0.0.7/32"}},
		{"a pair hands out nothing", space(t, "10.0.0.0/31"), 32, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, drain(t, tc.space, tc.bits)); diff != "" {
				t.Errorf("handed out (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsGivenBackIsHandedOutFirst(t *testing.T) {
	s := space(t, "10.0.0.0/24")
	for range 10 {
		p, err := s.Free(32)
		if err != nil {
			t.Fatal(err)
		}
		s.Used = Take(s.Used, p)
	}
	back := netip.MustParsePrefix("10.0.0.5/32")
	s.Used = Release(s.Used, back)
	if got, err := s.Free(32); err != nil || got != back {
		t.Errorf("Free = %v, %v; want %v", got, err, back)
	}
}

func TestRefusalsSayWhatIsInTheWay(t *testing.T) {
	full := space(t, "10.0.0.0/30")
	full.Used = []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}
	_, err := full.Free(32)
	want := `prefix "root" (10.0.0.0/30) has no free /32: 1 of 4 addresses in use: exhausted`
	if err == nil || err.Error() != want {
		t.Errorf("Free: %v; want %s", err, want)
	}
	if _, err := full.Free(16); !errors.Is(err, fault.Invalid) {
		t.Errorf("Free(16) = %v; want invalid", err)
	}
	for part, class := range map[string]error{
		"10.0.0.2/32": fault.Exhausted, "10.0.0.1/32": fault.Invalid, "10.0.0.3/32": fault.Invalid, "10.0.1.0/32": fault.Invalid,
	} {
		if err := full.Check(netip.MustParsePrefix(part)); !errors.Is(err, class) {
			t.Errorf("Check(%s) = %v; want %v", part, err, class)
		}
	}
}
