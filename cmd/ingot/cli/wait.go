package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
)

func (s *session) waitCommand() *cobra.Command {
	var what string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait KIND/NAME... --for=STATE|condition=TYPE[=STATUS]|delete",
		Short: "Wait until objects are in a state",
		Long: "wait returns when every object is in the state, and fails when the time is over. STATE is compared with\n" +
			"status.state (or status.phase), as in --for=Running.",
		Example: "  ingot wait machine/web machine/db --for=Running\n  ingot wait machine/web --for=delete",
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := parseTargets(args)
			if err != nil {
				return err
			}
			holds, err := parseCondition(what)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, errTimeout)
			defer cancel()
			for _, t := range targets {
				if len(t.names) == 0 {
					return usagef("which %s? wait takes names", t.info.Plural)
				}
				for _, name := range t.names {
					if err := s.wait(ctx, t.info, name, what, holds); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&what, "for", "", "what to wait for (required)")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long, for all together")
	return cmd
}

// A test decides on an object; nil is one that is gone.
type test func(tree map[string]any) bool

func parseCondition(what string) (test, error) {
	head, rest, _ := strings.Cut(what, "=")
	switch {
	case what == "":
		return nil, usagef("--for is required: a state such as Running, condition=TYPE, or delete")
	case what == "delete":
		return func(tree map[string]any) bool { return tree == nil }, nil
	case head == "condition":
		kind, want, ok := strings.Cut(rest, "=")
		if !ok {
			want = "True"
		}
		return func(tree map[string]any) bool {
			for _, c := range conditionsOf(tree) {
				if strings.EqualFold(at("type")(c), kind) && strings.EqualFold(at("status")(c), want) {
					return true
				}
			}
			return false
		}, nil
	case rest != "":
		return nil, usagef("--for=%s: use a state such as Running, condition=TYPE, or delete", what)
	}
	return func(tree map[string]any) bool {
		return tree != nil && strings.EqualFold(either("status.state", "status.phase")(tree), what)
	}, nil
}

func conditionsOf(tree map[string]any) []map[string]any {
	status, _ := tree["status"].(map[string]any)
	list, _ := status["conditions"].([]any)
	conditions := make([]map[string]any, 0, len(list))
	for _, c := range list {
		if c, ok := c.(map[string]any); ok {
			conditions = append(conditions, c)
		}
	}
	return conditions
}

func (s *session) wait(ctx context.Context, info api.Info, name, what string, holds test) error {
	conn, err := s.connect()
	if err != nil {
		return err
	}
	namespace, err := s.project(info)
	if err != nil {
		return err
	}
	req := &v1alpha1.WatchRequest{Kind: string(info.Kind), Namespace: namespace, Name: name}
	last, err := follow(ctx, conn, req, holds)
	label := strings.ToLower(string(info.Kind)) + "/" + name
	if err != nil {
		if timedOut(ctx, err) {
			return fmt.Errorf("%s: %w waiting for %s; %s", label, errTimeout, what, lastSeen(last))
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted; %s", lastSeen(last))
		}
		return objectError{label, err}
	}
	fmt.Fprintf(s.out, "%s: %s\n", label, what)
	return nil
}

// timedOut tells whether err came of the wait's own end. The stream may notice it before ctx does.
func timedOut(ctx context.Context, err error) bool {
	deadline, ok := ctx.Deadline()
	return ok && (errors.Is(context.Cause(ctx), errTimeout) || !time.Now().Before(deadline) || status.Code(err) == codes.DeadlineExceeded)
}

func lastSeen(tree map[string]any) string {
	if tree == nil {
		return "there is no such object"
	}
	text := "it is " + either("status.state", "status.phase")(tree)
	if waits := waitsFor(tree); waits != "-" {
		text += ": " + waits
	}
	return text
}

// follow watches one object until holds; it returns the last state seen.
func follow(ctx context.Context, conn *client.Client, req *v1alpha1.WatchRequest, holds test) (map[string]any, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watcher, err := conn.WatchObjects(ctx, req)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	for {
		change, err := watcher.Next()
		if err != nil {
			return tree, err
		}
		if change.Reset {
			tree = nil
		}
		for _, e := range change.Events {
			tree = nil
			if !e.Deleted {
				if tree, err = api.Tree(e.Object); err != nil {
					return nil, err
				}
			}
		}
		if holds(tree) {
			return tree, nil
		}
	}
}

// waitGone waits until the object with uid is gone; a new one of its name does not count.
func (s *session) waitGone(ctx context.Context, conn *client.Client, req *v1alpha1.DeleteRequest, uid string, timeout time.Duration) error {
	limited, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	last, err := follow(limited, conn, &v1alpha1.WatchRequest{Kind: req.Kind, Namespace: req.Namespace, Name: req.Name},
		func(tree map[string]any) bool { return tree == nil || at("metadata.uid")(tree) != uid })
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errors.New("interrupted; it is still being deleted")
	case !timedOut(limited, err):
		return err
	}
	held := waitsFor(last)
	if held == "-" {
		held = "held by " + at("metadata.finalizers")(last)
	}
	return fmt.Errorf("%w waiting for its deletion: %s", errTimeout, held)
}
