package hostview

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/machine"
	"ingot/controlplane/network"
	"ingot/controlplane/waiting"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Interfaces is the name of the controller that tells hosts of interfaces, and of its finalizer.
const Interfaces = "host-interfaces"

// Config tunes the host view; its zero value is the default.
type Config struct {
	// DNS servers that guests are told of.
	DNS []string
}

type interfaces struct {
	cfg   Config
	users waiting.List // interfaces, by the machines that refer to them
}

// NewInterfaces returns the controller that keeps one HostInterface per interface in use: on the host
// of the one machine that uses it.
func NewInterfaces(cfg Config) controller.Controller {
	c := &interfaces{cfg: cfg}
	return controller.Each{
		Name:    Interfaces,
		Primary: api.NetworkInterface,
		Inputs: []controller.Input{
			{Kind: api.NetworkInterface, Strong: true},
			{Kind: api.InterfaceStatus, Map: sameInterface},
			{Kind: api.CompiledPolicy, Map: sameInterface},
			{Kind: api.Machine, Map: interfacesOf},
			{Kind: api.MachinePlacement, Map: func(r *resource.Resource) []resource.Key { return c.users.On(topic(r.Key)) }},
			{Kind: api.HostInterface, Map: func(r *resource.Resource) []resource.Key {
				return named(r.Project, resource.Spec[*v1alpha1.HostInterfaceSpec](r).GetName())
			}},
			{Kind: api.HostMachine, Map: func(r *resource.Resource) []resource.Key {
				var keys []resource.Key
				for _, nic := range resource.Spec[*v1alpha1.HostMachineSpec](r).GetInterfaces() {
					keys = append(keys, named(r.Project, nic.GetInterfaceName())...)
				}
				return keys
			}},
		},
		Outputs:   []controller.Output{{Kind: api.HostInterface}},
		Workers:   16, // a rule can touch many interfaces at once; their commits go together
		Reconcile: c.reconcile,
	}
}

func named(project, nic string) []resource.Key {
	return []resource.Key{{Kind: api.NetworkInterface, Project: project, Name: nic}}
}

func sameInterface(r *resource.Resource) []resource.Key { return named(r.Project, r.Name) }

func interfacesOf(m *resource.Resource) []resource.Key {
	var keys []resource.Key
	for _, name := range api.InterfaceNames(m.Name, resource.Spec[*v1alpha1.MachineSpec](m)) {
		keys = append(keys, named(m.Project, name)...)
	}
	return keys
}

// topic names a machine by the key of it or of a companion.
func topic(key resource.Key) string { return key.Project + "/" + key.Name }

// interfaceKey names a HostInterface by where it is and which interface it is of.
func interfaceKey(project, host, uid string) resource.Key {
	return resource.Key{Kind: api.HostInterface, Project: project, Name: host + "." + uid}
}

// A user is a machine that refers to an interface, with its place.
type user struct {
	machine   *resource.Resource
	placement *resource.Resource
	host      string // empty while not placed
}

// users are the machines that refer to nic, the oldest first.
func (c *interfaces) usersOf(ctx context.Context, rw *controller.ReadWriter, nic *resource.Resource) ([]user, error) {
	machines, err := rw.List(ctx, store.Query{Kind: api.Machine, Project: nic.Project, Index: api.ByInterface, Value: nic.Name})
	if err != nil {
		return nil, err
	}
	topics := make([]string, len(machines))
	for i, m := range machines {
		topics[i] = topic(m.Key)
	}
	c.users.For(nic.Key, topics...)
	var users []user
	for _, m := range machines {
		if !machine.Uses(m, nic) {
			continue
		}
		u := user{machine: m}
		p, err := placementOf(ctx, rw, m)
		if err != nil {
			return nil, err
		}
		if p != nil {
			u.placement, u.host = p, resource.Spec[*v1alpha1.MachinePlacementSpec](p).GetPool()
		}
		users = append(users, u)
	}
	slices.SortFunc(users, func(a, b user) int {
		return cmp.Or(a.machine.Created.Compare(b.machine.Created), cmp.Compare(a.machine.UID, b.machine.UID))
	})
	return users, nil
}

// placementOf is m's own, not that of a predecessor; nil when there is none.
func placementOf(ctx context.Context, rw *controller.ReadWriter, m *resource.Resource) (*resource.Resource, error) {
	p, err := rw.Get(ctx, resource.Key{Kind: api.MachinePlacement, Project: m.Project, Name: m.Name})
	if errors.Is(err, fault.NotFound) || err == nil && resource.Spec[*v1alpha1.MachinePlacementSpec](p).GetMachineUid() != m.UID {
		return nil, nil
	}
	return p, err
}

