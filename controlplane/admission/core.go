package admission

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api/v1alpha1"
)

var secretKey = regexp.MustCompile(`^[-._a-zA-Z0-9]{1,253}$`)

const (
	maxSecret = 512 << 10 // bytes, all keys together
	// maxTokenLife is how long a join token may be good.
	maxTokenLife = 30 * 24 * time.Hour
)

// immutable notes a fault when spec is not what it was. Path is that of the spec's fields.
func (c *check) immutable(path string) {
	if c.old != nil && !proto.Equal(c.old.Spec, c.next.Spec) {
		c.add(path, "a %s cannot be changed; make another one", c.next.Kind)
	}
}

// secret turns text into bytes. Empty data keeps what is stored: lists show secrets so, and writing
// back what a list showed must not wipe them.
func (c *check) secret(spec *v1alpha1.SecretSpec) {
	if spec.Data == nil {
		spec.Data = map[string][]byte{}
	}
	if c.old != nil {
		stored := c.old.Spec.(*v1alpha1.SecretSpec).Data
		for key, value := range spec.Data {
			if len(value) == 0 && stored[key] != nil {
				spec.Data[key] = slices.Clone(stored[key])
			}
		}
	}
	for key, text := range spec.StringData {
		spec.Data[key] = []byte(text)
	}
	spec.StringData = nil
	size := 0
	for key, value := range spec.Data {
		if !secretKey.MatchString(key) {
			c.add("data", "key %q: want letters, digits, -, _ and .", key)
		}
		size += len(value)
	}
	if size > maxSecret {
		c.add("data", "%d bytes; at most %d are kept", size, maxSecret)
	}
}

func (c *check) joinToken(spec *v1alpha1.JoinTokenSpec) {
	c.label("spec.host", spec.Host)
	if len(spec.SecretHash) != 32 {
		c.add("spec.secretHash", "want the 32 bytes of a SHA-256, got %d", len(spec.SecretHash))
	}
	if c.old != nil {
		c.immutable("spec")
		return
	}
	left := time.Until(spec.Expires.AsTime())
	if spec.Expires == nil || left <= 0 {
		c.add("spec.expires", "required, and in the future")
	} else if left > maxTokenLife {
		c.add("spec.expires", "more than %d days ahead", int(maxTokenLife.Hours()/24))
	}
}

func (c *check) machineClass(spec *v1alpha1.MachineClassSpec) {
	units := map[string]string{"cpu": "cores", "memory": "bytes"}
	for _, name := range []string{"cpu", "memory"} {
		if _, ok := spec.Capabilities[name]; !ok {
			c.add("capabilities."+name, "required")
		}
	}
	for name, value := range spec.Capabilities {
		at := "capabilities." + name
		if name == "" || len(name) > maxPrefix {
			c.add("capabilities", "a capability needs a name of at most %d bytes", maxPrefix)
		}
		c.quantity(at, value, units[name])
	}
	c.immutable("capabilities")
}

func (c *check) machinePool(spec *v1alpha1.MachinePoolSpec) {
	var seen []string
	for i, t := range spec.Taints {
		at := index("spec.taints", i)
		c.labelKey(at+".key", t.Key)
		c.labelValue(at+".value", t.Value)
		c.oneOf(at+".effect", t.Effect, "NoSchedule", "NoExecute")
		id := fmt.Sprintf("%s:%s", t.Key, t.Effect)
		if slices.Contains(seen, id) {
			c.add(at, "key %q has effect %s twice", t.Key, t.Effect)
		}
		seen = append(seen, id)
	}
	if old := was[*v1alpha1.MachinePoolSpec](c); old.GetProviderId() != "" && old.ProviderId != spec.ProviderId {
		c.add("spec.providerID", "cannot be changed from %q", old.ProviderId)
	}
}

// was is the spec before an update; nil for a creation.
func was[T proto.Message](c *check) T {
	var none T
	if c.old == nil {
		return none
	}
	return c.old.Spec.(T)
}
