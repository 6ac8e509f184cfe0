package server

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"ingot/runtime/fault"
)

// domain is that of ErrorInfo.
const domain = "ingot"

// errUnauthenticated is the class of requests without a usable identity or token.
var errUnauthenticated = errors.New("unauthenticated")

// table maps classes to codes and reasons; the first class that an error has decides.
var table = []struct {
	class  error
	code   codes.Code
	reason string
}{
	{errUnauthenticated, codes.Unauthenticated, "Unauthenticated"},
	{fault.Invalid, codes.InvalidArgument, "Invalid"},
	{fault.NotFound, codes.NotFound, "NotFound"},
	{fault.Exists, codes.AlreadyExists, "Exists"},
	{fault.Conflict, codes.Aborted, "Conflict"},
	{fault.Denied, codes.PermissionDenied, "Denied"},
	{fault.Precondition, codes.FailedPrecondition, "Precondition"},
	{fault.Exhausted, codes.ResourceExhausted, "Exhausted"},
	{fault.Unavailable, codes.Unavailable, "Unavailable"},
	{fault.Unsupported, codes.Unimplemented, "Unsupported"},
	{context.Canceled, codes.Canceled, "Canceled"},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "DeadlineExceeded"},
}

// reasonError gives an error a more special reason than its class has.
type reasonError struct {
	reason string
	error
}

func (e reasonError) Unwrap() error { return e.error }

// because is fmt.Errorf with a reason for programs.
func because(reason, format string, args ...any) error {
	return reasonError{reason, fmt.Errorf(format, args...)}
}

// toStatus is the answer for err. What belongs to no class is internal: its text stays in the log.
func toStatus(err error) *status.Status {
	if s, ok := status.FromError(err); ok {
		return s
	}
	for _, row := range table {
		if !errors.Is(err, row.class) {
			continue
		}
		info := &errdetails.ErrorInfo{Reason: row.reason, Domain: domain}
		if special := (reasonError{}); errors.As(err, &special) {
			info.Reason = special.reason
		}
		details := []protoadapt.MessageV1{info}
		if fields := (fault.Fields{}); errors.As(err, &fields) {
			bad := &errdetails.BadRequest{}
			for _, f := range fields {
				bad.FieldViolations = append(bad.FieldViolations,
					&errdetails.BadRequest_FieldViolation{Field: f.Path, Description: f.Detail})
			}
			details = append(details, bad)
		}
		s := status.New(row.code, err.Error())
		if detailed, derr := s.WithDetails(details...); derr == nil {
			return detailed
		}
		return s
	}
	return status.New(codes.Internal, "internal error; the server's log tells more")
}
