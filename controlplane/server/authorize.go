package server

import (
	"context"
	"fmt"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
)

// verb is what a caller wants to do with objects of a kind.
type verb string

const (
	read  verb = "read"
	write verb = "write"
)

// authorize returns what is known of the kind when the caller may do verb to it in project ("" is
// every project, or none for kinds outside projects).
func authorize(ctx context.Context, v verb, kind, project string) (api.Info, error) {
	id := caller(ctx)
	if id.Role == pki.Host {
		return api.Info{}, because("HostDenied", "%s may not %s objects: hosts use HostService only: %w", id, v, fault.Denied)
	}
	info, ok := api.Lookup(resource.Kind(kind))
	if !ok {
		return api.Info{}, fault.Fields{{Path: "kind", Detail: fmt.Sprintf("no such kind %q", kind)}}
	}
	if info.Group == "" {
		return api.Info{}, because("ControllerOwned", "%s objects are owned by controllers and are part of the status of others; users neither read nor write them: %w",
			kind, fault.Denied)
	}
	if v == write && info.ReadOnly {
		return api.Info{}, because("ReadOnly", "%s objects are written by the server only: %w", kind, fault.Denied)
	}
	if info.Global && project != "" {
		return api.Info{}, fault.Fields{{Path: "metadata.namespace", Detail: fmt.Sprintf("%s objects are outside projects; leave it empty", kind)}}
	}
	if id.Role == pki.Admin {
		return info, nil
	}
	return info, authorizeMember(id, v, info, project)
}

// authorizeMember lets a member work in the own project, and read the classes of machines.
func authorizeMember(id pki.Identity, v verb, info api.Info, project string) error {
	switch {
	case !info.Global && project == id.Project:
		return nil
	case !info.Global && project == "":
		return because("ProjectRequired", "%s sees project %q only; name it: %w", id, id.Project, fault.Denied)
	case !info.Global:
		return because("OtherProject", "%s may not %s objects of project %q: %w", id, v, project, fault.Denied)
	case info.Kind == api.MachineClass && v == read:
		return nil
	}
	return because("AdminsOnly", "%s may not %s %s objects: only admins may: %w", id, v, info.Kind, fault.Denied)
}

// authorizeNew keeps members from naming the VNI of a new network: it could be one of the fabric's
// own, whose routes and packets they would get.
func authorizeNew(id pki.Identity, r *resource.Resource) error {
	spec, ok := r.Spec.(*v1alpha1.NetworkSpec)
	if !ok || id.Role == pki.Admin || spec.ProviderId == "" {
		return nil
	}
	return because("AdminsOnly", "%s may not choose the VNI of %s: only admins may; leave out spec.providerID and the server chooses: %w",
		id, r.Key, fault.Denied)
}
