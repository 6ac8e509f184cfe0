package resource

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"ingot/runtime/fault"
)

// A Definition is what a store must know of a kind.
type Definition struct {
	Kind Kind
	// New returns an empty spec.
	New func() proto.Message
	// Global kinds live outside projects.
	Global bool
	// Sealed kinds are encrypted at rest.
	Sealed bool
	// Indexes map an index name to the values a resource has in it. They depend on nothing but r.
	Indexes map[string]func(r *Resource) []string
}

// A Schema is a fixed set of definitions.
type Schema struct {
	kinds map[Kind]Definition
}

// NewSchema returns a schema of defs; two of one kind are a programming error and panic.
func NewSchema(defs ...Definition) *Schema {
	s := &Schema{kinds: make(map[Kind]Definition, len(defs))}
	for _, d := range defs {
		if _, dup := s.kinds[d.Kind]; dup {
			panic(fmt.Sprintf("resource kind %s defined twice", d.Kind))
		}
		s.kinds[d.Kind] = d
	}
	return s
}

// Get returns the definition of kind.
func (s *Schema) Get(kind Kind) (Definition, error) {
	d, ok := s.kinds[kind]
	if !ok {
		return Definition{}, fmt.Errorf("kind %q: %w", kind, fault.NotFound)
	}
	return d, nil
}

// Kinds are all kinds in order.
func (s *Schema) Kinds() []Kind {
	kinds := make([]Kind, 0, len(s.kinds))
	for k := range s.kinds {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	return kinds
}
