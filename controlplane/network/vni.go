package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/condition"
	"ingot/controlplane/waiting"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Networks is the name of the controller that allocates VNIs, and of its finalizer.
const Networks = "networks"

// States of a Network and of an interface.
const (
	Pending   = "Pending"
	Available = "Available"
	Error     = "Error"
)

// VNIs have 24 bits (RFC 7348, 5). Networks that ask for none get one from firstVNI to lastVNI: what
// is outside is left to operators.
const (
	firstVNI = 100
	lastVNI  = 1<<24 - 2
	maxVNI   = 1<<24 - 1
)

// ProviderPrefix is what a VNI is preceded by in a network's providerID.
const ProviderPrefix = "ingot://vni/"

// retry is when something that waits looks again although nothing that it knows of has changed.
const retry = time.Minute

type networks struct {
	waiting waiting.List // networks without a VNI, by the VNI they want
}

// New returns the controller that gives each network a VNI that no other has, and takes it back when
// no interface is left in it.
func New() controller.Controller {
	n := &networks{}
	return controller.Each{
		Name:    Networks,
		Primary: api.Network,
		Inputs: []controller.Input{
			{Kind: api.Network, Strong: true},
			{Kind: api.NetworkInterface, Map: networkOf},
			{Kind: api.VNIAllocation, Map: func(r *resource.Resource) []resource.Key { return n.waiting.On(r.Name) }},
		},
		Outputs:   []controller.Output{{Kind: api.NetworkStatus}, {Kind: api.VNIAllocation}},
		Reconcile: n.reconcile,
	}
}

func networkOf(nic *resource.Resource) []resource.Key {
	name := resource.Spec[*v1alpha1.NetworkInterfaceSpec](nic).GetNetworkRef().GetName()
	return []resource.Key{{Kind: api.Network, Project: nic.Project, Name: name}}
}

func (n *networks) reconcile(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
	net, err := rw.Get(ctx, key)
	if errors.Is(err, fault.NotFound) {
		n.waiting.Done(key)
		return controller.Result{}, nil
	}
	if err != nil {
		return controller.Result{}, err
	}
	status, err := networkStatus(ctx, rw, net)
	if err != nil {
		return controller.Result{}, err
	}
	switch {
	case net.Phase == resource.TearingDown:
		n.waiting.Done(key)
		return controller.Result{}, release(ctx, rw, net, status)
	case status.spec.GetVni() != 0:
		return controller.Result{}, nil
	}
	wanted, err := wantedVNI(resource.Spec[*v1alpha1.NetworkSpec](net))
	if err != nil {
		return controller.Result{}, refuse(ctx, rw, net, status, "Invalid", err)
	}
	if wanted != 0 {
		n.waiting.For(key, strconv.Itoa(int(wanted)))
	}
	vni, err := chooseVNI(ctx, rw, wanted)
	if errors.Is(err, fault.Exhausted) {
		return controller.Result{RequeueAfter: retry}, refuse(ctx, rw, net, status, "InUse", err)
	}
	if err != nil {
		return controller.Result{}, err
	}
	n.waiting.Done(key)
	return controller.Result{}, commit(ctx, rw, net, status, vni)
}

// wantedVNI is the one that the network's providerID asks for; 0 for any.
func wantedVNI(spec *v1alpha1.NetworkSpec) (uint32, error) {
	id := spec.GetProviderId()
	if id == "" {
		return 0, nil
	}
	text, ok := strings.CutPrefix(id, ProviderPrefix)
	vni, err := strconv.ParseUint(text, 10, 24)
	if !ok || err != nil || vni == 0 || vni > maxVNI {
		return 0, fmt.Errorf("providerID %q is not %s and a number from 1 to %d", id, ProviderPrefix, maxVNI)
	}
	return uint32(vni), nil
}

// chooseVNI is wanted, or the first free one. fault.Exhausted says who has it.
func chooseVNI(ctx context.Context, rw *controller.ReadWriter, wanted uint32) (uint32, error) {
	if wanted != 0 {
		holder, err := rw.Get(ctx, vniKey(wanted))
		if errors.Is(err, fault.NotFound) {
			return wanted, nil
		}
		if err != nil {
			return 0, err
		}
		spec := resource.Spec[*v1alpha1.VNIAllocationSpec](holder)
		return 0, fmt.Errorf("VNI %d is in use by network %s/%s: %w", wanted, spec.GetNamespace(), spec.GetNetwork(), fault.Exhausted)
	}
	allocations, err := rw.List(ctx, store.Query{Kind: api.VNIAllocation})
	if err != nil {
		return 0, err
	}
	used := make([]uint32, 0, len(allocations))
	for _, a := range allocations {
		vni, err := strconv.ParseUint(a.Name, 10, 24)
		if err != nil {
			return 0, fmt.Errorf("read name of %s: %w", a.Key, err)
		}
		used = append(used, uint32(vni))
	}
	return firstFree(used)
}

