package bpf

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const batchSize = 4096

// A Table is a map in the kernel.
type Table[K comparable, V any] struct {
	m *ebpf.Map
}

func newTable[K comparable, V any](m *ebpf.Map) Table[K, V] { return Table[K, V]{m} }

// Get returns the entry and whether there is one.
func (t Table[K, V]) Get(key K) (value V, ok bool, err error) {
	err = t.m.Lookup(key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, false, nil
	}
	return value, err == nil, t.wrap("read", err)
}

// Put replaces one entry, atomically for the programs.
func (t Table[K, V]) Put(key K, value V) error { return t.wrap("write", t.m.Put(key, value)) }

// PutAll replaces many entries, each atomically. After an error some may be written.
func (t Table[K, V]) PutAll(entries map[K]V) error {
	keys := slices.Collect(maps.Keys(entries))
	for part := range slices.Chunk(keys, batchSize) {
		values := make([]V, len(part))
		for i, k := range part {
			values[i] = entries[k]
		}
		if _, err := t.m.BatchUpdate(part, values, nil); err != nil {
			return t.wrap("write", err)
		}
	}
	return nil
}

// Delete removes one entry and tells whether it was there.
func (t Table[K, V]) Delete(key K) (bool, error) {
	err := t.m.Delete(key)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	return err == nil, t.wrap("delete from", err)
}

// DeleteAll removes the keys and returns how many were there.
func (t Table[K, V]) DeleteAll(keys []K) (int, error) {
	n := 0
	for len(keys) > 0 {
		part := keys[:min(len(keys), batchSize)]
		done, err := t.m.BatchDelete(part, nil)
		n += done
		if err == nil {
			keys = keys[len(part):]
			continue
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return n, t.wrap("delete from", err)
		}
		keys = keys[min(done+1, len(keys)):] // the batch stopped at a key that was gone
	}
	return n, nil
}

// Walk visits all entries in batches. One that changes meanwhile may be seen or not. It ends at the
// first error, its own or of visit: then some entries were not seen, and nothing follows from that.
func (t Table[K, V]) Walk(visit func([]K, []V) error) error {
	var cursor ebpf.MapBatchCursor
	size := min(batchSize, int(t.m.MaxEntries()))
	for {
		keys, values := make([]K, size), make([]V, size)
		n, err := t.m.BatchLookup(&cursor, keys, values, nil)
		if n > 0 {
			if err := visit(keys[:n], values[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil
		case errors.Is(err, unix.ENOSPC): // a bucket larger than the batch
			size *= 2
		default:
			return t.wrap("walk", err)
		}
	}
}

// Select returns the keys of the entries that match.
func (t Table[K, V]) Select(match func(K, V) bool) ([]K, error) {
	var found []K
	err := t.Walk(func(keys []K, values []V) error {
		for i, k := range keys {
			if match(k, values[i]) {
				found = append(found, k)
			}
		}
		return nil
	})
	return found, err
}

func (t Table[K, V]) wrap(verb string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s map %s: %w", verb, t.m, explain(err))
}

// A PerCPU is an array with one value per CPU and index.
type PerCPU[V any] struct {
	m *ebpf.Map
}

// Get returns the values of all CPUs.
func (p PerCPU[V]) Get(index uint32) ([]V, error) {
	var values []V
	if err := p.m.Lookup(index, &values); err != nil {
		return nil, fmt.Errorf("read map %s: %w", p.m, err)
	}
	return values, nil
}

// Clear zeroes the values of all CPUs.
func (p PerCPU[V]) Clear(index uint32) error {
	n, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	if err := p.m.Put(index, make([]V, n)); err != nil {
		return fmt.Errorf("clear map %s: %w", p.m, err)
	}
	return nil
}
