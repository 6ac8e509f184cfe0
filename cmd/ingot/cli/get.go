package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
)

type getOptions struct {
	output   string
	watch    bool
	selector string
	all      bool
}

func (s *session) getCommand() *cobra.Command {
	var o getOptions
	cmd := &cobra.Command{
		Use:     "get KIND[,KIND] [NAME...] | KIND/NAME...",
		Short:   "List objects",
		Example: "  ingot get machines -o wide\n  ingot get machine/web -o yaml\n  ingot get machines -l app=web -w",
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := printerFor(o.output, nil); err != nil {
				return err
			}
			targets, err := parseTargets(args)
			if err != nil {
				return err
			}
			return s.get(cmd.Context(), targets, o)
		},
		ValidArgsFunction: completeKinds,
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "table", "table, wide, json, yaml or name")
	f.BoolVarP(&o.watch, "watch", "w", false, "go on printing changes")
	f.StringVarP(&o.selector, "selector", "l", "", "labels, as in app=web,tier!=db")
	f.BoolVarP(&o.all, "all-namespaces", "A", false, "of all projects")
	return cmd
}

// A target is a kind and the names wanted of it; no name means all.
type target struct {
	info  api.Info
	names []string
}

// parseTargets understands "KIND NAME...", "KIND,KIND" and "KIND/NAME...".
func parseTargets(args []string) ([]target, error) {
	if len(args) == 0 {
		return nil, usagef("which kind? `ingot explain` lists all")
	}
	if strings.Contains(args[0], "/") {
		var targets []target
		for _, arg := range args {
			kind, name, ok := strings.Cut(arg, "/")
			if !ok || name == "" {
				return nil, usagef("%q is not KIND/NAME", arg)
			}
			info, err := findKind(kind)
			if err != nil {
				return nil, err
			}
			targets = append(targets, target{info, []string{name}})
		}
		return targets, nil
	}
	var targets []target
	for _, kind := range strings.Split(args[0], ",") {
		info, err := findKind(kind)
		if err != nil {
			return nil, err
		}
		targets = append(targets, target{info, args[1:]})
	}
	return targets, nil
}

