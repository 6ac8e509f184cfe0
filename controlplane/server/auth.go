package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"ingot/controlplane/pki"
	"ingot/runtime/fault"
)

// transport is TLS that asks for a client certificate but lets the handshake pass without a good
// one, so that the answer to a request can say what is wrong with it. The certificate is verified
// once per connection; identify refuses what has no identity.
type transport struct {
	credentials.TransportCredentials
	authority *pki.Authority
}

func newTransport(d *pki.Dir) transport {
	return transport{
		TransportCredentials: credentials.NewTLS(&tls.Config{
			MinVersion:     tls.VersionTLS13,
			ClientAuth:     tls.RequestClientCert,
			GetCertificate: d.ServerCertificate,
		}),
		authority: d.Authority,
	}
}

// bearer is who is at the other end of a connection.
type bearer struct {
	credentials.TLSInfo
	identity pki.Identity
	cert     *x509.Certificate
	fault    error // why there is no identity
}

// ServerHandshake implements credentials.TransportCredentials.
func (t transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	b := bearer{TLSInfo: info.(credentials.TLSInfo)} // what credentials.NewTLS yields
	if certs := b.State.PeerCertificates; len(certs) == 0 {
		b.fault = because("CertificateMissing", "no client certificate was given: %w", errUnauthenticated)
	} else if b.identity, err = t.authority.Verify(certs[0]); err != nil {
		b.fault = because("CertificateRefused", "%w: %w", errUnauthenticated, err)
	} else {
		b.cert = certs[0]
	}
	return conn, b, nil
}

// Clone implements credentials.TransportCredentials.
func (t transport) Clone() credentials.TransportCredentials {
	return transport{t.TransportCredentials.Clone(), t.authority}
}

// identify returns who is calling and until when the certificate is good.
func identify(ctx context.Context) (pki.Identity, time.Time, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return pki.Identity{}, time.Time{}, fmt.Errorf("no peer: %w", errUnauthenticated)
	}
	b, ok := p.AuthInfo.(bearer)
	if !ok {
		return pki.Identity{}, time.Time{}, fmt.Errorf("no TLS: %w", errUnauthenticated)
	}
	if b.fault != nil {
		return pki.Identity{}, time.Time{}, b.fault
	}
	if time.Now().After(b.cert.NotAfter) {
		return pki.Identity{}, time.Time{}, because("CertificateRefused", "certificate of %s expired at %s: %w",
			b.identity, b.cert.NotAfter.UTC().Format(time.RFC3339), errUnauthenticated)
	}
	return b.identity, b.cert.NotAfter, nil
}

type identityKey struct{}

// caller is the identity that the interceptor has put into ctx.
func caller(ctx context.Context) pki.Identity {
	id, _ := ctx.Value(identityKey{}).(pki.Identity)
	return id
}

// host is the calling host's name.
func host(ctx context.Context) (string, error) {
	id := caller(ctx)
	if id.Role != pki.Host {
		return "", fmt.Errorf("%s is not a host: %w", id, fault.Denied)
	}
	return id.Name, nil
}
