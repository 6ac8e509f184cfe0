package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/cidr"
	"ingot/controlplane/condition"
	"ingot/controlplane/ipam"
	"ingot/controlplane/waiting"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// InterfaceStatuses is the name of the controller that writes statuses of interfaces, and of its finalizer.
const InterfaceStatuses = "interfaces"

// ConditionAvailable tells what an interface waits for.
const ConditionAvailable = "Available"

type interfaces struct {
	waiting waiting.List // interfaces that want an address that another has, by address
}

// NewInterfaces returns the controller that joins what is known of an interface in its status: VNI,
// addresses, MAC. It keeps the interface until nobody else holds it back, and with it its addresses.
func NewInterfaces() controller.Controller {
	c := &interfaces{}
	return controller.Each{
		Name:    InterfaceStatuses,
		Primary: api.NetworkInterface,
		Inputs: []controller.Input{
			{Kind: api.NetworkInterface, Strong: true},
			{Kind: api.NetworkStatus, Select: func(r *resource.Resource) []store.Query {
				return []store.Query{{Kind: api.NetworkInterface, Project: r.Project, Index: api.ByNetwork, Value: r.Name}}
			}},
			{Kind: api.Prefix, Map: ipam.InterfaceOf},
			{Kind: api.PrefixStatus, Map: ipam.InterfaceOf},
			{Kind: api.InterfaceStatus, Map: c.waitingFor},
		},
		Outputs:   []controller.Output{{Kind: api.InterfaceStatus}},
		Reconcile: c.reconcile, // one worker: two interfaces never look for the same address at once
	}
}

// waitingFor are interfaces that an address of status, perhaps given up now, keeps from being available.
func (c *interfaces) waitingFor(status *resource.Resource) []resource.Key {
	var keys []resource.Key
	spec := resource.Spec[*v1alpha1.NetworkInterfaceStatus](status)
	for _, ip := range spec.GetIps() {
		keys = append(keys, c.waiting.On(api.InNetwork(spec.GetVni(), ip))...)
	}
	return keys
}

func statusKey(nic resource.Key) resource.Key {
	return resource.Key{Kind: api.InterfaceStatus, Project: nic.Project, Name: nic.Name}
}

func (c *interfaces) reconcile(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
	nic, err := rw.Get(ctx, key)
	if errors.Is(err, fault.NotFound) {
		c.waiting.Done(key)
		return controller.Result{}, nil
	}
	if err != nil {
		return controller.Result{}, err
	}
	present, err := rw.Get(ctx, statusKey(key))
	if err != nil && !errors.Is(err, fault.NotFound) {
		return controller.Result{}, err
	}
	if nic.Phase == resource.TearingDown {
		c.waiting.Done(key)
		return controller.Result{}, letGo(ctx, rw, nic, present)
	}
	before := &v1alpha1.NetworkInterfaceStatus{}
	if present != nil {
		before = resource.Spec[*v1alpha1.NetworkInterfaceStatus](present)
	}
	facts, err := c.gather(ctx, rw, nic, before)
	if err != nil {
		return controller.Result{}, err
	}
	look := &lookup{ctx: ctx, rw: rw, nic: nic, vni: facts.VNI}
	facts.AddressHolder, facts.MACHolder = look.holder(api.ByAddress), look.holder(api.ByMAC)
	verdict := Plan(facts)
	if look.err != nil {
		return controller.Result{}, look.err
	}
	return controller.Result{}, write(ctx, rw, nic, present, status(verdict, facts.VNI, before))
}

// letGo gives the addresses up when only this controller holds nic back.
func letGo(ctx context.Context, rw *controller.ReadWriter, nic, present *resource.Resource) error {
	if !nic.HasFinalizer(InterfaceStatuses) || len(nic.Finalizers) > 1 {
		return nil
	}
	ops := []store.Op{finalizer(store.RemoveFinalizer, nic, InterfaceStatuses)}
	if present != nil {
		ops = append(ops, store.Op{Type: store.Delete, Resource: present})
	}
	_, err := rw.Txn(ctx, nil, ops...)
	return err
}

// A lookup finds who else in nic's network has an address.
type lookup struct {
	ctx context.Context
	rw  *controller.ReadWriter
	nic *resource.Resource
	vni uint32
	err error // of the last failure: what holder said then is void
}

func (l *lookup) holder(index string) func(string) string {
	return func(address string) string {
		list, err := l.rw.List(l.ctx, store.Query{Kind: api.InterfaceStatus, Index: index, Value: api.InNetwork(l.vni, address)})
		if err != nil {
			l.err = err
			return ""
		}
		for _, r := range list {
			if r.Project != l.nic.Project || r.Name != l.nic.Name {
				return r.Name
			}
		}
		return ""
	}
}

