package state

import (
	"cmp"
	"slices"
	"sort"

	"ingot/runtime/resource"
)

// fanout bounds the entries of a node: 32 keep the copy of a path near 2 KiB for 100,000 resources.
const fanout = 32

// A posting is a resource at a place in a tree: below an index value, or below "" in the primary tree.
type posting struct {
	value string
	r     *resource.Resource
}

// A place orders postings: by index value, then in list order within the kind.
type place struct {
	value, project, name string
}

func placeOf(value string, k resource.Key) place { return place{value, k.Project, k.Name} }

func (p posting) place() place { return placeOf(p.value, p.r.Key) }

func (a place) compare(b place) int {
	if a.value != b.value {
		return cmp.Compare(a.value, b.value)
	}
	if a.project != b.project {
		return cmp.Compare(a.project, b.project)
	}
	return cmp.Compare(a.name, b.name)
}

// after is the least place behind a.
func (a place) after() place { return place{a.value, a.project, a.name + "\x00"} }

// A tree is a persistent B+tree: put and del return a new tree and leave the old one as it was.
type tree struct {
	root *node
	size int
}

// An edit owns the nodes made under it; they may be changed in place until the edit is published.
type edit struct{ _ byte }

// A node is a leaf (postings) or inner (kids); kids[i] holds the places from bounds[i-1] up to, not
// including, bounds[i]. Copies of a node share bounds until they change.
type node struct {
	owner    *edit
	postings []posting
	bounds   []place
	kids     []*node
}

func (n *node) leaf() bool { return n.kids == nil }

func (n *node) len() int { return len(n.postings) + len(n.kids) }

// own returns n itself when e owns it, else a copy that e owns.
func (n *node) own(e *edit) *node {
	if n.owner == e {
		return n
	}
	return &node{owner: e, postings: slices.Clone(n.postings), bounds: slices.Clip(n.bounds), kids: slices.Clone(n.kids)}
}

// find is where at stands, or belongs, in a leaf.
func (n *node) find(at place) (int, bool) {
	i := sort.Search(len(n.postings), func(i int) bool { return n.postings[i].place().compare(at) >= 0 })
	return i, i < len(n.postings) && n.postings[i].place() == at
}

// kid is the index of the kid that covers at.
func (n *node) kid(at place) int {
	return sort.Search(len(n.bounds), func(i int) bool { return n.bounds[i].compare(at) > 0 })
}

func (t tree) get(at place) *resource.Resource {
	n := t.root
	if n == nil {
		return nil
	}
	for !n.leaf() {
		n = n.kids[n.kid(at)]
	}
	if i, ok := n.find(at); ok {
		return n.postings[i].r
	}
	return nil
}

// put adds p or replaces what stands at its place.
func (t tree) put(e *edit, p posting) tree {
	if t.root == nil {
		return tree{root: &node{owner: e, postings: []posting{p}}, size: 1}
	}
	left, right, bound, added := t.root.put(e, p, p.place())
	if right != nil {
		left = &node{owner: e, bounds: []place{bound}, kids: []*node{left, right}}
	}
	if added {
		t.size++
	}
	return tree{root: left, size: t.size}
}

// put returns the changed node and, when it had to be split, its right half with its lower bound.
func (n *node) put(e *edit, p posting, at place) (left, right *node, bound place, added bool) {
	n = n.own(e)
	if n.leaf() {
		i, found := n.find(at)
		if found {
			n.postings[i] = p
			return n, nil, place{}, false
		}
		n.postings = slices.Insert(n.postings, i, p)
		right, bound = n.split(e)
		return n, right, bound, true
	}
	i := n.kid(at)
	kid, half, kidBound, added := n.kids[i].put(e, p, at)
	n.kids[i] = kid
	if half != nil {
		n.kids = slices.Insert(n.kids, i+1, half)
		n.bounds = slices.Insert(slices.Clone(n.bounds), i, kidBound)
		right, bound = n.split(e)
	}
	return n, right, bound, added
}

// split moves the upper half of a node that is too long into a new one.
func (n *node) split(e *edit) (*node, place) {
	if n.len() <= fanout {
		return nil, place{}
	}
	half := n.len() / 2
	if n.leaf() {
		right := &node{owner: e, postings: slices.Clone(n.postings[half:])}
		n.postings = slices.Clone(n.postings[:half])
		return right, right.postings[0].place()
	}
	right := &node{owner: e, bounds: slices.Clone(n.bounds[half:]), kids: slices.Clone(n.kids[half:])}
	bound := n.bounds[half-1]
	n.bounds, n.kids = slices.Clone(n.bounds[:half-1]), slices.Clone(n.kids[:half])
	return right, bound
}

// del removes what stands at a place, if anything does.
func (t tree) del(e *edit, at place) tree {
	if t.get(at) == nil {
		return t
	}
	root := t.root.del(e, at)
	for root != nil && len(root.kids) == 1 {
		root = root.kids[0]
	}
	return tree{root: root, size: t.size - 1}
}

// del returns the changed node, nil when nothing is left of it. The place is known to be there.
func (n *node) del(e *edit, at place) *node {
	n = n.own(e)
	if n.leaf() {
		i, _ := n.find(at)
		n.postings = slices.Delete(n.postings, i, i+1)
		if len(n.postings) == 0 {
			return nil
		}
		return n
	}
	i := n.kid(at)
	kid := n.kids[i].del(e, at)
	if kid == nil {
		if len(n.kids) == 1 {
			return nil
		}
		n.kids = slices.Delete(n.kids, i, i+1)
		b := max(i-1, 0)
		n.bounds = slices.Delete(slices.Clone(n.bounds), b, b+1)
		return n
	}
	n.kids[i] = kid
	n.merge(e, max(i-1, 0))
	return n
}

// merge joins kids i and i+1 when both together fill at most half a node.
func (n *node) merge(e *edit, i int) {
	if i+1 >= len(n.kids) || n.kids[i].len()+n.kids[i+1].len() > fanout/2 {
		return
	}
	left, right := n.kids[i].own(e), n.kids[i+1]
	if left.leaf() {
		left.postings = append(left.postings, right.postings...)
	} else {
		left.bounds = slices.Concat(left.bounds, n.bounds[i:i+1], right.bounds)
		left.kids = append(left.kids, right.kids...)
	}
	n.kids[i] = left
	n.kids = slices.Delete(n.kids, i+1, i+2)
	n.bounds = slices.Delete(slices.Clone(n.bounds), i, i+1)
}

// scan calls fn with runs of postings in order, from a place on, until fn returns false.
func (t tree) scan(from place, fn func([]posting) bool) {
	if t.root != nil {
		t.root.scan(&from, fn)
	}
}

// scan begins at from; nil: at the first posting.
func (n *node) scan(from *place, fn func([]posting) bool) bool {
	i := 0
	if n.leaf() {
		if from != nil {
			i, _ = n.find(*from)
		}
		return i == len(n.postings) || fn(n.postings[i:])
	}
	if from != nil {
		i = n.kid(*from)
	}
	for ; i < len(n.kids); i++ {
		if !n.kids[i].scan(from, fn) {
			return false
		}
		from = nil // the kids behind the first lie behind it
	}
	return true
}

// all are the resources of the tree in order.
func (t tree) all() []*resource.Resource {
	all := make([]*resource.Resource, 0, t.size)
	t.scan(place{}, func(run []posting) bool {
		for i := range run {
			all = append(all, run[i].r)
		}
		return true
	})
	return all
}
