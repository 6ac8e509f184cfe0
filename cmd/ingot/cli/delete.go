package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
)

func (s *session) deleteCommand() *cobra.Command {
	var files []string
	var wait, ignoreMissing bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     "delete KIND/NAME... | KIND NAME... | -f FILE",
		Short:   "Delete objects, and wait until they are gone",
		Example: "  ingot delete machine/web\n  ingot delete -f examples/two-machines/",
		RunE: func(cmd *cobra.Command, args []string) error {
			requests, err := s.deletions(args, files)
			if err != nil {
				return err
			}
			return s.delete(cmd.Context(), requests, wait, ignoreMissing || len(files) > 0, timeout)
		},
		ValidArgsFunction: completeKinds,
	}
	f := cmd.Flags()
	f.StringArrayVarP(&files, "filename", "f", nil, "delete the objects of these manifests, users of others first")
	f.BoolVar(&wait, "wait", true, "return when the objects are gone")
	f.BoolVar(&ignoreMissing, "ignore-not-found", false, "an object that is not there is deleted already (always so with -f)")
	f.DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for each")
	return cmd
}

func (s *session) deletions(args, files []string) ([]*v1alpha1.DeleteRequest, error) {
	if len(files) > 0 {
		if len(args) > 0 {
			return nil, usagef("name objects or files, not both")
		}
		return s.deletionsOf(files)
	}
	targets, err := parseTargets(args)
	if err != nil {
		return nil, err
	}
	if _, err := s.connect(); err != nil {
		return nil, err
	}
	var requests []*v1alpha1.DeleteRequest
	for _, t := range targets {
		if len(t.names) == 0 {
			return nil, usagef("which %s? delete takes names", t.info.Plural)
		}
		namespace, err := s.project(t.info)
		if err != nil {
			return nil, err
		}
		for _, name := range t.names {
			requests = append(requests, &v1alpha1.DeleteRequest{Kind: string(t.info.Kind), Namespace: namespace, Name: name})
		}
	}
	return requests, nil
}

// deletionsOf are those of all objects in files; what refers to others goes first.
func (s *session) deletionsOf(files []string) ([]*v1alpha1.DeleteRequest, error) {
	objects, err := s.readManifests(files)
	if err != nil {
		return nil, err
	}
	if _, err := s.connect(); err != nil {
		return nil, err
	}
	if err := s.fillNamespaces(objects); err != nil {
		return nil, err
	}
	slices.Reverse(objects)
	slices.SortStableFunc(objects, func(a, b *v1alpha1.Object) int { return teardownRank(a) - teardownRank(b) })
	var requests []*v1alpha1.DeleteRequest
	for _, o := range objects {
		requests = append(requests, &v1alpha1.DeleteRequest{Kind: o.Kind, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name})
	}
	return requests, nil
}

// teardownRank puts users of things before the things: machines first, classes and projects last.
func teardownRank(o *v1alpha1.Object) int {
	switch o.Kind {
	case "Machine":
		return 0
	case "MachineClass":
		return 2
	case "Project":
		return 3
	}
	return 1
}

func (s *session) delete(ctx context.Context, requests []*v1alpha1.DeleteRequest, wait, ignoreMissing bool, timeout time.Duration) error {
	conn, err := s.connect()
	if err != nil {
		return err
	}
	var errs []error
	for i, req := range requests {
		name := nameOf(&v1alpha1.Object{Kind: req.Kind, Metadata: &v1alpha1.ObjectMeta{Name: req.Name}})
		if ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("interrupted: not deleted are %s, and %d more", name, len(requests)-i-1))
			break
		}
		o, err := conn.Delete(ctx, req)
		if ignoreMissing && errors.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			errs = append(errs, objectError{name, err})
			continue
		}
		word := "is being deleted"
		if wait {
			word = "deleted"
			if err := s.waitGone(ctx, conn, req, o.GetMetadata().GetUid(), timeout); err != nil {
				errs = append(errs, objectError{name, err})
				continue
			}
		}
		fmt.Fprintf(s.out, "%s %s\n", name, word)
	}
	return errors.Join(errs...)
}
