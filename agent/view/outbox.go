package view

import (
	"context"
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api/v1alpha1"
)

// maxEvents bounds the events that wait for a control plane that is away; the oldest go first.
const maxEvents = 1024

// maxBatch bounds the machines of one report, and so its size.
const maxBatch = 256

// eventsPerReport is what the control plane takes from one report; it drops what is beyond.
const eventsPerReport = 64

// An outbox holds what the host reports until it was acknowledged. Of a machine and of the pool
// only the newest report counts.
type outbox struct {
	wake chan struct{} // one pending token when there is something to send

	mu       sync.Mutex // guards what follows
	machines map[string]*v1alpha1.MachineReport
	dirty    map[string]bool // machines to send
	inFlight map[string]uint64
	pool     *v1alpha1.MachinePoolStatus
	sendPool bool
	events   []*v1alpha1.EventSpec
	sentEv   []sentEvents
	sequence uint64
}

// sentEvents are how many of the oldest events went out with a report.
type sentEvents struct {
	sequence uint64
	count    int
}

func newOutbox() outbox {
	return outbox{wake: make(chan struct{}, 1), machines: map[string]*v1alpha1.MachineReport{},
		dirty: map[string]bool{}, inFlight: map[string]uint64{}}
}

// ReportMachine sends the newest truth about a machine; an unchanged one is not sent again.
func (c *Client) ReportMachine(r *v1alpha1.MachineReport) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if have := o.machines[r.Uid]; have != nil && proto.Equal(have, r) {
		return
	}
	o.machines[r.Uid] = r
	o.dirty[r.Uid] = true
	delete(o.inFlight, r.Uid)
	o.signal()
}

// ReportPool sends the state of the host. It is the host's heartbeat, so it is always sent.
func (c *Client) ReportPool(s *v1alpha1.MachinePoolStatus) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pool, o.sendPool = s, true
	o.signal()
}

// ReportEvents queues events.
func (c *Client) ReportEvents(events ...*v1alpha1.EventSpec) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, events...)
	if over := len(o.events) - maxEvents; over > 0 {
		o.dropEvents(over)
	}
	o.signal()
}

// forget drops the report of a machine that the control plane does not take from this host.
func (o *outbox) forget(uid string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.machines, uid)
	delete(o.dirty, uid)
	delete(o.inFlight, uid)
}

// dropEvents forgets the n oldest.
func (o *outbox) dropEvents(n int) {
	o.events = slices.Delete(o.events, 0, n)
	for i := range o.sentEv {
		d := min(n, o.sentEv[i].count)
		o.sentEv[i].count -= d
		n -= d
	}
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// reconnect makes everything be sent again: a new stream's server may be another one.
func (o *outbox) reconnect() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for uid := range o.machines {
		o.dirty[uid] = true
	}
	clear(o.inFlight)
	o.sentEv = nil
	o.sendPool = o.pool != nil
	o.signal()
}

// next waits for something to send; false when ctx ended.
func (o *outbox) next(ctx context.Context) (*v1alpha1.HostReport, bool) {
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case <-o.wake:
		}
		if r := o.take(); r != nil {
			return r, true
		}
	}
}

func (o *outbox) take() *v1alpha1.HostReport {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := &v1alpha1.HostReport{Sequence: o.sequence + 1}
	if o.sendPool {
		r.Pool, o.sendPool = o.pool, false
	}
	for _, uid := range slices.Sorted(maps.Keys(o.dirty)) {
		if len(r.Machines) == maxBatch {
			o.signal()
			break
		}
		r.Machines = append(r.Machines, o.machines[uid])
		delete(o.dirty, uid)
		o.inFlight[uid] = r.Sequence
	}
	sent := 0
	for _, s := range o.sentEv {
		sent += s.count
	}
	if fresh := o.events[sent:]; len(fresh) > 0 {
		if len(fresh) > eventsPerReport {
			fresh = fresh[:eventsPerReport]
			o.signal()
		}
		r.Events = slices.Clone(fresh)
		o.sentEv = append(o.sentEv, sentEvents{r.Sequence, len(fresh)})
	}
	if r.Pool == nil && len(r.Machines) == 0 && len(r.Events) == 0 {
		return nil
	}
	o.sequence = r.Sequence
	return r
}

// acknowledge drops what was stored. Machine reports stay, for a server that has lost them.
func (o *outbox) acknowledge(sequence uint64) {
	if sequence == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for uid, sent := range o.inFlight {
		if sent > sequence {
			continue
		}
		delete(o.inFlight, uid)
		if o.machines[uid].GetGone() { // nothing more will be said of it
			delete(o.machines, uid)
		}
	}
	for len(o.sentEv) > 0 && o.sentEv[0].sequence <= sequence {
		o.events = slices.Delete(o.events, 0, o.sentEv[0].count)
		o.sentEv = o.sentEv[1:]
	}
}

func (o *outbox) pending() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.dirty) + len(o.inFlight) + len(o.events)
}
