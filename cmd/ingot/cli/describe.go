package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
)

func (s *session) describeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "describe KIND/NAME... | KIND NAME...",
		Short:   "Show everything about objects: what they wait for, and their events",
		Example: "  ingot describe machine/web",
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := parseTargets(args)
			if err != nil {
				return err
			}
			for _, t := range targets {
				objects, err := s.fetch(cmd.Context(), t, nil, false)
				if err != nil {
					return err
				}
				for _, o := range objects {
					if err := s.describe(cmd.Context(), o); err != nil {
						return err
					}
				}
			}
			return nil
		},
		ValidArgsFunction: completeKinds,
	}
}

func (s *session) describe(ctx context.Context, o *v1alpha1.Object) error {
	tree, err := api.Tree(o)
	if err != nil {
		return err
	}
	conditions := conditionsOf(tree)
	if status, ok := tree["status"].(map[string]any); ok {
		delete(status, "conditions")
	}
	for _, part := range []string{"kind", "metadata", "spec", "status"} {
		if tree[part] == nil {
			continue
		}
		raw, err := yaml.Marshal(map[string]any{part: tree[part]})
		if err != nil {
			return err
		}
		fmt.Fprint(s.out, string(raw))
		delete(tree, part)
	}
	delete(tree, "apiVersion")
	if len(tree) > 0 {
		raw, err := yaml.Marshal(tree)
		if err != nil {
			return err
		}
		fmt.Fprint(s.out, string(raw))
	}
	if len(conditions) > 0 {
		fmt.Fprintln(s.out, "conditions:")
		for _, c := range conditions {
			fmt.Fprintf(s.out, "  %-12s %-7s %-18s %s\n", at("type")(c), at("status")(c), at("reason")(c), at("message")(c))
		}
	}
	events, err := s.eventsOf(ctx, o)
	if err != nil {
		return err
	}
	if len(events) > 0 {
		fmt.Fprintln(s.out, "events:")
		info, _ := api.Lookup(api.Event)
		return newTable(indent{s.out}, info, false, false, s.now).write(events...)
	}
	return nil
}

func (s *session) eventsOf(ctx context.Context, o *v1alpha1.Object) ([]*v1alpha1.Object, error) {
	conn, err := s.connect()
	if err != nil {
		return nil, err
	}
	all, err := list(ctx, conn, &v1alpha1.ListRequest{Kind: string(api.Event), Namespace: o.Metadata.Namespace})
	if err != nil {
		return nil, err
	}
	var mine []*v1alpha1.Object
	for _, e := range all {
		if spec, err := api.Spec(e); err == nil && spec.(*v1alpha1.EventSpec).GetInvolvedObject().GetUid() == o.Metadata.Uid {
			mine = append(mine, e)
		}
	}
	sortEvents(mine)
	return mine, nil
}

// sortEvents puts the oldest first.
func sortEvents(events []*v1alpha1.Object) {
	last := func(o *v1alpha1.Object) int64 {
		spec, err := api.Spec(o)
		if err != nil {
			return 0
		}
		return spec.(*v1alpha1.EventSpec).GetLastTimestamp().AsTime().UnixNano()
	}
	slices.SortStableFunc(events, func(a, b *v1alpha1.Object) int {
		switch x, y := last(a), last(b); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return strings.Compare(a.Metadata.Name, b.Metadata.Name)
	})
}

func (s *session) eventsCommand() *cobra.Command {
	var about string
	var o getOptions
	cmd := &cobra.Command{
		Use:     "events",
		Short:   "Show what happened, the latest last",
		Example: "  ingot events --for machine/web\n  ingot events -w",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, _ := api.Lookup(api.Event)
			if about != "" {
				return s.eventsAbout(cmd.Context(), about, info)
			}
			o.output = "table"
			t := target{info: info}
			if o.watch {
				return s.watch(cmd.Context(), t, nil, o)
			}
			events, err := s.fetch(cmd.Context(), t, nil, o.all)
			if err != nil {
				return err
			}
			sortEvents(events)
			return s.print(events, []target{t}, o, false)
		},
	}
	cmd.Flags().StringVar(&about, "for", "", "only of this object: KIND/NAME")
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "go on printing")
	cmd.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "of all projects")
	return cmd
}

func (s *session) eventsAbout(ctx context.Context, about string, info api.Info) error {
	targets, err := parseTargets([]string{about})
	if err != nil {
		return err
	}
	objects, err := s.fetch(ctx, targets[0], nil, false)
	if err != nil {
		return err
	}
	events, err := s.eventsOf(ctx, objects[0])
	if err != nil {
		return err
	}
	return s.print(events, []target{{info: info}}, getOptions{output: "table"}, false)
}

// indent writes lines two columns further right.
type indent struct {
	w interface{ Write([]byte) (int, error) }
}

func (i indent) Write(p []byte) (int, error) {
	if _, err := fmt.Fprintf(i.w, "  %s", p); err != nil {
		return 0, err
	}
	return len(p), nil
}
