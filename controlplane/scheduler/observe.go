package scheduler

import (
	"context"
	"strings"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/controller"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// poolKinds are what a Pool is made of; all have the pool's name.
var poolKinds = []resource.Kind{api.MachinePool, api.MachinePoolStatus, api.MachinePoolPresence, api.MachinePoolUsage}

// A poolCache keeps pools as they were read, because to read their quantities again for every
// machine is most of the work of placing it. One worker uses it.
type poolCache struct {
	pools map[string]*cachedPool
}

type cachedPool struct {
	Pool
	parts [4]*resource.Resource // by index of poolKinds; nil when missing
}

// A snapshot is all pools as they were read.
type snapshot struct {
	pools  []*Pool
	cached map[string]*cachedPool
}

// compares hold while nothing of the pool has changed since it was read.
func (s snapshot) compares(pool string) []store.Compare {
	out := make([]store.Compare, len(poolKinds))
	for i, kind := range poolKinds {
		out[i].Key = resource.Key{Kind: kind, Name: pool}
		if r := s.cached[pool].parts[i]; r != nil {
			out[i].Revision = r.Revision
		}
	}
	return out
}

func (c *poolCache) read(ctx context.Context, rw *controller.ReadWriter) (snapshot, error) {
	parts := map[string]*[4]*resource.Resource{}
	var names []string
	for i, kind := range poolKinds {
		list, err := rw.List(ctx, store.Query{Kind: kind})
		if err != nil {
			return snapshot{}, err
		}
		for _, r := range list {
			if i == 0 {
				parts[r.Name] = &[4]*resource.Resource{}
				names = append(names, r.Name)
			}
			if p := parts[r.Name]; p != nil {
				p[i] = r
			}
		}
	}
	before := c.pools
	c.pools = make(map[string]*cachedPool, len(names))
	out := snapshot{pools: make([]*Pool, len(names)), cached: c.pools}
	for i, name := range names {
		p := before[name]
		if p == nil || p.parts != *parts[name] {
			p = &cachedPool{Pool: observe(*parts[name]), parts: *parts[name]}
		}
		c.pools[name] = p
		out.pools[i] = &p.Pool
	}
	return out, nil
}

// observe makes a Pool of what is stored of it, in the order of poolKinds.
func observe(parts [4]*resource.Resource) Pool {
	p := Pool{Name: parts[0].Name, Labels: parts[0].Labels, Taints: resource.Spec[*v1alpha1.MachinePoolSpec](parts[0]).GetTaints(),
		Classes: map[string]bool{}}
	var faults []string
	quantities := func(what string, q map[string]string) Resources {
		r, err := ParseResources(q)
		if err != nil {
			faults = append(faults, what+" unreadable: "+err.Error())
		}
		return r
	}
	switch {
	case parts[0].Phase == resource.TearingDown:
		faults = append(faults, "being deleted")
	case parts[1] == nil:
		faults = append(faults, "not reported yet")
	case parts[2] != nil && resource.Spec[*v1alpha1.MachinePoolPresenceSpec](parts[2]).GetState() == "Offline":
		faults = append(faults, "offline")
	}
	if parts[1] != nil {
		status := resource.Spec[*v1alpha1.MachinePoolStatus](parts[1])
		if status.GetState() != "Ready" {
			faults = append(faults, "not ready")
		}
		for _, class := range status.GetAvailableMachineClasses() {
			p.Classes[class.GetName()] = true
		}
		p.AnyClass = status.GetAcceptsAnyClass()
		p.Capacity = quantities("capacity", status.GetCapacity())
	}
	if parts[3] != nil {
		p.Used = quantities("usage", resource.Spec[*v1alpha1.MachinePoolUsageSpec](parts[3]).GetUsed())
	}
	p.NotReady = strings.Join(faults, ", ")
	return p
}
