package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/resource"
)

func (s *session) applyCommand() *cobra.Command {
	var files []string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Create or update objects from manifests",
		Long: "apply reads YAML or JSON manifests and makes the objects so. Objects are sent in the order in which they may\n" +
			"refer to each other, whatever their order in the files. Every document is checked before the first is sent.",
		Example: "  ingot apply -f examples/two-machines/\n  ingot apply -f - < machine.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			objects, err := s.readManifests(files)
			if err != nil {
				return err
			}
			return s.apply(cmd.Context(), objects, dryRun)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "file, directory, or - for standard input; may be repeated")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "let the server check everything and change nothing")
	return cmd
}

func (s *session) apply(ctx context.Context, objects []*v1alpha1.Object, dryRun bool) error {
	conn, err := s.connect()
	if err != nil {
		return err
	}
	if err := s.fillNamespaces(objects); err != nil {
		return err
	}
	suffix := ""
	if dryRun {
		suffix = " (dry run)"
	}
	var errs []error
	for _, o := range objects {
		reply, err := conn.Apply(ctx, &v1alpha1.ApplyRequest{Object: o, DryRun: dryRun})
		if err != nil {
			err = objectError{nameOf(o), err}
			if code := exitCode(err); code == ExitUnavailable || code == ExitDenied {
				return errors.Join(append(errs, err)...)
			}
			fmt.Fprint(s.err, explainError(err))
			errs = append(errs, err)
			continue
		}
		fmt.Fprintf(s.out, "%s %s%s\n", nameOf(reply.Object), reply.Result, suffix)
	}
	if len(errs) > 0 {
		return fmt.Errorf("%d of %d objects not applied: %w", len(errs), len(objects), silenced{errs[0]})
	}
	return nil
}

// silenced keeps the class of an error that was printed already.
type silenced struct{ err error }

func (silenced) Error() string   { return "see above" }
func (e silenced) Unwrap() error { return e.err }

func nameOf(o *v1alpha1.Object) string {
	return strings.ToLower(o.Kind) + "/" + o.GetMetadata().GetName()
}

// fillNamespaces puts objects that name no project into the session's.
func (s *session) fillNamespaces(objects []*v1alpha1.Object) error {
	for _, o := range objects {
		info, ok := api.Lookup(resource.Kind(o.Kind))
		if !ok || info.Global {
			continue
		}
		if o.Metadata.Namespace != "" {
			if s.asked && o.Metadata.Namespace != s.namespace {
				return objectError{nameOf(o), usagef("its manifest says project %q, and -n says %q", o.Metadata.Namespace, s.namespace)}
			}
			continue
		}
		project, err := s.project(info)
		if err != nil {
			return objectError{nameOf(o), err}
		}
		o.Metadata.Namespace = project
	}
	return nil
}

// readManifests returns the objects of all files in the order in which they may refer to each other.
func (s *session) readManifests(files []string) ([]*v1alpha1.Object, error) {
	if len(files) == 0 {
		return nil, usagef("what to read? name it with -f FILE, -f DIR or -f -")
	}
	var objects []*v1alpha1.Object
	for _, file := range files {
		paths, err := expand(file)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			read, err := s.readManifest(path)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			objects = append(objects, read...)
		}
	}
	if len(objects) == 0 {
		return nil, usagef("no manifest in %s", strings.Join(files, ", "))
	}
	if err := refuseDuplicates(objects); err != nil {
		return nil, err
	}
	slices.SortStableFunc(objects, func(a, b *v1alpha1.Object) int { return rank(a) - rank(b) })
	return objects, nil
}

func (s *session) readManifest(path string) ([]*v1alpha1.Object, error) {
	if path == "-" {
		return api.ReadManifests(s.in)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return api.ReadManifests(io.Reader(f))
}

// expand lists the manifests of a directory, or path itself.
func expand(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".yaml", ".yml", ".json":
			paths = append(paths, filepath.Join(path, e.Name()))
		}
	}
	if len(paths) == 0 {
		return nil, usagef("no .yaml, .yml or .json file in %s", path)
	}
	return paths, nil
}

func refuseDuplicates(objects []*v1alpha1.Object) error {
	seen := map[resource.Key]bool{}
	for _, o := range objects {
		key := api.Key(o)
		if seen[key] {
			return objectError{nameOf(o), usagef("defined twice in what is applied; one name is one object")}
		}
		seen[key] = true
	}
	return nil
}

func rank(o *v1alpha1.Object) int {
	return slices.IndexFunc(api.Kinds(), func(i api.Info) bool { return string(i.Kind) == o.Kind })
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments, got %q", cmd.CommandPath(), args)
	}
	return nil
}
