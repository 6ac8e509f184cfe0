package state

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"ingot/runtime/resource"
)

// TestTreesKeepTheirPast runs random edits against a map; every version of the tree must still say
// what the map said at its time.
func TestTreesKeepTheirPast(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type version struct {
			tree tree
			have map[place]*resource.Resource
		}
		now := version{have: map[place]*resource.Resource{}}
		var past []version
		keys := rapid.IntRange(1, 2000).Draw(rt, "keys")
		for range rapid.IntRange(1, 20).Draw(rt, "edits") {
			past = append(past, version{now.tree, maps.Clone(now.have)})
			e := &edit{}
			from, n := rapid.IntRange(0, keys).Draw(rt, "from"), rapid.IntRange(1, 400).Draw(rt, "n")
			put := rapid.IntRange(0, 2).Draw(rt, "put") > 0
			for i := range n {
				name := fmt.Sprintf("%04d", (from+i*7)%keys)
				r := &resource.Resource{Meta: resource.Meta{Key: resource.Key{Name: name}}}
				at := placeOf("", r.Key)
				if put {
					now.tree, now.have[at] = now.tree.put(e, posting{"", r}), r
				} else {
					now.tree = now.tree.del(e, at)
					delete(now.have, at)
				}
			}
		}
		for i, v := range append(past, now) {
			if v.tree.size != len(v.have) {
				rt.Fatalf("version %d has size %d, want %d", i, v.tree.size, len(v.have))
			}
			want := slices.SortedFunc(maps.Keys(v.have), place.compare)
			for j, r := range v.tree.all() {
				if at := placeOf("", r.Key); at != want[j] || v.have[at] != r || v.tree.get(at) != r {
					rt.Fatalf("version %d has %s at %d, want %v", i, r.Name, j, want[j])
				}
			}
		}
	})
}
