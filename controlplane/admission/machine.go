package admission

import (
	"errors"
	"regexp"
	"strings"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/machine"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// device is what disks may be called.
var device = regexp.MustCompile(`^[a-z]{2}[a-z][a-z]?$`)

func (c *check) machine(spec *v1alpha1.MachineSpec) error {
	if spec.Power == "" {
		spec.Power = "On"
	}
	c.oneOf("spec.power", spec.Power, "On", "Off")
	c.labels("spec.machinePoolSelector", spec.MachinePoolSelector)
	if spec.MachinePoolRef != nil {
		c.ref("spec.machinePoolRef", spec.MachinePoolRef)
	}
	if host := spec.GetGuestConfig().GetHostname(); host != "" {
		c.label("spec.guestConfig.hostname", host)
	}
	if ref := spec.IgnitionRef; ref != nil {
		c.label("spec.ignitionRef.name", ref.Name)
		if ref.Key == "" {
			ref.Key = machine.DefaultIgnitionKey
		}
		if !secretKey.MatchString(ref.Key) {
			c.add("spec.ignitionRef.key", "%q cannot be the key of a secret", ref.Key)
		}
	}
	c.tolerations(spec.Tolerations)
	c.volumes(spec)
	c.interfaces(spec)
	c.machineUpdate(spec)
	if err := c.class(spec); err != nil {
		return err
	}
	return c.interfacesFree(spec)
}

// class checks that the machine's class is there when the machine is made.
func (c *check) class(spec *v1alpha1.MachineSpec) error {
	name := spec.GetMachineClassRef().GetName()
	if !isLabel(name) {
		c.ref("spec.machineClassRef", spec.MachineClassRef)
		return nil
	}
	if c.old != nil {
		return nil
	}
	_, err := c.reader.Get(c.ctx, resource.Key{Kind: api.MachineClass, Name: name})
	if !errors.Is(err, fault.NotFound) {
		return err
	}
	existing, err := c.names(store.Query{Kind: api.MachineClass})
	if err != nil {
		return err
	}
	c.add("spec.machineClassRef.name", "no MachineClass %q; existing: %s", name, existing)
	return nil
}

// machineUpdate checks what cannot change once the machine was made.
func (c *check) machineUpdate(spec *v1alpha1.MachineSpec) {
	old := was[*v1alpha1.MachineSpec](c)
	if old == nil {
		return
	}
	if !proto.Equal(old.MachineClassRef, spec.MachineClassRef) {
		c.add("spec.machineClassRef", "cannot be changed from %q", old.GetMachineClassRef().GetName())
	}
	if old.MachinePoolRef != nil && !proto.Equal(old.MachinePoolRef, spec.MachinePoolRef) {
		c.add("spec.machinePoolRef", "can be set once; it is %q", old.MachinePoolRef.Name)
	}
	if old.GetGuestConfig().GetHostname() != spec.GetGuestConfig().GetHostname() {
		c.add("spec.guestConfig.hostname", "cannot be changed from %q", old.GetGuestConfig().GetHostname())
	}
	if !proto.Equal(old.IgnitionRef, spec.IgnitionRef) {
		c.add("spec.ignitionRef", "cannot be changed: the guest reads it when it is made")
	}
	if old.Image != spec.Image {
		c.add("spec.image", "cannot be changed from %q", old.Image)
	}
	const fixed = "cannot be changed: this version attaches and detaches nothing to a machine that exists"
	if !equal(old.NetworkInterfaces, spec.NetworkInterfaces) {
		c.add("spec.networkInterfaces", fixed)
	}
	if !equal(old.Volumes, spec.Volumes) {
		c.add("spec.volumes", fixed)
	}
}

func equal[T proto.Message](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !proto.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func (c *check) tolerations(list []*v1alpha1.Toleration) {
	for i, t := range list {
		at := index("spec.tolerations", i)
		if t.Operator == "" {
			t.Operator = "Equal"
		}
		c.oneOf(at+".operator", t.Operator, "Equal", "Exists")
		if t.Effect != "" {
			c.oneOf(at+".effect", t.Effect, "NoSchedule", "NoExecute")
		}
		switch {
		case t.Key != "":
			c.labelKey(at+".key", t.Key)
		case t.Operator != "Exists":
			c.add(at+".key", "required, but with operator Exists")
		}
		if t.Operator == "Exists" && t.Value != "" {
			c.add(at+".value", "operator Exists takes none")
		}
	}
}

func (c *check) volumes(spec *v1alpha1.MachineSpec) {
	names, devices := seen{}, seen{}
	c.image("spec.image", spec.Image)
	n := len(spec.Volumes)
	if spec.Image != "" {
		n++
	}
	if n > machine.MaxVolumes {
		c.add("spec.volumes", "%d disks; a machine has %d at most", n, machine.MaxVolumes)
	}
	for i, v := range spec.Volumes {
		at := index("spec.volumes", i)
		c.label(at+".name", v.Name)
		c.unique(names, at+".name", v.Name)
		if v.Name == machine.RootVolume && spec.Image != "" {
			c.add(at+".name", "spec.image already stands for a volume %q; leave out one of them", machine.RootVolume)
		}
		if v.Device != "" {
			if !device.MatchString(v.Device) {
				c.add(at+".device", "%q does not match %s; want oda, odb, ...", v.Device, device)
			}
			c.unique(devices, at+".device", v.Device)
		}
		switch {
		case (v.LocalDisk == nil) == (v.EmptyDisk == nil):
			c.add(at, "want exactly one of localDisk and emptyDisk")
			continue
		case v.EmptyDisk.GetImage() != "":
			c.add(at+".emptyDisk.image", "an empty disk has no image; use localDisk")
		}
		c.disk(at+".localDisk", v.LocalDisk)
		c.disk(at+".emptyDisk", v.EmptyDisk)
	}
}

func (c *check) disk(path string, d *v1alpha1.LocalDisk) {
	if d.GetSizeLimit() != "" {
		c.quantity(path+".sizeLimit", d.SizeLimit, "bytes")
	}
	c.image(path+".image", d.GetImage())
}

// image checks the form of an image's name; whether there is one is found out by the host.
func (c *check) image(path, name string) {
	const layout = "oci-layout:"
	switch {
	case name == "":
	case strings.ContainsAny(name, " \t\r\n"):
		c.add(path, "%q has white space", name)
	case strings.HasPrefix(name, layout):
		dir, tag := name[len(layout):], strings.LastIndexByte(name, ':')
		if !strings.HasPrefix(dir, "/") || tag < len(layout) || tag == len(name)-1 || strings.Contains(dir, "/../") {
			c.add(path, "%q is not of the form oci-layout:/absolute/dir:tag", name)
		}
	case !strings.Contains(name, "/"):
		c.add(path, "%q is not of the form registry/name:tag", name)
	}
}

func (c *check) interfaces(spec *v1alpha1.MachineSpec) {
	names, objects := seen{}, seen{}
	for i, nic := range spec.NetworkInterfaces {
		at := index("spec.networkInterfaces", i)
		c.label(at+".name", nic.Name)
		c.unique(names, at+".name", nic.Name)
		object := api.InterfaceName(c.next.Name, nic)
		switch {
		case (nic.NetworkInterfaceRef == nil) == (nic.Ephemeral == nil):
			c.add(at, "want exactly one of networkInterfaceRef and ephemeral")
			continue
		case nic.NetworkInterfaceRef != nil:
			c.ref(at+".networkInterfaceRef", nic.NetworkInterfaceRef)
		default:
			if isLabel(c.next.Name) && isLabel(nic.Name) && !isLabel(object) {
				c.add(at+".name", "the interface would be called %q, which is longer than %d", object, maxLabel)
			}
			template := nic.Ephemeral.NetworkInterfaceTemplate
			at += ".ephemeral.networkInterfaceTemplate"
			if template.GetSpec() == nil {
				c.add(at+".spec", "required")
				continue
			}
			c.labels(at+".metadata.labels", template.GetMetadata().GetLabels())
			c.networkInterface(at+".spec", template.Spec)
			if template.Spec.MachineRef != nil {
				c.add(at+".spec.machineRef", "is set by the server")
			}
		}
		if names[nic.Name] == 1 {
			c.unique(objects, index("spec.networkInterfaces", i), object)
		}
	}
}

// interfacesFree checks that no other machine uses an interface of this one.
func (c *check) interfacesFree(spec *v1alpha1.MachineSpec) error {
	for i, name := range api.InterfaceNames(c.next.Name, spec) {
		if c.old != nil || name == "" {
			break
		}
		page, err := c.reader.List(c.ctx, store.Query{Kind: api.Machine, Project: c.next.Project, Index: api.ByInterface, Value: name})
		if err != nil {
			return err
		}
		for _, m := range page.Items {
			if m.Name != c.next.Name {
				c.add(index("spec.networkInterfaces", i), "NetworkInterface %q is used by Machine %q", name, m.Name)
			}
		}
	}
	return nil
}

// seen counts names.
type seen map[string]int

// unique notes a fault when s was seen before.
func (c *check) unique(s seen, path, name string) {
	if s[name]++; s[name] > 1 && name != "" {
		c.add(path, "duplicate %q", name)
	}
}
