package state

// A history is a ring of the last changes, without their index values, for watches to resume from.
type history struct {
	limit  int
	ring   []change
	next   int    // where the next change goes once the ring is full
	before uint64 // every change after this revision is in the ring
}

func (h *history) add(c *change) {
	bare := change{kind: c.kind, revision: c.revision, old: c.old, new: c.new}
	if len(h.ring) < h.limit {
		h.ring = append(h.ring, bare)
		return
	}
	h.before = h.ring[h.next].revision
	h.ring[h.next] = bare
	h.next = (h.next + 1) % h.limit
}

// covers reports whether all changes from one revision to the present one are there.
func (h *history) covers(from, present uint64) bool { return from >= h.before && from <= present }

// since calls fn with the changes after a revision, oldest first.
func (h *history) since(from uint64, fn func(change)) {
	for i := range h.ring {
		if c := h.ring[(h.next+i)%len(h.ring)]; c.revision > from {
			fn(c)
		}
	}
}
