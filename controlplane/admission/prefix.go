package admission

import (
	"net/netip"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/cidr"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

func (c *check) prefix(spec *v1alpha1.PrefixSpec) error {
	block, known := netip.Prefix{}, false
	if spec.Prefix != "" {
		if block, known = c.cidr("spec.prefix", spec.Prefix); known {
			spec.Prefix = block.String()
			c.prefixFamily(spec, block)
		}
	}
	if spec.IpFamily != "" {
		c.oneOf("spec.ipFamily", spec.IpFamily, ipv4, ipv6)
	}
	c.parent("spec", spec)
	root := spec.ParentRef == nil && spec.ParentSelector == nil
	switch {
	case root && spec.Prefix == "":
		c.add("spec.prefix", "required, or else parentRef or parentSelector with prefixLength")
	case !root && spec.Prefix == "" && spec.PrefixLength == 0:
		c.add("spec.prefixLength", "required: how long a part of the parent is wanted")
	case spec.Prefix != "" && spec.PrefixLength != 0 && known && int(spec.PrefixLength) != block.Bits():
		c.add("spec.prefixLength", "%d, but spec.prefix is a /%d; leave it out", spec.PrefixLength, block.Bits())
	case !root && spec.Prefix == "" && spec.IpFamily == "":
		c.add("spec.ipFamily", "required: IPv4 or IPv6")
	case spec.IpFamily == ipv4 && spec.PrefixLength > 32 || spec.PrefixLength > 128:
		c.add("spec.prefixLength", "%d is too long", spec.PrefixLength)
	}
	c.reserved(spec, block, known)
	c.prefixUpdate(spec)
	if root && known {
		return c.apart(block)
	}
	return nil
}

func (c *check) prefixFamily(spec *v1alpha1.PrefixSpec, block netip.Prefix) {
	f := family(block.Addr())
	if spec.IpFamily == "" {
		spec.IpFamily = f
	}
	if spec.IpFamily != f {
		c.add("spec.ipFamily", "%s, but spec.prefix is %s", spec.IpFamily, f)
	}
}

// parent checks how a prefix names the one it is taken from.
func (c *check) parent(path string, spec *v1alpha1.PrefixSpec) {
	if spec.ParentRef != nil {
		c.ref(path+".parentRef", spec.ParentRef)
	}
	if spec.ParentSelector != nil {
		c.selector(path+".parentSelector", spec.ParentSelector)
		if spec.ParentRef != nil {
			c.add(path+".parentSelector", "want one of parentRef and parentSelector")
		}
	}
	if spec.ParentRef != nil && spec.ParentRef.Name == c.next.Name && c.next.Kind == api.Prefix {
		c.add(path+".parentRef.name", "a prefix is not its own parent")
	}
}

func (c *check) reserved(spec *v1alpha1.PrefixSpec, block netip.Prefix, known bool) {
	for i, text := range spec.Reserved {
		at := index("spec.reserved", i)
		if p, ok := c.cidr(at, text); ok && known && !cidr.Covers(block, p) {
			c.add(at, "%s is not within %s", p, block)
		}
	}
}

// prefixUpdate lets nothing change but what is reserved.
func (c *check) prefixUpdate(spec *v1alpha1.PrefixSpec) {
	old := was[*v1alpha1.PrefixSpec](c)
	if old == nil {
		return
	}
	old, now := proto.CloneOf(old), proto.CloneOf(spec)
	old.Reserved, now.Reserved = nil, nil
	if !proto.Equal(old, now) {
		c.add("spec", "only reserved can be changed; make another Prefix")
	}
}

// apart checks that a root overlaps no other root of the project.
func (c *check) apart(block netip.Prefix) error {
	if c.old != nil {
		return nil
	}
	page, err := c.reader.List(c.ctx, store.Query{Kind: api.Prefix, Project: c.next.Project})
	if err != nil {
		return err
	}
	for _, r := range page.Items {
		other := resource.Spec[*v1alpha1.PrefixSpec](r)
		if r.Name == c.next.Name || other.ParentRef != nil || other.ParentSelector != nil {
			continue
		}
		if p, err := netip.ParsePrefix(other.Prefix); err == nil && p.Overlaps(block) {
			c.add("spec.prefix", "%s overlaps %s of Prefix %q", block, p, r.Name)
		}
	}
	return nil
}
