package admission

import (
	"context"
	"fmt"
	"strings"

	"ingot/controlplane/api"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// admitDelete refuses to delete what is in use.
func (a *Admission) admitDelete(ctx context.Context, r *resource.Resource) error {
	var users store.Query
	switch r.Kind {
	case api.Project:
		return a.emptyProject(ctx, r.Name)
	case api.MachineClass:
		users = store.Query{Kind: api.Machine, Index: api.ByClass, Value: r.Name}
	case api.MachinePool:
		users = store.Query{Kind: api.MachinePlacement, Index: api.ByPool, Value: r.Name}
	case api.Network:
		users = store.Query{Kind: api.NetworkInterface, Project: r.Project, Index: api.ByNetwork, Value: r.Name}
	case api.NetworkInterface:
		users = store.Query{Kind: api.Machine, Project: r.Project, Index: api.ByInterface, Value: r.Name}
	default:
		return nil
	}
	page, err := a.reader.List(ctx, users)
	if err != nil || len(page.Items) == 0 {
		return err
	}
	names := make([]string, len(page.Items))
	for i, u := range page.Items {
		names[i] = u.Name
		if r.Project == "" {
			names[i] = u.Project + "/" + u.Name
		}
	}
	kind := users.Kind
	if kind == api.MachinePlacement { // users know it as the machine that is placed
		kind = api.Machine
	}
	return fmt.Errorf("delete %s: it is in use by %s %s: %w", r.Key, kind, some(names), fault.Precondition)
}

// emptyProject refuses to delete a project while objects of users, or made for them, are left.
func (a *Admission) emptyProject(ctx context.Context, project string) error {
	var left []string
	for _, info := range api.Kinds() {
		if info.Global || info.Group == "" || info.ReadOnly {
			continue
		}
		names, err := a.namesOf(ctx, store.Query{Kind: info.Kind, Project: project})
		if err != nil {
			return err
		}
		if len(names) > 0 {
			left = append(left, fmt.Sprintf("%d %s (%s)", len(names), info.Plural, some(names)))
		}
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("delete Project/%s: it still holds %s: %w", project, strings.Join(left, ", "), fault.Precondition)
}
