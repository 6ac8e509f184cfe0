package machine

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
)

// hostCapacity is what machines may use: the host's total minus the reserve.
func (c Config) hostCapacity() (Resources, error) {
	total := c.Capacity
	if total.CPUs == 0 {
		total.CPUs = int64(runtime.NumCPU())
	}
	if total.MemoryBytes == 0 {
		memory, err := hostMemory()
		if err != nil {
			return Resources{}, err
		}
		total.MemoryBytes = memory
	}
	free := Resources{
		CPUs:        max(0, total.CPUs-c.Reserve.CPUs),
		MemoryBytes: max(0, total.MemoryBytes-c.Reserve.MemoryBytes),
	}
	free.CPUs = int64(float64(free.CPUs) * c.CPUOvercommit)
	return free, nil
}

// hostMemory reads the host's memory in bytes.
func hostMemory() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read host memory: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib int64
		if _, err := fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("read host memory: no MemTotal in /proc/meminfo")
}

// quantity is how many machines of the class fit into r.
func (r Resources) quantity(c Class) int64 {
	size := c.resources()
	return min(r.CPUs/size.CPUs, r.MemoryBytes/size.MemoryBytes)
}
