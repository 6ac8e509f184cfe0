package server

import (
	"fmt"
	"maps"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
)

// keepSetOnce copies what may be set only once from old to next when next does not have it.
func keepSetOnce(old, next proto.Message) {
	switch next := next.(type) {
	case *v1alpha1.MachineSpec:
		if next.MachinePoolRef == nil {
			next.MachinePoolRef = old.(*v1alpha1.MachineSpec).MachinePoolRef
		}
	case *v1alpha1.MachinePoolSpec:
		if next.ProviderId == "" {
			next.ProviderId = old.(*v1alpha1.MachinePoolSpec).ProviderId
		}
	case *v1alpha1.NetworkSpec:
		if next.ProviderId == "" {
			next.ProviderId = old.(*v1alpha1.NetworkSpec).ProviderId
		}
	case *v1alpha1.NetworkInterfaceSpec:
		if next.MachineRef == nil {
			next.MachineRef = old.(*v1alpha1.NetworkInterfaceSpec).MachineRef
		}
	}
}

// applyMask copies the parts of want that paths name to next, which the caller owns. Paths are
// metadata.labels, metadata.labels.<key>, the same for annotations, spec, and fields below spec by
// their proto or JSON names. No paths are all three.
func applyMask(next, want *resource.Resource, paths []string) error {
	if len(paths) == 0 {
		paths = []string{"metadata.labels", "metadata.annotations", "spec"}
	}
	var faults fault.Fields
	for i, path := range paths {
		head, rest, _ := strings.Cut(path, ".")
		var err error
		switch {
		case path == "spec":
			next.Spec = proto.Clone(want.Spec)
		case head == "spec":
			err = copyField(next.Spec.ProtoReflect(), want.Spec.ProtoReflect(), strings.Split(rest, "."))
		case head == "metadata":
			err = copyMeta(next, want, rest)
		default:
			err = fmt.Errorf("%q is neither below metadata nor below spec", path)
		}
		if err != nil {
			faults.Add(fmt.Sprintf("mask.paths[%d]", i), "%v", err)
		}
	}
	return faults.Err()
}

func copyMeta(next, want *resource.Resource, path string) error {
	which, key, one := strings.Cut(path, ".")
	var to *map[string]string
	var from map[string]string
	switch which {
	case "labels":
		to, from = &next.Labels, want.Labels
	case "annotations":
		to, from = &next.Annotations, want.Annotations
	default:
		return fmt.Errorf("metadata.%s cannot be changed", path)
	}
	if !one {
		*to = maps.Clone(from)
		return nil
	}
	if *to == nil {
		*to = map[string]string{}
	}
	if v, ok := from[key]; ok {
		(*to)[key] = v
	} else {
		delete(*to, key)
	}
	return nil
}

// copyField sets one field, found by its path through messages; an absent one is cleared.
func copyField(to, from protoreflect.Message, path []string) error {
	fields := to.Descriptor().Fields()
	fd := fields.ByName(protoreflect.Name(path[0]))
	if fd == nil {
		fd = fields.ByJSONName(path[0])
	}
	if fd == nil {
		return fmt.Errorf("%s has no field %q", to.Descriptor().Name(), path[0])
	}
	if len(path) > 1 {
		if fd.IsList() || fd.IsMap() || fd.Message() == nil {
			return fmt.Errorf("field %q has no parts of its own; name it as a whole", path[0])
		}
		return copyField(to.Mutable(fd).Message(), from.Get(fd).Message(), path[1:])
	}
	if !from.Has(fd) {
		to.Clear(fd)
		return nil
	}
	to.Set(fd, proto.Clone(from.Interface()).ProtoReflect().Get(fd))
	return nil
}
