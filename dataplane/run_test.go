package dataplane

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ingot/dataplane/internal/bpf"
	"ingot/test/need"
)

// running runs the host's manager until the test ends.
func (h *host) running() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.manager.Run(ctx) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("run: %v", err)
		}
	})
}

func TestRunRemovesIdleFlowsOnly(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	w.remote(7, "10.9.0.0/16", 2)
	for _, port := range []uint16{4001, 4002} {
		w.sends(a, ip("10.0.0.1", "10.9.0.2", tcp(port, 80, syn))).wantForwarded(t)
	}
	m := w.manager
	idle, err := m.kernel.Flows.Select(func(k bpf.FlowKey, _ bpf.Flow) bool { return k.Lport == 4001>>8|4001&0xff<<8 })
	if err != nil || len(idle) != 1 {
		t.Fatalf("flows %v, %v", idle, err)
	}
	f, _, err := m.kernel.Flows.Get(idle[0])
	if err != nil {
		t.Fatal(err)
	}
	f.Last = clock() - f.Timeout - 1
	if err := m.kernel.Flows.Put(idle[0], f); err != nil {
		t.Fatal(err)
	}
	w.running()
	removed := func() uint64 {
		n, _, err := m.kernel.FlowsRemoved.Get(m.ports[a.ID].Slot)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); removed() == 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the idle flow is still there after a minute")
		}
	}
	left, err := m.Flows(a.ID)
	if err != nil || len(left) != 1 || left[0].Local != netip.MustParseAddrPort("10.0.0.1:4002") {
		t.Errorf("flows %+v, %v; want the one of port 4002", left, err)
	}
	if got := count(t, "flows", m.kernel.Flows); got != "flows 1" || removed() != 1 {
		t.Errorf("%s, removed %d", got, removed())
	}
}

func TestRunAnswersAMachinesDHCPClient(t *testing.T) {
	need.Commands(t, "busybox")
	h := newHosts(t)[0]
	a := h.machine("a", 7, 1, "10.0.0.1")
	h.running()
	out, err := a.exec("busybox udhcpc -f -n -q -t 10 -T 3 -i eth0 -s /bin/true")
	if err != nil || !strings.Contains(out, "lease of 10.0.0.1 obtained") {
		t.Errorf("udhcpc: %v\n%s", err, out)
	}
}
