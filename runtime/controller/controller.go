// Package controller owns how controllers run: what they declare to read and write, when they run,
// and what happens when they fail. A controller is data and a function; it starts no goroutine, and
// it reaches the store only through its ReadWriter, which refuses what it has not declared.
package controller

import (
	"context"
	"fmt"
	"time"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// An Input is what a controller reads, and what wakes it.
type Input struct {
	Kind resource.Kind
	// Where selects some of the kind: its Project, Name, Index with Value, and Labels.
	Where store.Query
	// Strong inputs are used up to their end: the controller may put its finalizer on them, and
	// what has it is not gone before the controller has let go. Weak ones may go at any time.
	Strong bool
	// Map gives the primary keys that a resource concerns; Select gives queries for them. They
	// depend on nothing but r. Both are called with the state before a change and with the one
	// after it. Only in Each, which needs one of them for each kind but the primary.
	Map    func(r *resource.Resource) []resource.Key
	Select func(r *resource.Resource) []store.Query
}

// A Mode says who else may write a kind.
type Mode uint8

const (
	// Exclusive outputs are written by no other controller of the engine.
	Exclusive Mode = iota
	// Shared outputs are written by several controllers; each resource still has one owner.
	Shared
)

// An Output is a kind that a controller writes.
type Output struct {
	Kind resource.Kind
	Mode Mode
}

// A Sync controller maps all of its inputs to all of its outputs: for things like kernel tables
// that are compared as a whole. It runs once at the start and after changes of any input.
type Sync struct {
	Name    string
	Inputs  []Input
	Outputs []Output
	// Reconcile is called by one goroutine at a time.
	Reconcile func(ctx context.Context, rw *ReadWriter) error
}

// An Each controller reconciles the resources of one kind, one by one.
type Each struct {
	Name string
	// Primary is an input by itself; name it in Inputs, without Map, to narrow or strengthen it.
	Primary resource.Kind
	Inputs  []Input
	Outputs []Output
	// Workers is how many keys are reconciled at once, never the same one twice; 0: 1.
	Workers int
	// Reconcile brings the world in line with the primary at key, which may be tearing down or gone.
	Reconcile func(ctx context.Context, rw *ReadWriter, key resource.Key) (Result, error)
}

// A Result is that of a reconcile without error.
type Result struct {
	// RequeueAfter, when positive, is when to run again although nothing has changed.
	RequeueAfter time.Duration
}

// A Controller is a Sync or an Each.
type Controller interface {
	spec() (spec, error)
}

// A spec is what the engine makes of both shapes.
type spec struct {
	name      string
	primary   resource.Kind // "": a Sync
	inputs    []Input
	outputs   []Output
	workers   int
	reconcile func(ctx context.Context, rw *ReadWriter, key resource.Key) (Result, error)
}

func (c Sync) spec() (spec, error) {
	s := spec{name: c.Name, inputs: c.Inputs, outputs: c.Outputs, workers: 1}
	if c.Reconcile == nil {
		return spec{}, s.invalid("has no Reconcile")
	}
	s.reconcile = func(ctx context.Context, rw *ReadWriter, _ resource.Key) (Result, error) {
		return Result{}, c.Reconcile(ctx, rw)
	}
	for _, in := range c.Inputs {
		if in.Map != nil || in.Select != nil {
			return spec{}, s.invalid("maps input %s, which is for Each", in.Kind)
		}
	}
	return s, s.check()
}

func (c Each) spec() (spec, error) {
	s := spec{
		name: c.Name, primary: c.Primary, inputs: c.Inputs, outputs: c.Outputs,
		workers: max(c.Workers, 1), reconcile: c.Reconcile,
	}
	if c.Reconcile == nil || c.Primary == "" {
		return spec{}, s.invalid("has no Primary or no Reconcile")
	}
	declared := false
	for _, in := range c.Inputs {
		mapped := in.Map != nil || in.Select != nil
		if !mapped && in.Kind != c.Primary {
			return spec{}, s.invalid("does not map input %s to its primary", in.Kind)
		}
		declared = declared || !mapped
	}
	if !declared {
		s.inputs = append([]Input{{Kind: c.Primary}}, c.Inputs...)
	}
	return s, s.check()
}

func (s *spec) check() error {
	if s.name == "" {
		return s.invalid("has no name")
	}
	seen := map[resource.Kind]bool{}
	for _, out := range s.outputs {
		if seen[out.Kind] {
			return s.invalid("declares output %s twice", out.Kind)
		}
		seen[out.Kind] = true
	}
	return nil
}

func (s *spec) invalid(format string, args ...any) error {
	return fmt.Errorf("controller %q %s: %w", s.name, fmt.Sprintf(format, args...), fault.Invalid)
}

func (s *spec) reads(kind resource.Kind) bool {
	for i := range s.inputs {
		if s.inputs[i].Kind == kind {
			return true
		}
	}
	return false
}

func (s *spec) strong(kind resource.Kind) bool {
	for i := range s.inputs {
		if s.inputs[i].Kind == kind && s.inputs[i].Strong {
			return true
		}
	}
	return false
}

func (s *spec) writes(kind resource.Kind) bool {
	for _, out := range s.outputs {
		if out.Kind == kind {
			return true
		}
	}
	return false
}
