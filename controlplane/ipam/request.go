package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/cidr"
	"ingot/controlplane/labels"
	"ingot/runtime/controller"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// A request is what a Prefix asks for.
type request struct {
	spec   *v1alpha1.PrefixSpec
	block  netip.Prefix // invalid: any of bits
	bits   int
	family string
}

func (r request) root() bool {
	return r.spec.GetParentRef() == nil && r.spec.GetParentSelector() == nil
}

func readRequest(spec *v1alpha1.PrefixSpec) (request, error) {
	r := request{spec: spec, bits: int(spec.GetPrefixLength()), family: spec.GetIpFamily()}
	if _, err := cidr.Parse(spec.GetReserved()...); err != nil {
		return r, fmt.Errorf("read reserved parts: %v: %w", err, fault.Invalid)
	}
	if spec.GetPrefix() == "" {
		switch {
		case r.root():
			return r, fmt.Errorf("a prefix without a parent needs prefix: %w", fault.Invalid)
		case r.bits == 0:
			return r, fmt.Errorf("a part needs prefix or prefixLength: %w", fault.Invalid)
		case r.family != "IPv4" && r.family != "IPv6":
			return r, fmt.Errorf("ipFamily %q is neither IPv4 nor IPv6: %w", r.family, fault.Invalid)
		}
		return r, nil
	}
	blocks, err := cidr.Parse(spec.GetPrefix())
	if err != nil {
		return r, fmt.Errorf("read prefix: %v: %w", err, fault.Invalid)
	}
	r.block, r.bits = blocks[0], blocks[0].Bits()
	if r.family != "" && r.family != familyOf(r.block) {
		return r, fmt.Errorf("prefix %s is not %s: %w", r.block, r.family, fault.Invalid)
	}
	r.family = familyOf(r.block)
	return r, nil
}

// choose is the part of s that r gets.
func (r request) choose(s Space) (netip.Prefix, error) {
	if r.block.IsValid() {
		return r.block, s.Check(r.block)
	}
	return s.Free(r.bits)
}

// A parent is a prefix that parts can be taken of, as it was read.
type parent struct {
	prefix *resource.Resource
	status statusAt
	space  Space
}

// parents are those that r may be a part of: the smallest first, then by name. fault.Unavailable
// says what is missing.
func (r request) parents(ctx context.Context, rw *controller.ReadWriter, p *resource.Resource) ([]*parent, error) {
	candidates, err := r.candidates(ctx, rw, p)
	if err != nil {
		return nil, err
	}
	var out []*parent
	var unfit []string
	for _, c := range candidates {
		parent, why, err := r.open(ctx, rw, c)
		if err != nil {
			return nil, err
		}
		if why != "" {
			unfit = append(unfit, fmt.Sprintf("parent %q %s", c.Name, why))
			continue
		}
		out = append(out, parent)
	}
	if len(out) == 0 && len(unfit) == 0 {
		return nil, fmt.Errorf("no prefix matches parentSelector: %w", fault.Unavailable)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: %w", strings.Join(unfit, "; "), fault.Unavailable)
	}
	slices.SortStableFunc(out, func(a, b *parent) int { return b.space.Prefix.Bits() - a.space.Prefix.Bits() })
	return out, nil
}

func (r request) candidates(ctx context.Context, rw *controller.ReadWriter, p *resource.Resource) ([]*resource.Resource, error) {
	if name := r.spec.GetParentRef().GetName(); name != "" {
		c, err := rw.Get(ctx, resource.Key{Kind: api.Prefix, Project: p.Project, Name: name})
		if errors.Is(err, fault.NotFound) {
			return nil, fmt.Errorf("parent %q does not exist: %w", name, fault.Unavailable)
		}
		return []*resource.Resource{c}, err
	}
	all, err := rw.List(ctx, store.Query{Kind: api.Prefix, Project: p.Project})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(c *resource.Resource) bool {
		return c.UID == p.UID || !labels.Matches(r.spec.GetParentSelector(), c.Labels)
	}), nil
}

// open reads c as a parent; why says what forbids it.
func (r request) open(ctx context.Context, rw *controller.ReadWriter, c *resource.Resource) (out *parent, why string, err error) {
	if c.Phase == resource.TearingDown {
		return nil, "is being deleted", nil
	}
	if c.Owner == InterfacePrefixes {
		return nil, "is the address of an interface", nil
	}
	status, err := statusOf(ctx, rw, c)
	if err != nil {
		return nil, "", err
	}
	if status.spec.GetPhase() != Allocated {
		return nil, "has no block yet", nil
	}
	set, err := cidr.Parse(append([]string{status.spec.GetPrefix()}, status.spec.GetUsed()...)...)
	if err != nil {
		return nil, "", err
	}
	if familyOf(set[0]) != r.family {
		return nil, "is not " + r.family, nil
	}
	reserved, err := cidr.Parse(resource.Spec[*v1alpha1.PrefixSpec](c).GetReserved()...)
	if err != nil {
		return nil, "has unreadable reserved parts", nil
	}
	return &parent{prefix: c, status: status, space: Space{Name: c.Name, Prefix: set[0], Used: set[1:], Reserved: reserved}}, "", nil
}
