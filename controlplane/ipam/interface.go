package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// InterfacePrefixes is the name of the controller that makes ephemeral prefixes.
const InterfacePrefixes = "interface-prefixes"

// NewInterfaces returns the controller that makes a Prefix for each ephemeral address of a network
// interface, and deletes it when the interface is gone: not before, because a machine uses it until then.
func NewInterfaces() controller.Controller {
	return controller.Each{
		Name:    InterfacePrefixes,
		Primary: api.NetworkInterface,
		Inputs: []controller.Input{
			{Kind: api.NetworkInterface},
			{Kind: api.Prefix, Map: InterfaceOf},
		},
		Outputs:   []controller.Output{{Kind: api.Prefix}},
		Workers:   4,
		Reconcile: reconcileInterface,
	}
}

// PrefixName is the Prefix of an interface's i-th address.
func PrefixName(nic string, i int) string { return fmt.Sprintf("%s-%d", nic, i) }

// InterfaceOf is the interface that a Prefix, or a companion of one, could be for, by its name.
func InterfaceOf(p *resource.Resource) []resource.Key {
	i := strings.LastIndexByte(p.Name, '-')
	if i <= 0 {
		return nil
	}
	return []resource.Key{{Kind: api.NetworkInterface, Project: p.Project, Name: p.Name[:i]}}
}

// MadeFor reports whether p was made by this package for the interface.
func MadeFor(p, nic *resource.Resource) bool {
	return p.Owner == InterfacePrefixes && p.Annotations[api.AnnotationUID] == nic.UID
}

// Desired are the prefixes that live and die with nic.
func Desired(nic *resource.Resource) []*resource.Resource {
	spec := resource.Spec[*v1alpha1.NetworkInterfaceSpec](nic)
	var out []*resource.Resource
	for i, ip := range spec.GetIps() {
		t := ip.GetEphemeral().GetPrefixTemplate()
		if t == nil {
			continue
		}
		p := &v1alpha1.PrefixSpec{}
		if t.GetSpec() != nil {
			p = proto.CloneOf(t.GetSpec())
		}
		if p.IpFamily == "" && i < len(spec.GetIpFamilies()) {
			p.IpFamily = spec.GetIpFamilies()[i]
		}
		if p.Prefix == "" && p.PrefixLength == 0 {
			p.PrefixLength = addressBits(p.IpFamily)
		}
		labels := map[string]string{}
		for k, v := range t.GetMetadata().GetLabels() {
			labels[k] = v
		}
		labels[api.LabelInterface] = nic.Name
		annotations := map[string]string{}
		for k, v := range t.GetMetadata().GetAnnotations() {
			annotations[k] = v
		}
		annotations[api.AnnotationUID] = nic.UID
		out = append(out, &resource.Resource{
			Meta: resource.Meta{
				Key:    resource.Key{Kind: api.Prefix, Project: nic.Project, Name: PrefixName(nic.Name, i)},
				Labels: labels, Annotations: annotations,
			},
			Spec: p,
		})
	}
	return out
}

func addressBits(family string) uint32 {
	if family == "IPv6" {
		return 128
	}
	return 32
}

func familyOf(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "IPv4"
	}
	return "IPv6"
}

func reconcileInterface(ctx context.Context, rw *controller.ReadWriter, key resource.Key) (controller.Result, error) {
	nic, err := rw.Get(ctx, key)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return controller.Result{}, err
	}
	if err == nil {
		for _, p := range Desired(nic) {
			if err := ensurePrefix(ctx, rw, nic, p); err != nil {
				return controller.Result{}, err
			}
		}
	}
	return controller.Result{}, prunePrefixes(ctx, rw, key, nic)
}

// ensurePrefix makes p unless the name is in use: then the interface says so in its status.
func ensurePrefix(ctx context.Context, rw *controller.ReadWriter, nic, p *resource.Resource) error {
	present, err := rw.Get(ctx, p.Key)
	switch {
	case errors.Is(err, fault.NotFound):
		if nic.Phase == resource.TearingDown {
			return nil
		}
	case err != nil:
		return err
	case !MadeFor(present, nic) || present.Phase == resource.TearingDown:
		return nil
	}
	_, err = rw.Apply(ctx, p)
	return err
}

// prunePrefixes deletes what was made for interfaces of this name that are gone, or that ask for less now.
func prunePrefixes(ctx context.Context, rw *controller.ReadWriter, key resource.Key, nic *resource.Resource) error {
	made, err := rw.List(ctx, store.Query{Kind: api.Prefix, Project: key.Project, Index: api.ByHolder, Value: key.Name})
	if err != nil {
		return err
	}
	wanted := map[resource.Key]bool{}
	if nic != nil {
		for _, p := range Desired(nic) {
			wanted[p.Key] = true
		}
	}
	for _, p := range made {
		if p.Owner != InterfacePrefixes || nic != nil && MadeFor(p, nic) && wanted[p.Key] {
			continue
		}
		if _, err := rw.Delete(ctx, p.Key); err != nil {
			return err
		}
	}
	return nil
}
