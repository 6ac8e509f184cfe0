package dataplane

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"ingot/dataplane/internal/bpf"
)

// The table is walked in batches with a pause after each, so that no batch keeps a CPU long.
const (
	walkEvery  = 5 * time.Second
	batchPause = 2 * time.Millisecond
)

// clock is the time of the flow table: units of 2^30 ns of the coarse monotonic clock.
func clock() uint32 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &t); err != nil {
		return 0
	}
	return uint32(t.Nano() >> 30)
}

func expired(f bpf.Flow, now uint32) bool { return int32(now-f.Last) > int32(f.Timeout) }

// expire removes idle flows until ctx ends. The programs ignore an expired flow anyway; this
// makes room.
func (m *Manager) expire(ctx context.Context) {
	tick := time.NewTicker(walkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := m.kernel.Flows.Walk(func(keys []bpf.FlowKey, values []bpf.Flow) error {
			if err := m.expireBatch(keys, values); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(batchPause):
				return nil
			}
		})
		if err != nil && ctx.Err() == nil {
			m.cfg.Log.Warn("expire flows", "error", err)
		}
	}
}

func (m *Manager) expireBatch(keys []bpf.FlowKey, values []bpf.Flow) error {
	now := clock()
	idle := map[uint32][]bpf.FlowKey{}
	for i, k := range keys {
		if expired(values[i], now) {
			idle[k.Slot] = append(idle[k.Slot], k)
		}
	}
	if len(idle) == 0 {
		return nil
	}
	m.mu.Lock() // clearSlot writes the same counts
	defer m.mu.Unlock()
	for slot, keys := range idle {
		n, err := m.kernel.Flows.DeleteAll(keys)
		if err != nil {
			return err
		}
		removed, _, err := m.kernel.FlowsRemoved.Get(slot)
		if err != nil {
			return err
		}
		if err := m.kernel.FlowsRemoved.Put(slot, removed+uint64(n)); err != nil {
			return err
		}
	}
	return nil
}
