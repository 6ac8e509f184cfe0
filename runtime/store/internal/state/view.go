package state

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// catalog is the schema with kinds and indexes numbered.
type catalog struct {
	numbers map[resource.Kind]int
	kinds   []kind
}

type kind struct {
	resource.Definition
	spec    reflect.Type
	indexes []string // names, sorted
}

func newCatalog(schema *resource.Schema) *catalog {
	c := &catalog{numbers: map[resource.Kind]int{}}
	for i, name := range schema.Kinds() {
		def, _ := schema.Get(name)
		c.numbers[name] = i
		c.kinds = append(c.kinds, kind{
			Definition: def, spec: reflect.TypeOf(def.New()), indexes: slices.Sorted(maps.Keys(def.Indexes)),
		})
	}
	return c
}

func (c *catalog) number(k resource.Kind) (int, error) {
	n, ok := c.numbers[k]
	if !ok {
		return 0, fmt.Errorf("kind %q: %w", k, fault.Invalid)
	}
	return n, nil
}

// values are those of r in each index of its kind; nil for no resource.
func (c *catalog) values(number int, r *resource.Resource) [][]string {
	k := &c.kinds[number]
	if r == nil || len(k.indexes) == 0 {
		return nil
	}
	values := make([][]string, len(k.indexes))
	for i, name := range k.indexes {
		values[i] = k.Indexes[name](r)
	}
	return values
}

// A query is a store.Query checked against the catalog.
type query struct {
	store.Query
	kind  int
	index int // -1: none
}

func (c *catalog) query(q store.Query) (query, error) {
	number, err := c.number(q.Kind)
	if err != nil {
		return query{}, err
	}
	index := -1
	if q.Index != "" {
		if index = slices.Index(c.kinds[number].indexes, q.Index); index < 0 {
			return query{}, fmt.Errorf("index %q of kind %s: %w", q.Index, q.Kind, fault.Invalid)
		}
	}
	return query{Query: q, kind: number, index: index}, nil
}

// matches reports whether r, with its index values, is selected.
func (q *query) matches(r *resource.Resource, values [][]string) bool {
	return r != nil && q.Kind == r.Kind && q.selects(r) && (q.Project == "" || q.Project == r.Project) &&
		(q.index < 0 || slices.Contains(values[q.index], q.Value))
}

// selects checks what no tree orders by.
func (q *query) selects(r *resource.Resource) bool {
	if q.Name != "" && q.Name != r.Name {
		return false
	}
	for k, v := range q.Labels {
		if have, ok := r.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// A view is the whole state at one revision. It never changes.
type view struct {
	revision uint64
	tables   []*table // by kind number
}

// A table holds the resources of one kind.
type table struct {
	primary tree
	indexes []tree
}

func emptyView(c *catalog, revision uint64) *view {
	v := &view{revision: revision, tables: make([]*table, len(c.kinds))}
	for i := range v.tables {
		v.tables[i] = &table{indexes: make([]tree, len(c.kinds[i].indexes))}
	}
	return v
}

func (v *view) get(number int, key resource.Key) *resource.Resource {
	return v.tables[number].primary.get(placeOf("", key))
}

// with returns the view after changes.
func (v *view) with(revision uint64, changes []change) *view {
	e := &edit{}
	next := &view{revision: revision, tables: slices.Clone(v.tables)}
	for i := range changes {
		c := &changes[i]
		t := next.tables[c.kind]
		if t == v.tables[c.kind] {
			t = &table{primary: t.primary, indexes: slices.Clone(t.indexes)}
			next.tables[c.kind] = t
		}
		t.apply(e, c)
	}
	return next
}

func (t *table) apply(e *edit, c *change) {
	for i := range t.indexes {
		if c.old != nil {
			for _, value := range c.oldValues[i] {
				if c.new == nil || !slices.Contains(c.newValues[i], value) {
					t.indexes[i] = t.indexes[i].del(e, placeOf(value, c.old.Key))
				}
			}
		}
		if c.new != nil {
			for _, value := range c.newValues[i] {
				t.indexes[i] = t.indexes[i].put(e, posting{value, c.new})
			}
		}
	}
	if c.new == nil {
		t.primary = t.primary.del(e, placeOf("", c.old.Key))
	} else {
		t.primary = t.primary.put(e, posting{"", c.new})
	}
}

// list returns what q selects, in key order.
func (v *view) list(q *query) store.Page {
	page := store.Page{Revision: v.revision}
	t := v.tables[q.kind]
	if q.Name != "" && q.Project != "" && q.index < 0 {
		r := t.primary.get(place{"", q.Project, q.Name})
		if r != nil && q.selects(r) && (q.After == nil || q.After.Compare(r.Key) < 0) {
			page.Items = []*resource.Resource{r}
		}
		return page
	}
	from, in := place{q.Value, q.Project, ""}, t.primary
	if q.index < 0 {
		from.value = ""
	} else {
		in = t.indexes[q.index]
	}
	if after := q.After; after != nil {
		if p := placeOf(from.value, *after).after(); p.compare(from) > 0 {
			from = p
		}
	}
	if whole := q.index < 0 && q.Project == "" && q.Name == "" && len(q.Labels) == 0; whole && q.Limit == 0 && q.After == nil {
		page.Items = in.all()
		return page
	}
	in.scan(from, func(run []posting) bool { return add(&page, q, run, from.value) })
	return page
}

// add appends what q selects of run; it returns false when the page is complete.
func add(page *store.Page, q *query, run []posting, value string) bool {
	for i := range run {
		r := run[i].r
		if run[i].value != value || (q.Project != "" && r.Project != q.Project) {
			return false
		}
		if !q.selects(r) {
			continue
		}
		if q.Limit > 0 && len(page.Items) == q.Limit {
			last := page.Items[q.Limit-1].Key
			page.Next = &last
			return false
		}
		page.Items = append(page.Items, r)
	}
	return true
}
