package respond

import (
	"testing"
	"time"

	"golang.org/x/net/bpf"
)

func TestFiltersPassOnlyWhatIsAnswered(t *testing.T) {
	v4, v6 := fromMachine4(make([]byte, 240)), fromMachine6(make([]byte, 8))
	with := func(frame []byte, offset int, value byte) []byte {
		out := append([]byte(nil), frame...)
		out[offset] = value
		return out
	}
	options := append(append(append([]byte(nil), v4[:etherLen+ipv4Len]...), 1, 1, 1, 1), v4[etherLen+ipv4Len:]...)
	options[etherLen] = 0x46
	solicit := fromRouterSolicitation(linkLocal, 255)
	for _, tc := range []struct {
		name   string
		filter []bpf.Instruction
		frame  []byte
		pass   bool
	}{
		{"DHCPv4", filterIPv4, v4, true},
		{"DHCPv4 behind IP options", filterIPv4, options, true},
		{"DHCPv4 that may not be fragmented", filterIPv4, with(v4, etherLen+6, 0x40), true},
		{"first fragment", filterIPv4, with(v4, etherLen+6, 0x20), false},
		{"later fragment", filterIPv4, with(v4, etherLen+7, 1), false},
		{"other UDP port", filterIPv4, with(v4, etherLen+ipv4Len+3, 68), false},
		{"TCP", filterIPv4, with(v4, etherLen+9, 6), false},
		{"cut short", filterIPv4, v4[:etherLen+ipv4Len], false},
		{"DHCPv6", filterIPv6, v6, true},
		{"other UDP port over IPv6", filterIPv6, with(v6, etherLen+ipv6Len+3, 1), false},
		{"TCP over IPv6", filterIPv6, with(v6, etherLen+6, 6), false},
		{"router solicitation", filterIPv6, solicit, true},
		{"neighbor solicitation", filterIPv6, with(solicit, etherLen+ipv6Len, 135), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			vm, err := bpf.NewVM(tc.filter)
			if err != nil {
				t.Fatal(err)
			}
			n, err := vm.Run(tc.frame)
			if err != nil {
				t.Fatal(err)
			}
			if got := n > 0; got != tc.pass {
				t.Errorf("passes: %t, want %t", got, tc.pass)
			}
		})
	}
}

func TestAFloodingPortIsLimitedAlone(t *testing.T) {
	s := &Server{cfg: Config{Rate: 20, Burst: 40}, wake: make(chan struct{}, 1), ports: make(map[int]*served)}
	for _, ifindex := range []int{1, 2} {
		if err := s.Set(ifindex, testPort()); err != nil {
			t.Fatal(err)
		}
	}
	now, admitted := time.Now(), 0
	for range 10000 { // within one second
		if port, _ := s.admit(1, now); port != nil {
			admitted++
		}
		now = now.Add(100 * time.Microsecond)
	}
	if admitted < 55 || admitted > 61 {
		t.Errorf("%d packets of a flood are answered, want a burst of 40 and 20 a second", admitted)
	}
	if port, what := s.admit(2, now); port == nil {
		t.Errorf("another port is refused: %d", what)
	}
	if port, what := s.admit(3, now); port != nil || what != unknownPort {
		t.Errorf("an unknown device is served: %d", what)
	}
}

func TestAdvertisementsAreDueAtOnceAndThenWithinBounds(t *testing.T) {
	s := &Server{wake: make(chan struct{}, 1), ports: make(map[int]*served)}
	ipv4Only := testPort()
	ipv4Only.Addresses = ipv4Only.Addresses[1:2]
	if err := s.Set(1, ipv4Only); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(2, testPort()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	due, next := s.due(now)
	if _, ok := due[2]; !ok || len(due) != 1 {
		t.Errorf("due are %v, want the port with IPv6", due)
	}
	if next < minInterval || next > maxInterval {
		t.Errorf("next is due in %s", next)
	}
	if due, _ := s.due(now); len(due) != 0 {
		t.Errorf("due again: %v", due)
	}
	if err := s.Set(2, testPort()); err != nil {
		t.Fatal(err)
	}
	if due, _ := s.due(now); len(due) != 0 {
		t.Error("the same port set again is advertised again")
	}
	changed := testPort()
	changed.MTU = 9000
	if err := s.Set(2, changed); err != nil {
		t.Fatal(err)
	}
	if due, _ := s.due(now); due[2].MTU != 9000 {
		t.Error("a change is not advertised")
	}
	if due, _ := s.due(now.Add(maxInterval)); len(due) != 1 {
		t.Error("nothing is advertised after the longest interval")
	}
}
