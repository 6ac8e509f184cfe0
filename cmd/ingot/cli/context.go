package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/version"
)

// contexts is the directory of a user's context files: one NAME.yaml each, and the file "current"
// that names one.
type contexts struct{ dir string }

var contextName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func userContexts() contexts {
	dir, err := os.UserConfigDir()
	if err != nil {
		dir = "."
	}
	return contexts{filepath.Join(dir, "ingot", "contexts")}
}

func (c contexts) path(name string) string { return filepath.Join(c.dir, name+".yaml") }

func (c contexts) current() string {
	raw, err := os.ReadFile(filepath.Join(c.dir, "current"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

func (c contexts) use(name string) error {
	if _, err := os.Stat(c.path(name)); err != nil {
		return fmt.Errorf("context %q: %w; known are %s", name, fault.NotFound, strings.Join(c.names(), ", "))
	}
	return os.WriteFile(filepath.Join(c.dir, "current"), []byte(name+"\n"), 0o600)
}

func (c contexts) names() []string {
	paths, _ := filepath.Glob(c.path("*"))
	for i, p := range paths {
		paths[i] = strings.TrimSuffix(filepath.Base(p), ".yaml")
	}
	return paths
}

// contextFile is the file to use: that of --context (a name, or a path), else the current one.
func (s *session) contextFile() (string, error) {
	known := userContexts()
	name := s.context
	if strings.ContainsRune(name, os.PathSeparator) || filepath.Ext(name) == ".context" {
		return name, nil
	}
	if name == "" {
		name = known.current()
	}
	if name == "" {
		return "", usagef("no context yet: import one with `ingot context import DIR/admin.context`, or name its file with --context or INGOT_CONTEXT")
	}
	return known.path(name), nil
}

func (s *session) loadContext() (*client.Context, error) {
	path, err := s.contextFile()
	if err != nil {
		return nil, err
	}
	c, err := client.LoadContext(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("context %q: %w; known are: %s", s.context, fault.NotFound, strings.Join(userContexts().names(), ", "))
	}
	return c, err
}

func (s *session) contextCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "context", Short: "Manage the clouds that you work with"}
	cmd.AddCommand(s.contextImport(), &cobra.Command{
		Use:   "list",
		Short: "List contexts; the current one has a star",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { return s.listContexts() },
	}, &cobra.Command{
		Use:   "use NAME",
		Short: "Make a context current",
		Args:  cobra.ExactArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return userContexts().use(args[0]) },
	}, &cobra.Command{
		Use:   "set-project PROJECT",
		Short: "Set the project that commands use when none is named",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := s.contextFile()
			if err != nil {
				return err
			}
			c, err := client.LoadContext(path)
			if err != nil {
				return err
			}
			c.Project = args[0]
			return c.Save(path)
		},
	})
	return cmd
}

func (s *session) contextImport() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Add a context file that ingot-control wrote, and make it current",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := client.LoadContext(args[0])
			if err != nil {
				return err
			}
			if name == "" {
				name = c.Name
			}
			if !contextName.MatchString(name) {
				return usagef("--name %q: letters, digits, dots, dashes and underscores", name)
			}
			known := userContexts()
			if err := os.MkdirAll(known.dir, 0o700); err != nil {
				return err
			}
			c.Name = name
			if err := c.Save(known.path(name)); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "context %q is now current\n", name)
			return known.use(name)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name to give it (default: the file's own)")
	return cmd
}

func (s *session) listContexts() error {
	known := userContexts()
	current := known.current()
	for _, name := range known.names() {
		c, err := client.LoadContext(known.path(name))
		if err != nil {
			return err
		}
		star := " "
		if name == current {
			star = "*"
		}
		fmt.Fprintf(s.out, "%s %-20s %-30s %s\n", star, name, c.Server, c.Project)
	}
	return nil
}

func (s *session) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the versions of client and server",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(s.out, "client %s (%s)\n", version.String(), runtime.Version())
			conn, err := s.connect()
			if err != nil {
				return err
			}
			v, err := conn.Version(cmd.Context(), &v1alpha1.VersionRequest{})
			if err != nil {
				return err
			}
			fmt.Fprintf(s.out, "server %s (%s)\n", v.Version, v.GoVersion)
			return nil
		},
	}
}
