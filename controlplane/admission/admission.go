// Package admission decides whether an object of a user may be stored, changed or deleted: it fills
// in defaults and checks every rule of the API, each fault with the path of its field. It reads the
// store and never writes to it; it serves no requests.
//
// What an object refers to may be created later, and the object waits with a condition; except the
// project of every object and the class of a machine, which must exist.
package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Reader is what rules may look at.
type Reader interface {
	Get(ctx context.Context, key resource.Key) (*resource.Resource, error)
	List(ctx context.Context, q store.Query) (store.Page, error)
}

// Admission applies the rules.
type Admission struct {
	reader Reader
}

// New returns the rules over what reader shows.
func New(reader Reader) *Admission { return &Admission{reader: reader} }

// A Claim names what a decision depends on. While a decision is made and carried out, nobody else
// may hold an exclusive claim of the same name, or any claim when it is exclusive itself.
type Claim struct {
	Name      string
	Exclusive bool
}

// Claims are those of the decision about old becoming next; nil is absence.
func Claims(old, next *resource.Resource) []Claim {
	if next == nil { // nobody may come to depend on it meanwhile
		return []Claim{{Name: old.Key.String(), Exclusive: true}}
	}
	var claims []Claim
	if next.Project != "" {
		claims = append(claims, Claim{Name: resource.Key{Kind: api.Project, Name: next.Project}.String()})
	}
	switch spec := next.Spec.(type) {
	case *v1alpha1.MachineSpec:
		claims = append(claims, Claim{Name: resource.Key{Kind: api.MachineClass, Name: spec.GetMachineClassRef().GetName()}.String()})
		for _, name := range api.InterfaceNames(next.Name, spec) {
			claims = append(claims, Claim{Name: "interface of a machine/" + next.Project + "/" + name, Exclusive: true},
				Claim{Name: resource.Key{Kind: api.NetworkInterface, Project: next.Project, Name: name}.String()})
		}
	case *v1alpha1.NetworkInterfaceSpec:
		network := next.Project + "/" + spec.GetNetworkRef().GetName()
		claims = append(claims, Claim{Name: string(api.Network) + "/" + network},
			Claim{Name: "addresses/" + network, Exclusive: slices.ContainsFunc(spec.Ips, func(ip *v1alpha1.InterfaceIP) bool { return ip.GetValue() != "" })})
	case *v1alpha1.PrefixSpec:
		claims = append(claims, Claim{Name: "prefixes/" + next.Project, Exclusive: true})
	}
	return claims
}

// Admit checks that old may become next: nil old is a creation, nil next a deletion. It fills in the
// defaults of next, which the caller owns. Errors: fault.Fields, or of class Precondition.
func (a *Admission) Admit(ctx context.Context, old, next *resource.Resource) error {
	if next == nil {
		return a.admitDelete(ctx, old)
	}
	c := &check{Admission: a, ctx: ctx, old: old, next: next}
	c.metadata()
	if err := c.project(); err != nil {
		return err
	}
	if err := c.spec(); err != nil {
		return err
	}
	return c.faults.Err()
}

// check is one decision about a creation or an update.
type check struct {
	*Admission
	ctx       context.Context
	old, next *resource.Resource
	faults    fault.Fields
}

func (c *check) add(path, format string, args ...any) { c.faults.Add(path, format, args...) }

// spec fills in and checks what is special to the kind.
func (c *check) spec() error {
	switch spec := c.next.Spec.(type) {
	case *v1alpha1.SecretSpec:
		c.secret(spec)
	case *v1alpha1.JoinTokenSpec:
		c.joinToken(spec)
	case *v1alpha1.MachineClassSpec:
		c.machineClass(spec)
	case *v1alpha1.MachinePoolSpec:
		c.machinePool(spec)
	case *v1alpha1.MachineSpec:
		return c.machine(spec)
	case *v1alpha1.NetworkSpec:
		c.network(spec)
	case *v1alpha1.NetworkInterfaceSpec:
		c.networkInterface("spec", spec)
		return c.interfaceUpdate(spec)
	case *v1alpha1.NetworkPolicySpec:
		c.networkPolicy(spec)
	case *v1alpha1.PrefixSpec:
		return c.prefix(spec)
	}
	return nil
}

// project checks that the project is there to stay.
func (c *check) project() error {
	if c.next.Project == "" || c.old != nil {
		return nil
	}
	p, err := c.reader.Get(c.ctx, resource.Key{Kind: api.Project, Name: c.next.Project})
	switch {
	case errors.Is(err, fault.NotFound):
		existing, err := c.names(store.Query{Kind: api.Project})
		if err != nil {
			return err
		}
		c.add("metadata.namespace", "no Project %q; existing: %s", c.next.Project, existing)
	case err != nil:
		return err
	case p.Phase == resource.TearingDown:
		c.add("metadata.namespace", "Project %q is being deleted", c.next.Project)
	}
	return nil
}

// names lists what a query finds, for messages.
func (a *Admission) namesOf(ctx context.Context, q store.Query) ([]string, error) {
	page, err := a.reader.List(ctx, q)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(page.Items))
	for i, r := range page.Items {
		names[i] = r.Name
	}
	return names, nil
}

func (c *check) names(q store.Query) (string, error) {
	names, err := c.namesOf(c.ctx, q)
	if err != nil {
		return "", err
	}
	return some(names), nil
}

// some is a list of names that is not too long to read.
func some(names []string) string {
	const most = 10
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}
