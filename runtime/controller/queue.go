package controller

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"ingot/runtime/resource"
)

// An item is a key that has to be reconciled, or is being so.
type item struct {
	key       resource.Key
	due       time.Time
	sequence  uint64 // orders what is due at the same time
	place     int    // in the heap; -1 while running
	again     bool   // wanted once more while running
	poll      bool   // waits because of RequeueAfter only
	failures  int    // in a row
	conflicts int    // in a row
}

// A queue holds each key once: the next one due is handed out, and never while it is running.
type queue struct {
	wake chan struct{} // one token per worker that should look

	mu       sync.Mutex // guards all below
	items    map[resource.Key]*item
	heap     itemHeap // the items that are not running
	sequence uint64
	polls    int // items that only poll
	running  int
}

func newQueue(workers int) *queue {
	return &queue{wake: make(chan struct{}, workers), items: map[resource.Key]*item{}}
}

// add wants key reconciled now.
func (q *queue) add(key resource.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	it := q.items[key]
	switch {
	case it == nil:
		it = &item{key: key}
		q.items[key] = it
		q.push(it, now)
	case it.place < 0:
		it.again = true
	case it.due.After(now):
		q.polled(it, false)
		it.due = now
		heap.Fix(&q.heap, it.place)
		q.signal()
	}
}

func (q *queue) push(it *item, due time.Time) {
	q.sequence++
	it.due, it.sequence, it.again = due, q.sequence, false
	heap.Push(&q.heap, it)
	q.signal()
}

func (q *queue) polled(it *item, poll bool) {
	if it.poll != poll {
		it.poll = poll
		if poll {
			q.polls++
		} else {
			q.polls--
		}
	}
}

// signal makes one worker look at the queue.
func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next waits for a key to be due and marks it running; the caller must call done.
func (q *queue) next(ctx context.Context) (*item, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		it, wait := q.take()
		if it != nil {
			return it, nil
		}
		var due <-chan time.Time
		if wait > 0 {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			due = timer.C
		}
		select {
		case <-q.wake:
		case <-due:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns the item that is due, or how long to wait for one; 0 when there is none.
func (q *queue) take() (*item, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.heap) == 0 {
		return nil, 0
	}
	if wait := time.Until(q.heap[0].due); wait > 0 {
		return nil, wait
	}
	it := heap.Pop(&q.heap).(*item)
	q.polled(it, false)
	q.running++
	if len(q.heap) > 0 {
		q.signal() // there may be work, or a new time to wait for, for another worker
	}
	return it, 0
}

// done ends the run of it; the key runs again after a delay when that is not negative, and at once
// when it was added meanwhile. A polling wait is one that nobody waits for.
func (q *queue) done(it *item, delay time.Duration, poll bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	switch {
	case it.again:
		q.push(it, time.Now())
	case delay >= 0:
		q.push(it, time.Now().Add(delay))
		q.polled(it, poll)
	default:
		delete(q.items, it.key)
	}
}

// depth counts the keys that are waiting, and those of them that only poll, and the running ones.
func (q *queue) depth() (waiting, polls, running int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.heap), q.polls, q.running
}

// backoff doubles from first to most with the number of failures, less up to a fifth by chance.
func backoff(failures int, first, most time.Duration) time.Duration {
	d := most
	if shift := failures - 1; shift < 30 && first<<shift < most {
		d = first << shift
	}
	return d - time.Duration(rand.Int64N(int64(d)/5+1))
}

type itemHeap []*item

func (h itemHeap) Len() int { return len(h) }

func (h itemHeap) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].sequence < h[j].sequence
}

func (h itemHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push implements heap.Interface.
func (h *itemHeap) Push(x any) {
	it := x.(*item)
	it.place = len(*h)
	*h = append(*h, it)
}

// Pop implements heap.Interface.
func (h *itemHeap) Pop() any {
	last := len(*h) - 1
	it := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	it.place = -1
	return it
}
