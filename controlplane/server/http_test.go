package server

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ingot/controlplane/api/v1alpha1"
)

func TestHealthAndMetricsAreServed(t *testing.T) {
	s := newServer(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.ServeHTTP(ctx, lis) }()
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + lis.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, body := get("/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("/healthz: %d %q", code, body)
	}
	if code, body := get("/metrics"); code != http.StatusOK || !strings.Contains(body, "ingot_hosts_connected 0") {
		t.Errorf("/metrics: %d %q", code, body)
	}
	if code, _ := get("/other"); code != http.StatusNotFound {
		t.Errorf("/other: %d", code)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestAPanicIsAnInternalErrorAndIsLogged(t *testing.T) {
	var logged strings.Builder
	s := &Server{log: slog.New(slog.NewTextHandler(&logged, nil)), metrics: newMetrics(prometheus.NewRegistry())}
	info := &grpc.UnaryServerInfo{FullMethod: v1alpha1.JoinService_Join_FullMethodName}
	_, err := s.unary(t.Context(), nil, info, func(context.Context, any) (any, error) { panic("the secret is 42") })
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "42") {
		t.Errorf("answer is %v", err)
	}
	if !strings.Contains(logged.String(), "the secret is 42") || !strings.Contains(logged.String(), "http_test.go") {
		t.Errorf("log is %q", logged.String())
	}
}