func (s *session) get(ctx context.Context, targets []target, o getOptions) error {
	selector, err := parseSelector(o.selector)
	if err != nil {
		return err
	}
	if o.watch {
		if len(targets) != 1 || len(targets[0].names) > 1 {
			return usagef("-w follows one kind, or one object")
		}
		return s.watch(ctx, targets[0], selector, o)
	}
	var errs []error
	var found []*v1alpha1.Object
	for _, t := range targets {
		objects, err := s.fetch(ctx, t, selector, o.all)
		found = append(found, objects...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(found) > 0 || len(errs) == 0 {
		named := len(targets) == 1 && len(targets[0].names) == 1
		if err := s.print(found, targets, o, named); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// fetch gets the named objects of a target, or lists all.
func (s *session) fetch(ctx context.Context, t target, selector *v1alpha1.LabelSelector, all bool) ([]*v1alpha1.Object, error) {
	conn, err := s.connect()
	if err != nil {
		return nil, err
	}
	namespace := ""
	if !all || len(t.names) > 0 {
		if namespace, err = s.project(t.info); err != nil {
			return nil, err
		}
	}
	if len(t.names) == 0 {
		return list(ctx, conn, &v1alpha1.ListRequest{Kind: string(t.info.Kind), Namespace: namespace, LabelSelector: selector})
	}
	var objects []*v1alpha1.Object
	var errs []error
	for _, name := range t.names {
		o, err := conn.Get(ctx, &v1alpha1.GetRequest{Kind: string(t.info.Kind), Namespace: namespace, Name: name})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		objects = append(objects, o)
	}
	return objects, errors.Join(errs...)
}

// list follows the pages of a list.
func list(ctx context.Context, conn *client.Client, req *v1alpha1.ListRequest) ([]*v1alpha1.Object, error) {
	var objects []*v1alpha1.Object
	for {
		page, err := conn.List(ctx, req)
		if err != nil {
			return nil, err
		}
		objects = append(objects, page.Items...)
		if page.Continue == "" {
			return objects, nil
		}
		req.Continue = page.Continue
	}
}

func (s *session) print(objects []*v1alpha1.Object, targets []target, o getOptions, named bool) error {
	if o.output == "table" || o.output == "wide" {
		if len(objects) == 0 {
			fmt.Fprintln(s.err, "nothing found")
			return nil
		}
		printed := false
		for i, t := range targets {
			var mine []*v1alpha1.Object
			for _, obj := range objects {
				if obj.Kind == string(t.info.Kind) {
					mine = append(mine, obj)
				}
			}
			if len(mine) == 0 || i > 0 && t.info.Kind == targets[i-1].info.Kind {
				continue
			}
			if printed {
				fmt.Fprintln(s.out)
			}
			printed = true
			if err := newTable(s.out, t.info, o.output == "wide", o.all, s.now).write(mine...); err != nil {
				return err
			}
		}
		return nil
	}
	p, err := printerFor(o.output, s.out)
	if err != nil {
		return err
	}
	if named && len(objects) == 1 {
		return p.one(objects[0])
	}
	return p.list(objects)
}

func (s *session) watch(ctx context.Context, t target, selector *v1alpha1.LabelSelector, o getOptions) error {
	conn, err := s.connect()
	if err != nil {
		return err
	}
	req := &v1alpha1.WatchRequest{Kind: string(t.info.Kind), LabelSelector: selector}
	if !o.all {
		if req.Namespace, err = s.project(t.info); err != nil {
			return err
		}
	}
	if len(t.names) == 1 {
		req.Name = t.names[0]
	}
	show, err := s.changePrinter(t.info, o)
	if err != nil {
		return err
	}
	watcher, err := conn.WatchObjects(ctx, req)
	if err != nil {
		return err
	}
	for {
		change, err := watcher.Next()
		switch {
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		for _, e := range change.Events {
			if err := show(e); err != nil {
				return err
			}
		}
	}
}

func (s *session) changePrinter(info api.Info, o getOptions) (func(*v1alpha1.WatchEvent) error, error) {
	if o.output == "table" || o.output == "wide" {
		t := newTable(s.out, info, o.output == "wide", o.all, s.now)
		return func(e *v1alpha1.WatchEvent) error {
			if e.Deleted {
				_, err := fmt.Fprintf(s.out, "%s deleted\n", nameOf(e.Object))
				return err
			}
			return t.write(e.Object)
		}, nil
	}
	p, err := printerFor(o.output, s.out)
	if err != nil {
		return nil, err
	}
	return func(e *v1alpha1.WatchEvent) error {
		if e.Deleted {
			return nil
		}
		return p.one(e.Object)
	}, nil
}

// parseSelector reads kubectl's label syntax.
func parseSelector(text string) (*v1alpha1.LabelSelector, error) {
	if text == "" {
		return nil, nil
	}
	parsed, err := labels.ParseToRequirements(text)
	if err != nil {
		return nil, usagef("--selector %q: %v", text, err)
	}
	selector := &v1alpha1.LabelSelector{}
	operators := map[string]string{"=": "In", "==": "In", "in": "In", "!=": "NotIn", "notin": "NotIn", "exists": "Exists", "!": "DoesNotExist"}
	for _, r := range parsed {
		op, ok := operators[string(r.Operator())]
		if !ok {
			return nil, usagef("--selector %q: %s is not served", text, r.Operator())
		}
		selector.MatchExpressions = append(selector.MatchExpressions,
			&v1alpha1.LabelRequirement{Key: r.Key(), Operator: op, Values: r.ValuesUnsorted()})
	}
	return selector, nil
}

func completeKinds(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var kinds []string
	for _, info := range api.Kinds() {
		if info.Group != "" {
			kinds = append(kinds, info.Plural)
		}
	}
	return kinds, cobra.ShellCompDirectiveNoFileComp
}
