package state

import (
	"sync"
	"time"

	"ingot/runtime/store"
)

// role is what a queued request is woken for.
type role uint8

const (
	answered role = iota
	leader        // commit the next batch, its own request among it, then hand over
)

type request struct {
	tx     *store.Txn
	wake   chan role
	result store.Result
	err    error
}

// A committer queues requests and elects one of the waiting writers to commit a batch of them. So
// batches grow with the number of writers, and an idle store needs no goroutine.
type committer struct {
	limit  int
	linger time.Duration

	mu     sync.Mutex // guards all below
	queue  []*request
	led    bool          // there is a leader
	last   int           // length of the last batch
	full   chan struct{} // closed when the queue is as long as the last batch; nil: nobody waits for it
	closed error         // why nothing is taken any more
	idle   chan struct{} // closed when the last batch after close is done
}

// enqueue adds r to the queue; the first one becomes leader.
func (c *committer) enqueue(r *request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return c.closed
	}
	c.queue = append(c.queue, r)
	if !c.led {
		c.led = true
		r.wake <- leader
	}
	if c.full != nil && len(c.queue) >= c.last {
		close(c.full)
		c.full = nil
	}
	return nil
}

// collect takes the next batch off the queue, after having waited for the company it had last time.
func (c *committer) collect() []*request {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.linger > 0 && len(c.queue) < c.last && c.closed == nil {
		full := make(chan struct{})
		c.full = full
		c.mu.Unlock()
		timer := time.NewTimer(c.linger)
		select {
		case <-full:
		case <-timer.C:
		}
		timer.Stop()
		c.mu.Lock()
		c.full = nil
	}
	n := min(len(c.queue), c.limit)
	batch := c.queue[:n:n]
	c.queue = append([]*request(nil), c.queue[n:]...)
	c.last = n
	return batch
}

// handOver makes the first of the queue leader.
func (c *committer) handOver() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		c.queue[0].wake <- leader
		return
	}
	c.led = false
	if c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

func (c *committer) answer(batch []*request) {
	for _, r := range batch {
		r.wake <- answered
	}
}

// close refuses requests from now on and waits for those that were taken; false when it was closed before.
func (c *committer) close(err error) bool {
	c.mu.Lock()
	if c.closed != nil {
		c.mu.Unlock()
		return false
	}
	c.closed = err
	var idle chan struct{}
	if c.led {
		idle = make(chan struct{})
		c.idle = idle
	}
	c.mu.Unlock()
	if idle != nil {
		<-idle
	}
	return true
}