// firstFree is the lowest VNI from firstVNI that is not in used.
func firstFree(used []uint32) (uint32, error) {
	slices.Sort(used)
	next := uint32(firstVNI)
	for _, vni := range used {
		if vni > next {
			break
		}
		if vni == next {
			next++
		}
	}
	if next > lastVNI {
		return 0, fmt.Errorf("all VNIs from %d to %d are in use: %w", firstVNI, lastVNI, fault.Exhausted)
	}
	return next, nil
}

func vniKey(vni uint32) resource.Key {
	return resource.Key{Kind: api.VNIAllocation, Name: strconv.Itoa(int(vni))}
}

// A statusAt is a status and the revision it was read at; 0 when there is none.
type statusAt struct {
	spec     *v1alpha1.NetworkStatus
	key      resource.Key
	revision uint64
}

func networkStatus(ctx context.Context, rw *controller.ReadWriter, net *resource.Resource) (statusAt, error) {
	s := statusAt{key: resource.Key{Kind: api.NetworkStatus, Project: net.Project, Name: net.Name}, spec: &v1alpha1.NetworkStatus{}}
	r, err := rw.Get(ctx, s.key)
	if errors.Is(err, fault.NotFound) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.spec, s.revision = resource.Spec[*v1alpha1.NetworkStatus](r), r.Revision
	return s, nil
}

func (s statusAt) write(spec *v1alpha1.NetworkStatus) store.Op {
	r := &resource.Resource{Meta: resource.Meta{Key: s.key, Revision: s.revision}, Spec: spec}
	if s.revision == 0 {
		return store.Op{Type: store.Create, Resource: r}
	}
	return store.Op{Type: store.Update, Resource: r}
}

func finalizer(t store.OpType, r *resource.Resource, name string) store.Op {
	return store.Op{Type: t, Resource: &resource.Resource{Meta: resource.Meta{Key: r.Key}}, UID: r.UID, Finalizer: name}
}

// commit takes vni for net. The allocation is named by the VNI: when another took it meanwhile, the
// transaction fails and the network is looked at again.
func commit(ctx context.Context, rw *controller.ReadWriter, net *resource.Resource, status statusAt, vni uint32) error {
	next := &v1alpha1.NetworkStatus{State: Available, Vni: vni, ProviderId: ProviderPrefix + strconv.Itoa(int(vni)),
		Conditions: condition.One(status.spec.GetConditions(), "Allocated", condition.True, "Allocated", "")}
	_, err := rw.Txn(ctx, nil,
		finalizer(store.AddFinalizer, net, Networks),
		store.Op{Type: store.Create, Resource: &resource.Resource{
			Meta: resource.Meta{Key: vniKey(vni)},
			Spec: &v1alpha1.VNIAllocationSpec{Namespace: net.Project, Network: net.Name, NetworkUid: net.UID},
		}},
		status.write(next))
	if errors.Is(err, fault.Exists) {
		return fmt.Errorf("take VNI %d: %w: %w", vni, fault.Conflict, err)
	}
	return err
}

func refuse(ctx context.Context, rw *controller.ReadWriter, net *resource.Resource, status statusAt, reason string, why error) error {
	next := &v1alpha1.NetworkStatus{State: Error,
		Conditions: condition.One(status.spec.GetConditions(), "Allocated", condition.False, reason, condition.Message(why))}
	if status.revision != 0 && proto.Equal(next, status.spec) {
		return nil
	}
	_, err := rw.Txn(ctx, nil, finalizer(store.AddFinalizer, net, Networks), status.write(next))
	return err
}

// release gives the VNI back and lets go of net, once no interface is in it.
func release(ctx context.Context, rw *controller.ReadWriter, net *resource.Resource, status statusAt) error {
	if !net.HasFinalizer(Networks) {
		return nil
	}
	nics, err := rw.List(ctx, store.Query{Kind: api.NetworkInterface, Project: net.Project, Index: api.ByNetwork, Value: net.Name, Limit: 1})
	if err != nil || len(nics) > 0 {
		return err
	}
	ops := []store.Op{finalizer(store.RemoveFinalizer, net, Networks)}
	if status.revision != 0 {
		ops = append(ops, store.Op{Type: store.Delete, Resource: &resource.Resource{Meta: resource.Meta{Key: status.key}}})
	}
	if vni := status.spec.GetVni(); vni != 0 {
		ops = append(ops, store.Op{Type: store.Delete, Resource: &resource.Resource{Meta: resource.Meta{Key: vniKey(vni)}}})
	}
	_, err = rw.Txn(ctx, nil, ops...)
	return err
}
