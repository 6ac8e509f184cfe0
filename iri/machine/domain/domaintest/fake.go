// Package domaintest owns a hypervisor made of maps, for tests of the machine runtime. It follows
// libvirt where the runtime depends on it: definitions outlive runs, the reason of the last end is
// kept, and a guest that is asked to switch off ends like one that does so by itself.
package domaintest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"ingot/iri/machine/domain"
	"ingot/runtime/fault"
)

// Fake implements machine.Hypervisor. The zero value is empty and reachable.
type Fake struct {
	// Gate is called before and after every call with the call's text. Its error is the call's;
	// after the effect, the effect stays. Nil lets everything pass.
	Gate func(ctx context.Context, call string, done bool) error
	// DeafGuests do not switch off when asked to.
	DeafGuests bool

	mu          sync.Mutex // guards what follows
	domains     map[string]*instance
	watchers    []func(domain.Event)
	unavailable bool
	startError  error
}

type instance struct {
	spec   domain.Spec
	state  domain.State
	reason domain.Reason
	starts int
}

// String is one line a domain, sorted.
func (f *Fake) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for id, d := range f.domains {
		lines = append(lines, fmt.Sprintf("%s %s %s disks=%d nics=%d uid=%s\n",
			id, d.state, d.reason, len(d.spec.Disks), len(d.spec.NICs), d.spec.UID))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// SetUnavailable cuts or restores the connection; restored, it tells the watchers.
func (f *Fake) SetUnavailable(away bool) {
	f.mu.Lock()
	f.unavailable = away
	f.mu.Unlock()
	if !away {
		f.emit(domain.Event{})
	}
}

// SetStartError makes starts fail; nil heals.
func (f *Fake) SetStartError(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.startError = err
}

// End ends a running domain for a reason of the world's, and reports whether it ran.
func (f *Fake) End(id string, reason domain.Reason) bool {
	f.mu.Lock()
	d := f.domains[id]
	ran := d != nil && d.state != domain.Off
	if ran {
		d.state, d.reason = domain.Off, reason
	}
	f.mu.Unlock()
	f.emit(domain.Event{ID: id})
	return ran
}

// Pause pauses a running domain.
func (f *Fake) Pause(id string, reason domain.Reason) {
	f.mu.Lock()
	if d := f.domains[id]; d != nil && d.state == domain.Running {
		d.state, d.reason = domain.Paused, reason
	}
	f.mu.Unlock()
	f.emit(domain.Event{ID: id})
}

// Starts is how often the domain was started since it was defined first.
func (f *Fake) Starts(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.domains[id]; d != nil {
		return d.starts
	}
	return 0
}

// Spec is the domain's definition.
func (f *Fake) Spec(id string) (domain.Spec, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.domains[id]; d != nil {
		return d.spec, true
	}
	return domain.Spec{}, false
}

func (f *Fake) emit(e domain.Event) {
	f.mu.Lock()
	watchers := slices.Clone(f.watchers)
	f.mu.Unlock()
	for _, fn := range watchers {
		fn(e)
	}
}

// call runs an effect between the gates. The effect runs locked.
func (f *Fake) call(ctx context.Context, text string, effect func() error) error {
	gate := f.Gate
	if gate == nil {
		gate = func(context.Context, string, bool) error { return nil }
	}
	if err := gate(ctx, text, false); err != nil {
		return err
	}
	if err := f.locked(effect); err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	return gate(ctx, text, true)
}

func (f *Fake) locked(effect func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unavailable {
		return fault.Unavailable
	}
	if f.domains == nil {
		f.domains = map[string]*instance{}
	}
	return effect()
}

// change is a call that needs the domain and tells its watchers.
func (f *Fake) change(ctx context.Context, verb, id string, effect func(*instance) error) error {
	err := f.call(ctx, verb+" "+id, func() error {
		d := f.domains[id]
		if d == nil {
			return fault.NotFound
		}
		return effect(d)
	})
	if err == nil {
		f.emit(domain.Event{ID: id})
	}
	return err
}

// Get implements machine.Hypervisor.
func (f *Fake) Get(ctx context.Context, id string) (info domain.Info, err error) {
	err = f.call(ctx, "get "+id, func() error {
		d := f.domains[id]
		if d == nil {
			return fault.NotFound
		}
		info = domain.Info{ID: id, UID: d.spec.UID, State: d.state, Reason: d.reason}
		return nil
	})
	return info, err
}

// List implements machine.Hypervisor.
func (f *Fake) List(ctx context.Context) (infos []domain.Info, err error) {
	err = f.call(ctx, "list", func() error {
		for _, id := range slices.Sorted(maps.Keys(f.domains)) {
			d := f.domains[id]
			infos = append(infos, domain.Info{ID: id, UID: d.spec.UID, State: d.state, Reason: d.reason})
		}
		return nil
	})
	return infos, err
}

// Define implements machine.Hypervisor.
func (f *Fake) Define(ctx context.Context, spec domain.Spec) error {
	return f.call(ctx, "define "+spec.ID, func() error {
		d := f.domains[spec.ID]
		if d == nil {
			d = &instance{}
			f.domains[spec.ID] = d
		}
		d.spec = spec
		return nil
	})
}

// Start implements machine.Hypervisor.
func (f *Fake) Start(ctx context.Context, id string) error {
	return f.change(ctx, "start", id, func(d *instance) error {
		if f.startError != nil {
			d.reason = domain.StartFailed
			return f.startError
		}
		if d.state == domain.Off {
			d.state, d.reason = domain.Running, domain.Unknown
			d.starts++
		}
		return nil
	})
}

// Shutdown implements machine.Hypervisor.
func (f *Fake) Shutdown(ctx context.Context, id string) error {
	return f.change(ctx, "shutdown", id, func(d *instance) error {
		if d.state == domain.Off {
			return fault.Precondition
		}
		if !f.DeafGuests {
			d.state, d.reason = domain.Off, domain.GuestShutdown
		}
		return nil
	})
}

// Resume implements machine.Hypervisor.
func (f *Fake) Resume(ctx context.Context, id string) error {
	return f.change(ctx, "resume", id, func(d *instance) error {
		if d.state != domain.Paused {
			return fault.Precondition
		}
		d.state, d.reason = domain.Running, domain.Unknown
		return nil
	})
}

// Destroy implements machine.Hypervisor.
func (f *Fake) Destroy(ctx context.Context, id string) error {
	err := f.call(ctx, "destroy "+id, func() error {
		if d := f.domains[id]; d != nil && d.state != domain.Off {
			d.state, d.reason = domain.Off, domain.Destroyed
		}
		return nil
	})
	f.emit(domain.Event{ID: id})
	return err
}

// Undefine implements machine.Hypervisor.
func (f *Fake) Undefine(ctx context.Context, id string) error {
	return f.call(ctx, "undefine "+id, func() error {
		if d := f.domains[id]; d != nil && d.state != domain.Off {
			return fault.Precondition
		}
		delete(f.domains, id)
		return nil
	})
}

// Watch implements machine.Hypervisor.
func (f *Fake) Watch(ctx context.Context, fn func(domain.Event)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers = append(f.watchers, func(e domain.Event) {
		if ctx.Err() == nil {
			fn(e)
		}
	})
}
