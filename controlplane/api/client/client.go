package client

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"ingot/controlplane/api/v1alpha1"
)

// MaxMessage bounds what a client takes in one message; the server's messages stay far below.
const MaxMessage = 16 << 20

// A Client is a connection to the control plane. It connects when first used, and again whenever
// the connection was lost. Errors of its calls are *Error.
type Client struct {
	v1alpha1.ResourceServiceClient
	// Hosts is for agents.
	Hosts v1alpha1.HostServiceClient
	conn  *grpc.ClientConn
}

// Dial makes a client for a context. It does not wait for the server.
func Dial(c *Context) (*Client, error) {
	config, err := c.tls()
	if err != nil {
		return nil, err
	}
	conn, err := dial(c.Server, credentials.NewTLS(config))
	if err != nil {
		return nil, err
	}
	return &Client{
		ResourceServiceClient: v1alpha1.NewResourceServiceClient(conn),
		Hosts:                 v1alpha1.NewHostServiceClient(conn),
		conn:                  conn,
	}, nil
}

// Close ends the connection and all calls on it.
func (c *Client) Close() error { return c.conn.Close() }

func dial(server string, creds credentials.TransportCredentials) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+server,
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			// When all hosts come at once, handshakes queue; giving up early would begin them anew.
			MinConnectTimeout: 20 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage)),
		grpc.WithUnaryInterceptor(unaryErrors),
		grpc.WithStreamInterceptor(streamErrors),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", server, err)
	}
	return conn, nil
}

func unaryErrors(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return wrap(invoke(ctx, method, req, reply, cc, opts...))
}

func streamErrors(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := streamer(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, wrap(err)
	}
	return stream{s}, nil
}

// stream turns the errors of a stream into *Error; io.EOF stays.
type stream struct{ grpc.ClientStream }

func (s stream) RecvMsg(m any) error { return wrap(s.ClientStream.RecvMsg(m)) }
func (s stream) SendMsg(m any) error { return wrap(s.ClientStream.SendMsg(m)) }
