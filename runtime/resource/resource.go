// Package resource owns the shape of a resource: the metadata every kind shares, and the schema
// that knows the protobuf type and indexes of each kind. It does no I/O.
//
// A resource is immutable once it was handed to a store or taken from one; Clone it to change it.
package resource

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
)

// A Kind names a type of resource, such as "Machine"; kinds are unique across API groups.
type Kind string

// A Key finds a resource. Project is empty for kinds that live outside projects.
type Key struct {
	Kind    Kind
	Project string
	Name    string
}

// String is Kind/project/name, or Kind/name outside projects.
func (k Key) String() string {
	if k.Project == "" {
		return fmt.Sprintf("%s/%s", k.Kind, k.Name)
	}
	return fmt.Sprintf("%s/%s/%s", k.Kind, k.Project, k.Name)
}

// Compare orders keys by kind, project, name: the order of lists.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Project, o.Project), cmp.Compare(k.Name, o.Name))
}

// Phase is where a resource is in its life.
type Phase uint8

const (
	Running Phase = iota
	// TearingDown is entered by a delete while finalizers remain; the spec is frozen from then on.
	TearingDown
)

// Meta is what every resource has. Revision, Generation, UID and Created are set by the store.
type Meta struct {
	Key
	// UID is unique for ever: a re-created object is never taken for its predecessor.
	UID string
	// Revision is the store's global revision at the last change of this resource.
	Revision uint64
	// Generation counts changes of the spec, from 1.
	Generation uint64
	// Owner is the controller that may write this resource; "" means users.
	Owner string
	Phase Phase
	// Finalizers keep a TearingDown resource until each was removed by whoever added it.
	Finalizers  []string
	Labels      map[string]string
	Annotations map[string]string
	Created     time.Time
}

// A Resource is metadata and a typed spec.
type Resource struct {
	Meta
	Spec proto.Message
}

// Clone copies r deeply, for changing the copy.
func (r *Resource) Clone() *Resource {
	c := *r
	c.Finalizers = slices.Clone(r.Finalizers)
	c.Labels = maps.Clone(r.Labels)
	c.Annotations = maps.Clone(r.Annotations)
	if r.Spec != nil {
		c.Spec = proto.Clone(r.Spec)
	}
	return &c
}

// HasFinalizer reports whether name holds r back.
func (r *Resource) HasFinalizer(name string) bool { return slices.Contains(r.Finalizers, name) }

// Spec is r's spec as T; it panics when the kind has another type, which is a programming error.
func Spec[T proto.Message](r *Resource) T { return r.Spec.(T) }
