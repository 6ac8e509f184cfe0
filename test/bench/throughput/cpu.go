package throughput

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

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
