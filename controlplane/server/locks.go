package server

import (
	"hash/maphash"
	"slices"
	"sync"

	"ingot/controlplane/admission"
)

// locks order what a compare of the store cannot: the creation of an object that refers to another,
// against the deletion of that other; two prefixes that must not overlap. Names share a fixed
// number of stripes.
type locks struct {
	stripes [64]sync.RWMutex
}

var seed = maphash.MakeSeed()

// lock takes all of claims, in an order that cannot deadlock, and returns what releases them.
func (l *locks) lock(claims []admission.Claim) (unlock func()) {
	exclusive := map[int]bool{}
	for _, c := range claims {
		i := int(maphash.String(seed, c.Name) % uint64(len(l.stripes)))
		exclusive[i] = exclusive[i] || c.Exclusive
	}
	order := make([]int, 0, len(exclusive))
	for i := range exclusive {
		order = append(order, i)
	}
	slices.Sort(order)
	for _, i := range order {
		if exclusive[i] {
			l.stripes[i].Lock()
		} else {
			l.stripes[i].RLock()
		}
	}
	return func() {
		for _, i := range order {
			if exclusive[i] {
				l.stripes[i].Unlock()
			} else {
				l.stripes[i].RUnlock()
			}
		}
	}
}
