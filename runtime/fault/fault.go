// Package fault owns the classes of error that cross package borders. An error belongs to a
// class by wrapping it (fmt.Errorf("get %s: %w", key, fault.NotFound)); callers ask with errors.Is.
// The gRPC server maps the classes to codes in one table.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// The classes.
var (
	NotFound     = errors.New("not found")
	Exists       = errors.New("already exists")
	Conflict     = errors.New("conflict")            // a compare failed; read again and retry
	Invalid      = errors.New("invalid")             // the request can never succeed as it is
	Denied       = errors.New("denied")              // the caller may not
	Precondition = errors.New("precondition failed") // the state forbids it now; the message says what must change
	Exhausted    = errors.New("exhausted")           // a quota, table or range is full
	Unavailable  = errors.New("unavailable")         // the other side is away; retry later
	Unsupported  = errors.New("unsupported")         // names the kernel, package or version that is needed
)

// A Field is one fault in a request.
type Field struct {
	// Path is where, as a user would write it: spec.networkInterfaces[0].ips[1].
	Path string
	// Detail says what is wrong and what would be right.
	Detail string
}

// Fields are the faults of one request; as an error they are of class Invalid.
type Fields []Field

// Add notes a fault.
func (f *Fields) Add(path, format string, args ...any) {
	*f = append(*f, Field{Path: path, Detail: fmt.Sprintf(format, args...)})
}

// Err is nil when nothing was added.
func (f Fields) Err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// Error joins the faults with "; ".
func (f Fields) Error() string {
	parts := make([]string, len(f))
	for i, v := range f {
		parts[i] = v.Path + ": " + v.Detail
	}
	return strings.Join(parts, "; ")
}

// Is reports class Invalid.
func (f Fields) Is(target error) bool { return target == Invalid }
