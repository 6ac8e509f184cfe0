package network

import (
	"context"

	"ingot/routing"
)

// Alone is the speaker of the only host of a cloud: there is nobody to tell, and nothing to learn.
func Alone() Speaker {
	synced := make(chan struct{})
	close(synced)
	return alone{synced}
}

type alone struct{ synced chan struct{} }

func (alone) Announce(context.Context, []routing.Announcement) error { return nil }
func (alone) Import([]uint32)                                        {}
func (a alone) Synced() <-chan struct{}                              { return a.synced }
