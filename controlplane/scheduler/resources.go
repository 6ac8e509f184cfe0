package scheduler

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"

	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/machine"
)

// Resources are amounts by name: cpu in thousandths of a core, anything else in its own unit.
type Resources map[string]int64

// Names of resources that the scheduler itself adds to what a class says.
const (
	cpu      = "cpu"
	memory   = "memory"
	disk     = "disk"     // bytes of local disks
	machines = "machines" // one per machine
)

// ParseResources reads quantities. Negative and unreadable ones are errors.
func ParseResources(quantities map[string]string) (Resources, error) {
	out := make(Resources, len(quantities))
	for name, text := range quantities {
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", name, text, err)
		}
		if q.Sign() < 0 {
			return nil, fmt.Errorf("%s %q is negative", name, text)
		}
		if name == cpu {
			out[name] = q.MilliValue()
		} else {
			out[name] = q.Value()
		}
	}
	return out, nil
}

// Format is the inverse of ParseResources.
func (r Resources) Format() map[string]string {
	out := make(map[string]string, len(r))
	for name, v := range r {
		out[name] = format(name, v)
	}
	return out
}

func format(name string, v int64) string {
	switch name {
	case cpu:
		return resource.NewMilliQuantity(v, resource.DecimalSI).String()
	case memory, disk:
		return resource.NewQuantity(v, resource.BinarySI).String()
	}
	return resource.NewQuantity(v, resource.DecimalSI).String()
}

// Plus is the sum; amounts saturate.
func (r Resources) Plus(o Resources) Resources {
	out := maps.Clone(r)
	if out == nil {
		out = Resources{}
	}
	for name, v := range o {
		if out[name] > math.MaxInt64-v {
			out[name] = math.MaxInt64
		} else {
			out[name] += v
		}
	}
	return out
}

// names in order.
func (r Resources) names() []string { return slices.Sorted(maps.Keys(r)) }

// Demand is what a machine of a class takes from its pool.
func Demand(m *v1alpha1.MachineSpec, class *v1alpha1.MachineClassSpec) (Resources, error) {
	out, err := ParseResources(class.GetCapabilities())
	if err != nil {
		return nil, fmt.Errorf("read capabilities of the class: %w", err)
	}
	out[machines] = 1
	volumes, err := machine.Volumes(m)
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		out = out.Plus(Resources{disk: int64(min(v.Bytes, math.MaxInt64))})
	}
	return out, nil
}
