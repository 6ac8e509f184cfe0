package client

import (
	"errors"
	"io"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ingot/runtime/fault"
)

// An Error is an answer of the server. errors.Is knows its fault class.
type Error struct {
	Code codes.Code
	// Reason is one CamelCase word for programs; empty when the server gave none.
	Reason string
	// Message is for people.
	Message string
	// Fields are the faults of an invalid request.
	Fields fault.Fields

	status *status.Status
}

// Error is the message, with the faults of fields one a line.
func (e *Error) Error() string {
	if len(e.Fields) == 0 {
		return e.Message
	}
	lines := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		lines[i] = f.Path + ": " + f.Detail
	}
	return strings.Join(lines, "\n")
}

// GRPCStatus lets status.Code and status.FromError see through.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// classes map codes back to classes of fault; the server's table is the other direction.
var classes = map[codes.Code]error{
	codes.NotFound:           fault.NotFound,
	codes.AlreadyExists:      fault.Exists,
	codes.Aborted:            fault.Conflict,
	codes.InvalidArgument:    fault.Invalid,
	codes.PermissionDenied:   fault.Denied,
	codes.Unauthenticated:    fault.Denied,
	codes.FailedPrecondition: fault.Precondition,
	codes.ResourceExhausted:  fault.Exhausted,
	codes.Unavailable:        fault.Unavailable,
	codes.Unimplemented:      fault.Unsupported,
}

// Is reports the class of the code.
func (e *Error) Is(target error) bool { return classes[e.Code] == target }

func wrap(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &Error{Code: s.Code(), Message: s.Message(), status: s}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			e.Reason = d.Reason
		case *errdetails.BadRequest:
			for _, v := range d.FieldViolations {
				e.Fields = append(e.Fields, fault.Field{Path: v.Field, Detail: v.Description})
			}
		}
	}
	return e
}
