package agent

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"

	"ingot/agent/network"
	"ingot/agent/poollet"
	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/iri/machine"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	rt "ingot/runtime/resource"
	"ingot/runtime/store"
)

// viewInterfaces finds interfaces in the copy of the view.
type viewInterfaces struct{ store store.Store }

// Interface implements network.Interfaces.
func (v viewInterfaces) Interface(ctx context.Context, uid string) (*v1alpha1.HostInterfaceSpec, error) {
	if v.store == nil {
		return nil, fmt.Errorf("interface %s: this agent has no control plane: %w", uid, fault.NotFound)
	}
	page, err := v.store.List(ctx, store.Query{Kind: api.HostInterface, Index: api.ByUID, Value: uid})
	if err != nil {
		return nil, err
	}
	if len(page.Items) == 0 {
		return nil, fmt.Errorf("interface %s: %w", uid, fault.NotFound)
	}
	return rt.Spec[*v1alpha1.HostInterfaceSpec](page.Items[0]), nil
}

// controllers are all controllers of an agent, over a store of view.Schema.
func controllers(p *poollet.Poollet, n *network.Network, setClasses func([]machine.Class) error) []controller.Controller {
	return []controller.Controller{p.Controller(), refreshController(n), classesController(setClasses)}
}

// refreshController carries changes of interfaces and their policies to ports.
func refreshController(n *network.Network) controller.Controller {
	return controller.Each{
		Name:    "port-refresh",
		Primary: api.HostInterface,
		Workers: 4,
		Reconcile: func(ctx context.Context, rw *controller.ReadWriter, key rt.Key) (controller.Result, error) {
			r, err := rw.Get(ctx, key)
			if err != nil {
				// Gone: the ports keep what they had until their machines end.
				return controller.Result{}, ignoreNotFound(err)
			}
			return controller.Result{}, n.Refresh(ctx, rt.Spec[*v1alpha1.HostInterfaceSpec](r).Uid)
		},
	}
}

// classesController tells the runtime which classes there are.
func classesController(set func([]machine.Class) error) controller.Controller {
	return controller.Sync{
		Name:   "machine-classes",
		Inputs: []controller.Input{{Kind: api.MachineClass}},
		Reconcile: func(ctx context.Context, rw *controller.ReadWriter) error {
			all, err := rw.List(ctx, store.Query{Kind: api.MachineClass})
			if err != nil {
				return err
			}
			classes := make([]machine.Class, 0, len(all))
			for _, r := range all {
				class := machine.Class{Name: r.Name, Capabilities: map[string]int64{}}
				for name, text := range rt.Spec[*v1alpha1.MachineClassSpec](r).Capabilities {
					q, err := resource.ParseQuantity(text)
					if err != nil {
						return fmt.Errorf("machine class %s: %s: %w", r.Name, name, err)
					}
					class.Capabilities[name] = q.Value()
				}
				classes = append(classes, class)
			}
			return set(classes)
		},
	}
}
