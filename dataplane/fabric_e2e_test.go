package dataplane

import (
	"encoding/json"
	"os/exec"
	"testing"

	"ingot/test/need"
)

func TestMachinesOfOneNetworkReachEachOtherAcrossHosts(t *testing.T) {
	hosts := newHosts(t)
	a := hosts[0].machine("a", 7, 0xa, "10.0.0.1", "fd01::1")
	b := hosts[1].machine("b", 7, 0xb, "10.0.0.2", "fd01::2")
	c := hosts[0].machine("c", 7, 0xc, "10.0.0.3", "fd01::3")
	hosts[0].knows(b)
	hosts[1].knows(a, c)
	a.pings("10.0.0.2")
	a.pings("fd01::2")
	a.pings("10.0.0.3")
	a.pings("fd01::3")
	b.pings("10.0.0.3")
}

func TestStreamPassesWithSegmentationOffload(t *testing.T) {
	need.Commands(t, "iperf3")
	for name, mode := range map[string]ReceiveMode{"tc": ReceiveTC, "xdp": ReceiveXDP} {
		t.Run(name, func(t *testing.T) {
			hosts := newHosts(t)
			for _, h := range hosts {
				h.cfg.Receive = mode
				h.open()
			}
			a := hosts[0].machine("a", 7, 0xa, "10.0.0.1", "fd01::1")
			b := hosts[1].machine("b", 7, 0xb, "10.0.0.2", "fd01::2")
			hosts[0].knows(b)
			hosts[1].knows(a)
			// without segmentation offload tc moves less than a tenth of this
			want := map[ReceiveMode]float64{ReceiveTC: 1e9, ReceiveXDP: 1e8}[mode]
			for _, to := range []string{"10.0.0.2", "fd01::2"} {
				if rate := a.streams(b, to); rate < want {
					t.Errorf("stream to %s: %.3f Gbit/s, want above %.3f", to, rate/1e9, want/1e9)
				}
			}
		})
	}
}

// streams returns the bits per second that b gets of a TCP connection to its address.
func (m *machine) streams(b *machine, to string) float64 {
	server := exec.Command("ip", "netns", "exec", b.ns, "iperf3", "-s", "-1")
	if err := server.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	var report struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	for range 50 { // until the server listens
		out, _ := m.exec("iperf3 -J -t 2 -c %s", to)
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			m.t.Fatalf("iperf3: %v\n%s", err, out)
		}
		if report.End.Received.BitsPerSecond > 0 {
			break
		}
	}
	m.t.Logf("%s: %.2f Gbit/s", to, report.End.Received.BitsPerSecond/1e9)
	return report.End.Received.BitsPerSecond
}
