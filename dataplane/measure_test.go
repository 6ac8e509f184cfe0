package dataplane

import "testing"

func TestMeasuredPacketsAreForwarded(t *testing.T) {
	w := newWorkbench(t)
	a := w.port(1, 7, Policy{})
	w.remote(7, "11.0.0.0/8", 2)
	for _, flows := range []uint32{1, 1024} {
		w.do(func() {
			c, err := w.manager.MeasurePackets(a.ID, flows, 20000)
			if err != nil || !c.Forwarded || c.Packet <= c.Empty {
				t.Fatalf("cost %+v, error %v", c, err)
			}
			t.Logf("%d flows: %+v", flows, c)
		})
	}
}
