package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/condition"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Name is that of the controller that compiles policies.
const Name = "policies"

// writesAtOnce bounds a transaction.
const writesAtOnce = 128

// New returns the controller that keeps a CompiledPolicy per interface. It looks at a whole network
// at once, because a label of one interface can change the rules of any other, and writes only
// what differs. An interface without policies has one too: that is how the host knows that none was missed.
func New() controller.Controller {
	return controller.Each{
		Name:    Name,
		Primary: api.Network,
		Inputs: []controller.Input{
			{Kind: api.NetworkPolicy, Map: func(r *resource.Resource) []resource.Key {
				return network(r, resource.Spec[*v1alpha1.NetworkPolicySpec](r).GetNetworkRef().GetName())
			}},
			{Kind: api.NetworkInterface, Map: func(r *resource.Resource) []resource.Key {
				return network(r, resource.Spec[*v1alpha1.NetworkInterfaceSpec](r).GetNetworkRef().GetName())
			}},
			{Kind: api.InterfaceStatus, Map: labelledNetwork},
			{Kind: api.CompiledPolicy, Map: labelledNetwork},
			{Kind: api.NetworkPolicyStatus, Map: labelledNetwork},
		},
		Outputs:   []controller.Output{{Kind: api.CompiledPolicy}, {Kind: api.NetworkPolicyStatus}},
		Workers:   2,
		Reconcile: reconcile,
	}
}

func network(r *resource.Resource, name string) []resource.Key {
	return []resource.Key{{Kind: api.Network, Project: r.Project, Name: name}}
}

func labelledNetwork(r *resource.Resource) []resource.Key {
	return network(r, r.Labels[api.LabelNetwork])
}

// within selects what of a kind belongs to the network at key.
func within(kind resource.Kind, key resource.Key) store.Query {
	return store.Query{Kind: kind, Project: key.Project, Index: api.ByNetwork, Value: key.Name}
}

func reconcile(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
	policies, err := rw.List(ctx, within(api.NetworkPolicy, key))
	if err != nil {
		return controller.Result{}, err
	}
	nics, err := rw.List(ctx, within(api.NetworkInterface, key))
	if err != nil {
		return controller.Result{}, err
	}
	statuses, err := byName(ctx, rw, within(api.InterfaceStatus, key))
	if err != nil {
		return controller.Result{}, err
	}
	members := make([]Member, len(nics))
	for i, nic := range nics {
		members[i] = Member{Name: nic.Name, UID: nic.UID, Labels: nic.Labels, Addresses: addresses(statuses[nic.Name])}
	}
	inputs := make([]Policy, len(policies))
	for i, p := range policies {
		inputs[i] = Policy{Name: p.Name, Spec: resource.Spec[*v1alpha1.NetworkPolicySpec](p)}
	}
	result := Compile(inputs, members)
	if err := writeCompiled(ctx, rw, key, members, result.Compiled); err != nil {
		return controller.Result{}, err
	}
	return controller.Result{}, writeStatuses(ctx, rw, key, result.Policies)
}

func byName(ctx context.Context, rw *controller.ReadWriter, q store.Query) (map[string]*resource.Resource, error) {
	list, err := rw.List(ctx, q)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*resource.Resource, len(list))
	for _, r := range list {
		out[r.Name] = r
	}
	return out, nil
}

