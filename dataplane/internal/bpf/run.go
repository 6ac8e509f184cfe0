package bpf

import (
	"encoding/binary"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// skbIfindex is the offset of ifindex in struct __sk_buff; see linux/bpf.h.
const (
	skbSize    = 192
	skbIfindex = 40
)

func run(p *ebpf.Program, ifindex int, packet []byte, repeat int) (uint32, []byte, int64, error) {
	options := &ebpf.RunOptions{Data: packet, DataOut: make([]byte, len(packet)+256), Repeat: uint32(repeat)}
	if p.Type() == ebpf.SchedCLS {
		ctx := make([]byte, skbSize)
		binary.NativeEndian.PutUint32(ctx[skbIfindex:], uint32(ifindex))
		options.Context = ctx
	}
	runtime.LockOSThread() // whose time is taken
	defer runtime.UnlockOSThread()
	begin := threadTime()
	action, err := p.Run(options)
	if err != nil {
		return 0, nil, 0, fmt.Errorf("run %s: %w", p, err)
	}
	return action, options.DataOut, (threadTime() - begin) / int64(max(repeat, 1)), nil
}

// threadTime is the CPU time of the calling thread in nanoseconds: other programs of the machine
// do not count.
func threadTime() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return t.Nano()
}