// status is what v says. An interface that had its addresses keeps them whatever is wrong now: a
// machine may be using them.
func status(v Verdict, vni uint32, before *v1alpha1.NetworkInterfaceStatus) *v1alpha1.NetworkInterfaceStatus {
	value, reason := condition.True, "Available"
	switch v.State() {
	case Error:
		value, reason = condition.False, "Error"
	case Pending:
		value, reason = condition.False, "Waiting"
	}
	if v.State() != Available && len(before.GetIps()) > 0 {
		v.IPs, v.Prefixes, v.MAC, vni = before.GetIps(), before.GetPrefixes(), before.GetMac(), before.GetVni()
	}
	return &v1alpha1.NetworkInterfaceStatus{State: v.State(), Ips: v.IPs, Prefixes: v.Prefixes, Mac: v.MAC, Vni: vni,
		Conditions: condition.One(before.GetConditions(), ConditionAvailable, value, reason, v.Message())}
}

func write(ctx context.Context, rw *controller.ReadWriter, nic, present *resource.Resource, next *v1alpha1.NetworkInterfaceStatus) error {
	network := resource.Spec[*v1alpha1.NetworkInterfaceSpec](nic).GetNetworkRef().GetName()
	r := &resource.Resource{Meta: resource.Meta{Key: statusKey(nic.Key), Labels: map[string]string{api.LabelNetwork: network}}, Spec: next}
	op := store.Op{Type: store.Create, Resource: r}
	if present != nil {
		if proto.Equal(present.Spec, next) && present.Labels[api.LabelNetwork] == network {
			return nil
		}
		r.Revision = present.Revision
		op.Type = store.Update
	}
	_, err := rw.Txn(ctx, nil, finalizer(store.AddFinalizer, nic, InterfaceStatuses), op)
	return err
}

// gather reads what nic's status depends on.
func (c *interfaces) gather(ctx context.Context, rw *controller.ReadWriter, nic *resource.Resource, before *v1alpha1.NetworkInterfaceStatus) (Facts, error) {
	spec := resource.Spec[*v1alpha1.NetworkInterfaceSpec](nic)
	f := Facts{Spec: spec, UID: nic.UID, MAC: before.GetMac()}
	name := spec.GetNetworkRef().GetName()
	net, err := rw.Get(ctx, resource.Key{Kind: api.NetworkStatus, Project: nic.Project, Name: name})
	switch {
	case errors.Is(err, fault.NotFound):
		f.NetworkWaits = fmt.Sprintf("network %q has no VNI yet", name)
	case err != nil:
		return f, err
	default:
		s := resource.Spec[*v1alpha1.NetworkStatus](net)
		f.VNI = s.GetVni()
		f.NetworkWaits = fmt.Sprintf("network %q has no VNI: %s", name, condition.Get(s.GetConditions(), "Allocated").GetMessage())
	}
	for i, ip := range spec.GetIps() {
		a, err := address(ctx, rw, nic, i, ip)
		if err != nil {
			return f, err
		}
		f.Addresses = append(f.Addresses, a)
	}
	var topics []string
	for _, a := range f.Addresses {
		if a.Address.IsValid() && f.VNI != 0 {
			topics = append(topics, api.InNetwork(f.VNI, a.Address.String()))
		}
	}
	c.waiting.For(nic.Key, topics...)
	return f, nil
}

// address is what is known of the i-th address of nic.
func address(ctx context.Context, rw *controller.ReadWriter, nic *resource.Resource, i int, ip *v1alpha1.InterfaceIP) (Address, error) {
	if ip.GetEphemeral() == nil {
		a, err := netip.ParseAddr(ip.GetValue())
		if err != nil || a.Is4In6() || a.Zone() != "" {
			return Address{Fault: fmt.Sprintf("ips[%d]: %q is not an IP address", i, ip.GetValue())}, nil
		}
		return Address{Address: a}, nil
	}
	name := ipam.PrefixName(nic.Name, i)
	p, err := rw.Get(ctx, resource.Key{Kind: api.Prefix, Project: nic.Project, Name: name})
	if errors.Is(err, fault.NotFound) {
		return Address{Waits: fmt.Sprintf("prefix %q does not exist yet", name)}, nil
	}
	if err != nil {
		return Address{}, err
	}
	if !ipam.MadeFor(p, nic) {
		return Address{Waits: fmt.Sprintf("prefix %q exists and was not made for this interface", name)}, nil
	}
	r, err := rw.Get(ctx, resource.Key{Kind: api.PrefixStatus, Project: nic.Project, Name: name})
	if errors.Is(err, fault.NotFound) {
		return Address{Waits: fmt.Sprintf("prefix %q has no block yet", name)}, nil
	}
	if err != nil {
		return Address{}, err
	}
	s := resource.Spec[*v1alpha1.PrefixStatus](r)
	why := condition.Get(s.GetConditions(), ipam.Allocated).GetMessage()
	switch s.GetPhase() {
	case ipam.Allocated:
		block, err := cidr.Parse(s.GetPrefix())
		if err != nil {
			return Address{}, err
		}
		if !block[0].IsSingleIP() {
			return Address{Fault: fmt.Sprintf("ips[%d]: prefix %q is %s, not one address", i, name, block[0])}, nil
		}
		return Address{Address: block[0].Addr()}, nil
	case ipam.Failed:
		return Address{Fault: fmt.Sprintf("ips[%d]: %s", i, why)}, nil
	}
	return Address{Waits: why}, nil
}
