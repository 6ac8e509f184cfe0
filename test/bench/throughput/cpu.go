package throughput

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A sample is one run of a measurement. Its unit is a Gbit, or a packet.
type sample struct {
	// rate is units a second.
	rate float64
	// cost is CPU seconds a unit, of sender, network and receiver together.
	cost float64
}

// A watch is a running measurement.
type watch struct {
	start time.Time
	cpu   time.Duration
}

func startWatch() (watch, error) {
	cpu, err := cpuTime()
	return watch{time.Now(), cpu}, err
}

func (w watch) stop(units float64) (sample, error) {
	elapsed := time.Since(w.start)
	cpu, err := cpuTime()
	switch {
	case err != nil:
		return sample{}, err
	case units == 0:
		return sample{}, errors.New("nothing arrived")
	}
	return sample{rate: units / elapsed.Seconds(), cost: (cpu - w.cpu).Seconds() / units}, nil
}

func rates(samples []sample) []float64 {
	return each(samples, func(s sample) float64 { return s.rate })
}

// nanoseconds are the costs.
func nanoseconds(samples []sample) []float64 {
	return each(samples, func(s sample) float64 { return s.cost * 1e9 })
}

func each(samples []sample, value func(sample) float64) []float64 {
	out := make([]float64, len(samples))
	for i, s := range samples {
		out[i] = value(s)
	}
	return out
}

// cpuTime is what this process and the kernel's packet threads have used. On a kernel that does
// not account interrupts apart (IRQ_TIME_ACCOUNTING off) a process is charged with the
// softirqs that run when its system calls end, which is where its packets are forwarded; what
// exceeds their budget is done by ksoftirqd. Other programs of the machine disturb this little.
func cpuTime() (time.Duration, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("get CPU usage: %w", err)
	}
	total := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	for _, pid := range softirqThreads() {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			return 0, err
		}
		ran, err := strconv.ParseInt(string(bytes.Fields(stat)[0]), 10, 64) // nanoseconds
		if err != nil {
			return 0, fmt.Errorf("read schedstat of %d: %w", pid, err)
		}
		total += time.Duration(ran)
	}
	return total, nil
}

// softirqThreads are the process ids of all ksoftirqd. They are children of kthreadd, process 2;
// a container that hides them counts without them.
func softirqThreads() []int {
	var pids []int
	comms, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range comms {
		comm, err := os.ReadFile(path)
		if err == nil && bytes.HasPrefix(comm, []byte("ksoftirqd/")) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
