package controller

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot/runtime/fault"
	"ingot/runtime/group"
	"ingot/runtime/resource"
)

// A Status is what a controller has done since the start, for metrics.
type Status struct {
	Name string
	// Waiting keys are due, in back-off or to be polled; Running ones are being reconciled.
	Waiting, Running int
	// Runs counts reconciles; Errors, Conflicts and Panics are those of them that ended so.
	Runs, Errors, Conflicts, Panics uint64
	// LastError is the newest failure, "key: error"; "" when there was none.
	LastError   string
	LastErrorAt time.Time
}

// Status is that of every controller, in order of name.
func (e *Engine) Status() []Status {
	e.mu.Lock()
	runners := e.runners
	e.mu.Unlock()
	all := make([]Status, len(runners))
	for i, r := range runners {
		r.mu.Lock()
		all[i] = r.status
		r.mu.Unlock()
		all[i].Waiting, _, all[i].Running = r.queue.depth()
	}
	return all
}

// count notes the end of a reconcile.
func (r *runner) count(key resource.Key, err error) {
	r.mu.Lock()
	r.status.Runs++
	if errors.Is(err, fault.Conflict) {
		r.status.Conflicts++
		err = nil
	}
	r.mu.Unlock()
	if err != nil {
		r.fail(key, err)
	}
}

// fail notes an error at key.
func (r *runner) fail(key resource.Key, err error) {
	text := err.Error()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Errors++
	var p *group.Panic
	if errors.As(err, &p) {
		r.status.Panics++
		text = fmt.Sprintf("panic: %v", p.Value)
	}
	r.status.LastError, r.status.LastErrorAt = keyText(key)+": "+text, time.Now()
}

// Graph is who reads and writes what, one fact a line, sorted.
func (e *Engine) Graph() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var lines []string
	for _, r := range e.runners {
		for _, in := range r.spec.inputs {
			lines = append(lines, r.spec.name+" <- "+r.spec.describe(&in))
		}
		for _, out := range r.spec.outputs {
			mode := "exclusive"
			if out.Mode == Shared {
				mode = "shared"
			}
			lines = append(lines, fmt.Sprintf("%s -> %s (%s)", r.spec.name, out.Kind, mode))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// describe is an input as Kind{selector} (role, strength).
func (s *spec) describe(in *Input) string {
	var where []string
	for _, field := range [][2]string{{"project", in.Where.Project}, {"name", in.Where.Name}, {in.Where.Index, in.Where.Value}} {
		if field[1] != "" {
			where = append(where, field[0]+"="+field[1])
		}
	}
	for k, v := range in.Where.Labels {
		where = append(where, "label "+k+"="+v)
	}
	slices.Sort(where)
	text := string(in.Kind)
	if len(where) > 0 {
		text += "{" + strings.Join(where, ", ") + "}"
	}
	role := "weak"
	if in.Strong {
		role = "strong"
	}
	if in.Kind == s.primary && in.Map == nil && in.Select == nil {
		role = "primary, " + role
	}
	return text + " (" + role + ")"
}
