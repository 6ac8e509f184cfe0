package client

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"

	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/runtime/fault"
)

// Join exchanges a one-time token for a certificate of key, and returns the context of the host
// with its name. The server is trusted because its authority is the one that the token names.
// Keep the key until Join has succeeded: a retry with the same key works, one with another does not.
func Join(ctx context.Context, server, token string, key crypto.Signer) (*Context, error) {
	t, err := pki.ParseToken(token)
	if err != nil {
		return nil, err
	}
	name, _, err := net.SplitHostPort(server)
	if err != nil {
		return nil, fmt.Errorf("server %q is not host:port: %w", server, fault.Invalid)
	}
	csr, err := pki.NewRequest(key)
	if err != nil {
		return nil, err
	}
	conn, err := dial(server, credentials.NewTLS(&tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         name,
		InsecureSkipVerify: true, // VerifyConnection below takes its place
		VerifyConnection:   func(s tls.ConnectionState) error { return verifyPinned(s, t.Authority, name) },
	}))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	resp, err := v1alpha1.NewJoinServiceClient(conn).Join(ctx, &v1alpha1.JoinRequest{Token: token, Csr: csr})
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	return contextOf(resp, server, key)
}

// Renew exchanges the client's host certificate for a fresh one of key.
func (c *Client) Renew(ctx context.Context, server string, key crypto.Signer) (*Context, error) {
	csr, err := pki.NewRequest(key)
	if err != nil {
		return nil, err
	}
	resp, err := c.Hosts.Renew(ctx, &v1alpha1.RenewRequest{Csr: csr})
	if err != nil {
		return nil, fmt.Errorf("renew certificate: %w", err)
	}
	return contextOf(resp, server, key)
}

func contextOf(resp *v1alpha1.JoinResponse, server string, key crypto.Signer) (*Context, error) {
	pem, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	c := &Context{
		Name: resp.Host, Server: server,
		CertificateAuthority: string(resp.Ca), Certificate: string(resp.Certificate), Key: string(pem),
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("answer of the server: %w", err)
	}
	return c, nil
}

// verifyPinned accepts a server whose chain ends at the authority with this pin and whose
// certificate is for name.
func verifyPinned(s tls.ConnectionState, pin [32]byte, name string) error {
	roots := x509.NewCertPool()
	found := false
	for _, cert := range s.PeerCertificates[1:] {
		if pki.Pin(cert) == pin {
			roots.AddCert(cert)
			found = true
		}
	}
	if !found {
		return fmt.Errorf("the server does not belong to the installation that the token is for: %w", fault.Denied)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
	return err
}