func addresses(status *resource.Resource) []netip.Addr {
	if status == nil {
		return nil
	}
	var out []netip.Addr
	for _, text := range resource.Spec[*v1alpha1.NetworkInterfaceStatus](status).GetIps() {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// writeCompiled stores what differs, in few transactions because each costs the time of a disk, and
// deletes what belongs to no interface.
func writeCompiled(ctx context.Context, rw *controller.ReadWriter, key resource.Key, members []Member, compiled []*v1alpha1.CompiledPolicySpec) error {
	present, err := byName(ctx, rw, within(api.CompiledPolicy, key))
	if err != nil {
		return err
	}
	var ops []store.Op
	for i, m := range members {
		have := present[m.Name]
		delete(present, m.Name)
		if have != nil && Equal(resource.Spec[*v1alpha1.CompiledPolicySpec](have), compiled[i]) {
			continue
		}
		next := companion(api.CompiledPolicy, key, m.Name, compiled[i])
		if have == nil {
			have, err = rw.Get(ctx, next.Key) // there may be one of when the interface was in another network
			if err != nil && !errors.Is(err, fault.NotFound) {
				return err
			}
		}
		op := store.Op{Type: store.Create, Resource: next}
		if have != nil {
			op.Type, op.UID, next.Revision = store.Update, have.UID, have.Revision
		}
		ops = append(ops, op)
	}
	for chunk := range slices.Chunk(ops, writesAtOnce) {
		if _, err := rw.Txn(ctx, nil, chunk...); err != nil {
			return fmt.Errorf("write compiled policies: %w", err)
		}
	}
	return remove(ctx, rw, api.NetworkInterface, key, present)
}

func writeStatuses(ctx context.Context, rw *controller.ReadWriter, key resource.Key, outcomes []Outcome) error {
	present, err := byName(ctx, rw, within(api.NetworkPolicyStatus, key))
	if err != nil {
		return err
	}
	for _, o := range outcomes {
		var before []*v1alpha1.Condition
		if have := present[o.Name]; have != nil {
			before = resource.Spec[*v1alpha1.NetworkPolicyStatus](have).GetConditions()
		}
		delete(present, o.Name)
		value, reason, message := condition.True, "Compiled", ""
		if o.Fault != nil {
			value, reason, message = condition.False, "Invalid", o.Fault.Error()
		}
		status := &v1alpha1.NetworkPolicyStatus{SelectedInterfaces: o.Selected,
			Conditions: condition.One(before, "Compiled", value, reason, message)}
		if _, err := rw.Apply(ctx, companion(api.NetworkPolicyStatus, key, o.Name, status)); err != nil {
			return err
		}
	}
	return remove(ctx, rw, api.NetworkPolicy, key, present)
}

// remove deletes companions whose object is gone, or has come back in another network: that network's
// reconcile takes the companion over then.
func remove(ctx context.Context, rw *controller.ReadWriter, kind resource.Kind, key resource.Key, stale map[string]*resource.Resource) error {
	for name, r := range stale {
		_, err := rw.Get(ctx, resource.Key{Kind: kind, Project: key.Project, Name: name})
		if err == nil {
			continue
		}
		if !errors.Is(err, fault.NotFound) {
			return err
		}
		if _, err := rw.Delete(ctx, r.Key); err != nil {
			return err
		}
	}
	return nil
}

func companion(kind resource.Kind, network resource.Key, name string, spec proto.Message) *resource.Resource {
	return &resource.Resource{Meta: resource.Meta{
		Key:    resource.Key{Kind: kind, Project: network.Project, Name: name},
		Labels: map[string]string{api.LabelNetwork: network.Name},
	}, Spec: spec}
}

// Equal reports whether two compiled policies say the same. It is proto.Equal for this type, which
// with thousands of peers is too slow to be asked of every interface at every change.
func Equal(a, b *v1alpha1.CompiledPolicySpec) bool {
	return a.GetInterfaceUid() == b.GetInterfaceUid() &&
		equalSets(a.GetIngress(), b.GetIngress()) && equalSets(a.GetEgress(), b.GetEgress())
}

func equalSets(a, b *v1alpha1.CompiledRuleSet) bool {
	return a.GetEnforced() == b.GetEnforced() && slices.EqualFunc(a.GetRules(), b.GetRules(), func(x, y *v1alpha1.CompiledRule) bool {
		return x.GetId() == y.GetId() && x.GetDeny() == y.GetDeny() && x.GetPriority() == y.GetPriority() &&
			x.GetProtocol() == y.GetProtocol() && x.GetPortFirst() == y.GetPortFirst() && x.GetPortLast() == y.GetPortLast() &&
			slices.Equal(x.GetPeers(), y.GetPeers())
	})
}
