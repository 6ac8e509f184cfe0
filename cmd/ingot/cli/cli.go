// Package cli is the operator's command line: kubectl's habits over the gRPC API. It keeps no
// state but the file of contexts, and prints nothing that the server did not say.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/runtime/version"
)

// A session is one run of the command line.
type session struct {
	in       io.Reader
	out, err io.Writer
	now      func() time.Time

	context   string
	namespace string
	asked     bool // namespace is of the command line, not of the context

	client *client.Client
}

// Run executes args and returns the exit code (see the Exit constants).
func Run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	s := &session{in: in, out: out, err: errOut, now: time.Now}
	root := s.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if s.client != nil {
		err = errors.Join(err, s.client.Close())
	}
	if err == nil {
		return ExitOK
	}
	fmt.Fprint(errOut, explainError(err))
	return exitCode(err)
}

func (s *session) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ingot",
		Short: "Run a cloud of bare-metal hypervisors",
		Long: "ingot talks to the control plane of an Ingot cloud.\n\n" +
			"Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the server refuses the input, 4 not found,\n" +
			"5 exists already or changed meanwhile, 6 not allowed, 7 server away, 8 waited in vain.",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVar(&s.context, "context", os.Getenv("INGOT_CONTEXT"), "context to use instead of the current one: a name, or the path of a context file")
	flags.StringVarP(&s.namespace, "namespace", "n", "", "project (default: the context's)")
	root.AddCommand(
		s.applyCommand(), s.getCommand(), s.describeCommand(), s.deleteCommand(), s.waitCommand(),
		s.eventsCommand(), s.explainCommand(), s.contextCommand(), s.versionCommand(),
	)
	return root
}

// connect dials the chosen context once.
func (s *session) connect() (*client.Client, error) {
	if s.client == nil {
		c, err := s.loadContext()
		if err != nil {
			return nil, err
		}
		s.asked = s.namespace != ""
		if !s.asked {
			s.namespace = c.Project
		}
		if s.client, err = client.Dial(c); err != nil {
			return nil, err
		}
	}
	return s.client, nil
}

// project is the namespace for a kind: none for global kinds.
func (s *session) project(info api.Info) (string, error) {
	if info.Global {
		return "", nil
	}
	if s.namespace == "" {
		return "", usagef("%s live in projects: name one with -n PROJECT, or set the context's with `ingot context set-project PROJECT`", info.Plural)
	}
	return s.namespace, nil
}

func findKind(name string) (api.Info, error) {
	info, ok := api.Find(name)
	if !ok {
		return api.Info{}, usagef("no such kind %q; `ingot explain` lists all", name)
	}
	return info, nil
}
