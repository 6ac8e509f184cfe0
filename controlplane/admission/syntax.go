package admission

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	kresource "k8s.io/apimachinery/pkg/api/resource"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/labels"
)

var (
	// dnsLabel is RFC 1123, 2.1.
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	// labelName and labelPrefix make up label keys as Kubernetes has them: prefix/name.
	labelName   = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
	labelPrefix = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)
)

const (
	maxLabel       = 63
	maxPrefix      = 253
	maxAnnotations = 256 << 10 // bytes, all together
)

func isLabel(s string) bool { return len(s) <= maxLabel && dnsLabel.MatchString(s) }

// label notes a fault unless s is a DNS label.
func (c *check) label(path, s string) {
	switch {
	case s == "":
		c.add(path, "required")
	case !isLabel(s):
		c.add(path, "%q is not a DNS label: lower-case letters, digits and -, at most %d, a letter or digit at both ends", s, maxLabel)
	}
}

// ref notes a fault unless r names something.
func (c *check) ref(path string, r *v1alpha1.LocalRef) { c.label(path+".name", r.GetName()) }

func (c *check) oneOf(path, s string, allowed ...string) bool {
	for _, a := range allowed {
		if s == a {
			return true
		}
	}
	c.add(path, "%q is none of %s", s, strings.Join(allowed, ", "))
	return false
}

func (c *check) metadata() {
	m := &c.next.Meta
	c.label("metadata.name", m.Name)
	info, _ := api.Lookup(m.Kind)
	if !info.Global {
		c.label("metadata.namespace", m.Project)
	} else if m.Project != "" {
		c.add("metadata.namespace", "%s objects are outside projects; leave it empty", m.Kind)
	}
	c.labels("metadata.labels", m.Labels)
	size := 0
	for key, value := range m.Annotations {
		c.labelKey("metadata.annotations", key)
		size += len(key) + len(value)
	}
	if size > maxAnnotations {
		c.add("metadata.annotations", "%d bytes; at most %d are kept", size, maxAnnotations)
	}
}

func (c *check) labels(path string, set map[string]string) {
	for key, value := range set {
		c.labelKey(path, key)
		c.labelValue(path+"["+key+"]", value)
	}
}

func (c *check) labelKey(path, key string) {
	name := key
	if prefix, rest, ok := strings.Cut(key, "/"); ok {
		name = rest
		if len(prefix) > maxPrefix || !labelPrefix.MatchString(prefix) {
			c.add(path, "key %q: the part before / is not a DNS name", key)
		}
	}
	if len(name) > maxLabel || !labelName.MatchString(name) {
		c.add(path, "key %q: want letters, digits, -, _ and ., at most %d", key, maxLabel)
	}
}

func (c *check) labelValue(path, value string) {
	if value != "" && (len(value) > maxLabel || !labelName.MatchString(value)) {
		c.add(path, "value %q: want letters, digits, -, _ and ., at most %d", value, maxLabel)
	}
}

func (c *check) selector(path string, s labels.Selector) {
	c.labels(path+".matchLabels", s.GetMatchLabels())
	for i, r := range s.GetMatchExpressions() {
		at := index(path+".matchExpressions", i)
		c.labelKey(at+".key", r.GetKey())
		for j, v := range r.GetValues() {
			c.labelValue(index(at+".values", j), v)
		}
		if !c.oneOf(at+".operator", r.GetOperator(), "In", "NotIn", "Exists", "DoesNotExist") {
			continue
		}
		list := r.GetOperator() == "In" || r.GetOperator() == "NotIn"
		if list && len(r.GetValues()) == 0 {
			c.add(at+".values", "required for operator %s", r.GetOperator())
		} else if !list && len(r.GetValues()) > 0 {
			c.add(at+".values", "operator %s takes none", r.GetOperator())
		}
	}
}

// quantity notes a fault unless s is a positive quantity; whole, when units name what cannot be cut.
func (c *check) quantity(path, s, units string) {
	q, err := kresource.ParseQuantity(s)
	switch {
	case err != nil:
		c.add(path, "%q is not a quantity such as 4, 500m or 8Gi", s)
	case q.Sign() <= 0:
		c.add(path, "%s is not more than zero", s)
	case units != "":
		if n, ok := q.AsInt64(); !ok || n <= 0 {
			c.add(path, "%s is not a whole number of %s below 2^63", s, units)
		}
	}
}

// cidr parses a block; host bits are a fault that names the fix.
func (c *check) cidr(path, s string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		c.add(path, "%q is not a CIDR such as 10.0.0.0/24 or fd00::/64", s)
		return p, false
	}
	if p != p.Masked() {
		c.add(path, "%s has bits set behind /%d; did you mean %s?", s, p.Bits(), p.Masked())
		return p, false
	}
	return p, true
}

// address parses one address that a machine can have.
func (c *check) address(path, s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || a.Zone() != "" || a.Is4In6():
		c.add(path, "%q is not an IP address", s)
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast():
		c.add(path, "%s cannot be the address of a machine", s)
	default:
		return a, true
	}
	return a, false
}

// The IP families.
const (
	ipv4 = "IPv4"
	ipv6 = "IPv6"
)

func family(a netip.Addr) string {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