func (c *interfaces) reconcile(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
	nic, err := rw.Get(ctx, key)
	if errors.Is(err, fault.NotFound) {
		c.users.Done(key)
		return controller.Result{}, nil
	}
	if err != nil {
		return controller.Result{}, err
	}
	users, err := c.usersOf(ctx, rw, nic)
	if err != nil {
		return controller.Result{}, err
	}
	told, err := rw.List(ctx, store.Query{Kind: api.HostInterface, Project: key.Project, Index: api.ByUID, Value: nic.UID})
	if err != nil {
		return controller.Result{}, err
	}
	if len(told) > 0 {
		for _, r := range told {
			if err := c.keep(ctx, rw, nic, users, r); err != nil {
				return controller.Result{}, err
			}
		}
		return controller.Result{}, nil
	}
	if nic.Phase == resource.TearingDown {
		return controller.Result{}, rw.RemoveFinalizer(ctx, key)
	}
	for _, u := range users {
		if u.machine.Phase == resource.Running && u.host != "" {
			return controller.Result{}, c.tell(ctx, rw, nic, u)
		}
	}
	return controller.Result{}, nil
}

// keep updates what a host was told, or takes it back once the machine that used it is off that host.
func (c *interfaces) keep(ctx context.Context, rw *controller.ReadWriter, nic *resource.Resource, users []user, told *resource.Resource) error {
	before := resource.Spec[*v1alpha1.HostInterfaceSpec](told)
	i := slices.IndexFunc(users, func(u user) bool {
		return u.machine.UID == before.GetMachineUid() && u.machine.Phase == resource.Running && u.host == before.GetHost()
	})
	if i >= 0 {
		next, err := c.spec(ctx, rw, nic, users[i], before)
		if err != nil || next == nil {
			return err
		}
		_, err = rw.Apply(ctx, &resource.Resource{Meta: resource.Meta{Key: told.Key}, Spec: next})
		return err
	}
	hm := machineKey(nic.Project, before.GetHost(), before.GetMachineUid())
	if _, err := rw.Get(ctx, hm); !errors.Is(err, fault.NotFound) {
		return err // the machine is still there, and needs it
	}
	_, err := rw.Txn(ctx, []store.Compare{{Key: hm}}, store.Op{Type: store.Delete, Resource: told, UID: told.UID})
	return err
}

// tell creates the HostInterface for u if all is known, provided that u is as it was read.
func (c *interfaces) tell(ctx context.Context, rw *controller.ReadWriter, nic *resource.Resource, u user) error {
	next, err := c.spec(ctx, rw, nic, u, nil)
	if err != nil || next == nil {
		return err
	}
	_, err = rw.Txn(ctx,
		[]store.Compare{{Key: u.machine.Key, Revision: u.machine.Revision}, {Key: u.placement.Key, Revision: u.placement.Revision}},
		store.Op{Type: store.AddFinalizer, Resource: nic, UID: nic.UID, Finalizer: Interfaces},
		store.Op{Type: store.Create, Resource: &resource.Resource{
			Meta: resource.Meta{Key: interfaceKey(nic.Project, u.host, nic.UID)}, Spec: next}})
	return err
}

// spec is what u's host must know of nic; nil while something is missing. What an update lacks is kept from before.
func (c *interfaces) spec(ctx context.Context, rw *controller.ReadWriter, nic *resource.Resource, u user, before *v1alpha1.HostInterfaceSpec) (*v1alpha1.HostInterfaceSpec, error) {
	r, err := rw.Get(ctx, resource.Key{Kind: api.InterfaceStatus, Project: nic.Project, Name: nic.Name})
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	status := resource.Spec[*v1alpha1.NetworkInterfaceStatus](r)
	if before == nil && status.GetState() != network.Available || status.GetMac() == "" {
		return nil, nil
	}
	next := &v1alpha1.HostInterfaceSpec{
		Host: u.host, Namespace: nic.Project, Name: nic.Name, Uid: nic.UID, MachineUid: u.machine.UID,
		Vni: status.GetVni(), Mac: status.GetMac(), Ips: status.GetIps(), Prefixes: status.GetPrefixes(), Dns: c.cfg.DNS,
		Ingress: before.GetIngress(), Egress: before.GetEgress(),
	}
	r, err = rw.Get(ctx, resource.Key{Kind: api.CompiledPolicy, Project: nic.Project, Name: nic.Name})
	switch {
	case err != nil && !errors.Is(err, fault.NotFound):
		return nil, err
	case err == nil && resource.Spec[*v1alpha1.CompiledPolicySpec](r).GetInterfaceUid() == nic.UID:
		policy := resource.Spec[*v1alpha1.CompiledPolicySpec](r)
		next.Ingress, next.Egress = policy.GetIngress(), policy.GetEgress()
	case before == nil:
		return nil, nil
	}
	return next, nil
}
