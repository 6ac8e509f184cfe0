package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"ingot/controlplane/api/client"
	"ingot/runtime/fault"
)

// Exit codes.
const (
	ExitOK = iota
	ExitFailed
	ExitUsage
	ExitInvalid
	ExitNotFound
	ExitConflict
	ExitDenied
	ExitUnavailable
	ExitTimeout
)

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errTimeout says that what was waited for did not come.
var errTimeout = errors.New("timed out")

// classes give exit codes; the first that an error belongs to decides.
var classes = []struct {
	class error
	code  int
}{
	{errTimeout, ExitTimeout},
	{fault.Invalid, ExitInvalid},
	{fault.Precondition, ExitInvalid},
	{fault.Exhausted, ExitInvalid},
	{fault.NotFound, ExitNotFound},
	{os.ErrNotExist, ExitNotFound},
	{fault.Exists, ExitConflict},
	{fault.Conflict, ExitConflict},
	{fault.Denied, ExitDenied},
	{fault.Unavailable, ExitUnavailable},
	{context.DeadlineExceeded, ExitUnavailable},
}

func exitCode(err error) int {
	var usage usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") || strings.Contains(err.Error(), "arg(s), ") {
		return ExitUsage
	}
	for _, c := range classes {
		if errors.Is(err, c.class) {
			return c.code
		}
	}
	return ExitFailed
}

// explainError renders err for a person: a line, or a line for each faulty field.
func explainError(err error) string {
	var told silenced
	if errors.As(err, &told) {
		return fmt.Sprintf("error: %v\n", err)
	}
	fields := fieldsOf(err)
	if strings.Contains(err.Error(), "x509: ") {
		return fmt.Sprintf("error: the server is not the one that this context trusts: %v\n", err)
	}
	if len(fields) < 2 && errors.Is(err, fault.Unavailable) {
		return fmt.Sprintf("error: the control plane is away: %v\n", err)
	}
	if len(fields) < 2 {
		return fmt.Sprintf("error: %v\n", err)
	}
	var b strings.Builder
	b.WriteString("error: ")
	var about objectError
	if errors.As(err, &about) {
		b.WriteString(about.what + ": ")
	}
	b.WriteString("invalid:\n")
	for _, f := range fields {
		fmt.Fprintf(&b, "  %s: %s\n", f.Path, f.Detail)
	}
	return b.String()
}

func fieldsOf(err error) fault.Fields {
	var answer *client.Error
	if errors.As(err, &answer) {
		return answer.Fields
	}
	var fields fault.Fields
	errors.As(err, &fields)
	return fields
}

// objectError says which object an error is about.
type objectError struct {
	what string
	err  error
}

func (e objectError) Error() string { return e.what + ": " + e.err.Error() }
func (e objectError) Unwrap() error { return e.err }
