package api

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
)

// Key is where o is stored.
func Key(o *v1alpha1.Object) resource.Key {
	return resource.Key{Kind: resource.Kind(o.GetKind()), Project: o.GetMetadata().GetNamespace(), Name: o.GetMetadata().GetName()}
}

// ToObject shows r to users; status may be nil.
func ToObject(r *resource.Resource, status proto.Message) (*v1alpha1.Object, error) {
	info, ok := Lookup(r.Kind)
	if !ok {
		return nil, fmt.Errorf("kind %q: %w", r.Kind, fault.NotFound)
	}
	o := &v1alpha1.Object{ApiVersion: info.APIVersion(), Kind: string(r.Kind), Metadata: &v1alpha1.ObjectMeta{
		Name: r.Name, Namespace: r.Project, Uid: r.UID,
		ResourceVersion: r.Revision, Generation: r.Generation,
		Labels: r.Labels, Annotations: r.Annotations,
		CreationTimestamp: timestamppb.New(r.Created),
		Terminating:       r.Phase == resource.TearingDown,
		Finalizers:        r.Finalizers, Owner: r.Owner,
	}}
	var err error
	if o.Spec, err = anypb.New(r.Spec); err != nil {
		return nil, fmt.Errorf("encode spec of %s: %w", r.Key, err)
	}
	if status != nil {
		if o.Status, err = anypb.New(status); err != nil {
			return nil, fmt.Errorf("encode status of %s: %w", r.Key, err)
		}
	}
	return o, nil
}

// FromObject is what o asks to store: key, labels, annotations, spec, and the revision that it is
// based on. What the server keeps is left out. Errors: fault.Fields.
func FromObject(o *v1alpha1.Object) (*resource.Resource, error) {
	var faults fault.Fields
	info, ok := Lookup(resource.Kind(o.GetKind()))
	if !ok || info.Group == "" {
		faults.Add("kind", "no such kind %q", o.GetKind())
		return nil, faults
	}
	if v := o.GetApiVersion(); v != "" && v != info.APIVersion() {
		faults.Add("apiVersion", "%q is not served for %s; use %q", v, info.Kind, info.APIVersion())
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return fromObject(info, o)
}

// FromHostObject is an object of a host's view as a resource; its kind may be one that users do
// not see. Errors: fault.Fields.
func FromHostObject(o *v1alpha1.Object) (*resource.Resource, error) {
	info, ok := Lookup(resource.Kind(o.GetKind()))
	if !ok {
		return nil, fault.Fields{{Path: "kind", Detail: fmt.Sprintf("no such kind %q", o.GetKind())}}
	}
	return fromObject(info, o)
}

func fromObject(info Info, o *v1alpha1.Object) (*resource.Resource, error) {
	spec := info.New()
	if o.Spec != nil {
		if err := o.Spec.UnmarshalTo(spec); err != nil {
			return nil, fault.Fields{{Path: "spec",
				Detail: fmt.Sprintf("not a %s: %v", spec.ProtoReflect().Descriptor().Name(), err)}}
		}
	}
	m := o.GetMetadata()
	return &resource.Resource{
		Meta: resource.Meta{Key: Key(o), UID: m.GetUid(), Revision: m.GetResourceVersion(),
			Labels: m.GetLabels(), Annotations: m.GetAnnotations()},
		Spec: spec,
	}, nil
}

// Spec unpacks o's spec; Status its status, or nil.
func Spec(o *v1alpha1.Object) (proto.Message, error) { return unpack(o.GetSpec()) }

// Status unpacks o's status; nil when it has none.
func Status(o *v1alpha1.Object) (proto.Message, error) { return unpack(o.GetStatus()) }

func unpack(a *anypb.Any) (proto.Message, error) {
	if a == nil {
		return nil, nil
	}
	return a.UnmarshalNew()
}
