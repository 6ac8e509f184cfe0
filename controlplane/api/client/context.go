// Package client is the Go client of the control plane, for the CLI and for agents: contexts (where
// the server is and who we are), mutual TLS, errors by class, joining, and watches that resume. It
// knows no kinds.
package client

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"

	"sigs.k8s.io/yaml"

	"ingot/runtime/durable"
	"ingot/runtime/fault"
)

// A Context says where a server is and who we are there. Its file is YAML of mode 0600.
type Context struct {
	// Name of the context, for users with several.
	Name string `json:"name,omitempty"`
	// Server address, host:port.
	Server string `json:"server"`
	// Project that requests are for when none is named.
	Project string `json:"project,omitempty"`
	// PEM: the authority that the server's certificate must come from, our certificate, and its key.
	CertificateAuthority string `json:"certificateAuthority"`
	Certificate          string `json:"certificate"`
	Key                  string `json:"key"`
}

// LoadContext reads a context file.
func LoadContext(path string) (*Context, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read context: %w", err)
	}
	c := &Context{}
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return nil, fmt.Errorf("read context %s: %v: %w", path, err, fault.Invalid)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("read context %s: %w", path, err)
	}
	return c, nil
}

// Save writes the context file, mode 0600, whole or not at all.
func (c *Context) Save(path string) error {
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("write context %s: %w", path, err)
	}
	if err := durable.Replace(path, data, 0o600); err != nil {
		return fmt.Errorf("write context %s: %w", path, err)
	}
	return nil
}

// Validate returns all faults of the context.
func (c *Context) Validate() error {
	var faults fault.Fields
	if _, _, err := net.SplitHostPort(c.Server); err != nil {
		faults.Add("server", "%q is not host:port", c.Server)
	}
	if !x509.NewCertPool().AppendCertsFromPEM([]byte(c.CertificateAuthority)) {
		faults.Add("certificateAuthority", "no certificate in PEM")
	}
	if _, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key)); err != nil {
		faults.Add("certificate", "not usable with key: %v", err)
	}
	return faults.Err()
}

// tls is the configuration for connecting as this context's identity.
func (c *Context) tls() (*tls.Config, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("context: %w", err)
	}
	pair, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key))
	if err != nil {
		return nil, fmt.Errorf("context: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(c.CertificateAuthority))
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{pair}}, nil
}
