package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// A Bench is the port program made for many repetitions, over the maps of o.
type Bench struct {
	c *ebpf.Collection
}

// Bench loads the program; flows is 1, or a power of two of which each repetition takes one at random.
func (o *Objects) Bench(conf Conf, sizes Sizes, flows uint32) (*Bench, error) {
	spec, err := LoadBench()
	if err != nil {
		return nil, fmt.Errorf("read bench object: %w", err)
	}
	resize(spec, sizes)
	if flows == 1 {
		flows = 0
	}
	if err := spec.Variables["random_flows"].Set(flows); err != nil {
		return nil, fmt.Errorf("configure bench: %w", err)
	}
	if err := spec.Variables["conf"].Set(conf); err != nil {
		return nil, fmt.Errorf("configure bench: %w", err)
	}
	replacements := map[string]*ebpf.Map{}
	for name, m := range o.maps {
		if spec.Maps[name] != nil {
			replacements[name] = m
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
	if err != nil {
		return nil, fmt.Errorf("load bench: %w", explain(err))
	}
	return &Bench{c}, nil
}

// Run repeats "bench_empty", "bench_restore", "bench_resize" or "bench_port" and returns the action of the last
// repetition and the nanoseconds of one.
func (b *Bench) Run(program string, ifindex int, packet []byte, repeat int) (uint32, int64, error) {
	action, _, ns, err := run(b.c.Programs[program], ifindex, packet, repeat)
	return action, ns, err
}

// Close releases the program.
func (b *Bench) Close() { b.c.Close() }
