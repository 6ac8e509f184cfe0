package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ingot/controlplane/api/v1alpha1"
)

// open are the methods that need no certificate.
func open(method string) bool {
	return method == v1alpha1.JoinService_Join_FullMethodName || strings.HasPrefix(method, "/grpc.health.v1.Health/")
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	defer func() { err = s.done(ctx, info.FullMethod, start, recover(), err) }()
	if !open(info.FullMethod) {
		id, _, err := identify(ctx)
		if err != nil {
			return nil, err
		}
		ctx = context.WithValue(ctx, identityKey{}, id)
	}
	return handle(ctx, req)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	start := time.Now()
	ctx := ss.Context()
	defer func() { err = s.done(ctx, info.FullMethod, start, recover(), err) }()
	if open(info.FullMethod) {
		return handle(srv, ss)
	}
	id, until, err := identify(ctx)
	if err != nil {
		return err
	}
	// A stream ends with the certificate that it was opened with.
	ctx, cancel := context.WithDeadlineCause(context.WithValue(ctx, identityKey{}, id), until,
		because("CertificateRefused", "certificate of %s expired: %w", id, errUnauthenticated))
	defer cancel()
	stop := context.AfterFunc(s.stopping, cancel)
	defer stop()
	err = handle(srv, serverStream{ss, ctx})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		if s.stopping.Err() != nil {
			return status.Error(codes.Unavailable, "the server is stopping")
		}
		return cause
	}
	return err
}

type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s serverStream) Context() context.Context { return s.ctx }

// done counts a call and turns its panic or error into the answer.
func (s *Server) done(ctx context.Context, method string, start time.Time, panicked any, err error) error {
	if panicked != nil {
		s.log.Error("handler panicked", "method", method, "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
		s.metrics.panics.Inc()
		err = status.Error(codes.Internal, "internal error; the server's log tells more")
	}
	answer := toStatus(err)
	if err == nil {
		answer = nil
	}
	code := answer.Code()
	s.metrics.calls.WithLabelValues(method, code.String()).Inc()
	if !strings.HasSuffix(method, "/Watch") && !strings.HasSuffix(method, "/Sync") {
		s.metrics.duration.WithLabelValues(method).Observe(time.Since(start).Seconds())
	}
	if code == codes.Internal && panicked == nil {
		s.log.Error("call failed", "method", method, "err", err)
	} else {
		s.log.LogAttrs(ctx, slog.LevelDebug, "call done", slog.String("method", method),
			slog.String("code", code.String()), slog.Duration("took", time.Since(start)))
	}
	return answer.Err()
}
