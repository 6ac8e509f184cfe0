package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ingot/runtime/durable"
	"ingot/runtime/fault"
)

// Files of a Dir. Keys and the seal key have mode 0600, the directory 0700.
const (
	authorityCert = "ca.crt"
	authorityKey  = "ca.key"
	serverCert    = "server.crt"
	serverKey     = "server.key"
	sealKey       = "seal.key"
)

// A Dir is the part of a control plane's directory that holds keys and certificates.
type Dir struct {
	Path      string
	Authority *Authority
	// SealKey encrypts sealed kinds at rest: 32 bytes.
	SealKey []byte

	mu     sync.Mutex // guards server, and the writing of its file
	server tls.Certificate
}

// Init completes the directory at path: what is missing is made, what is there is kept. A server
// certificate that is not for all names is made anew, for the old names too. It returns the names
// of the files that it wrote.
func Init(path string, names []string) (*Dir, []string, error) {
	if err := checkNames(names); err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, nil, fmt.Errorf("init: %w", err)
	}
	unlock, err := lockDir(path)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	w := &writer{dir: path}
	key := w.key(authorityKey, authorityCert)
	w.file(authorityCert, 0o644, func() ([]byte, error) {
		a, err := NewAuthority(key)
		if err != nil {
			return nil, err
		}
		return a.PEM(), nil
	})
	w.file(sealKey, 0o600, newSealKey)
	if w.err != nil {
		return nil, nil, fmt.Errorf("init %s: %w", path, w.err)
	}
	d := &Dir{Path: path}
	if err := d.load(); err != nil {
		return nil, nil, err
	}
	server := w.key(serverKey, "")
	if have := d.serverNames(); have == nil || !covers(d.server.Leaf, names) {
		w.replace(serverCert, 0o644, func() ([]byte, error) {
			return d.Authority.IssueServer(server.Public(), union(have, names))
		})
	}
	if w.err != nil {
		return nil, nil, fmt.Errorf("init %s: %w", path, w.err)
	}
	return d, w.wrote, d.loadServer()
}

// OpenDir reads a directory that Init has completed.
func OpenDir(path string) (*Dir, error) {
	d := &Dir{Path: path}
	if err := d.load(); err != nil {
		return nil, err
	}
	return d, d.loadServer()
}

func (d *Dir) load() error {
	cert, err := d.read(authorityCert)
	if err != nil {
		return err
	}
	key, err := d.read(authorityKey)
	if err != nil {
		return err
	}
	if d.Authority, err = ParseAuthority(cert, key); err != nil {
		return fmt.Errorf("open %s: %w", d.Path, err)
	}
	seal, err := d.read(sealKey)
	if err != nil {
		return err
	}
	d.SealKey, err = hex.DecodeString(strings.TrimSpace(string(seal)))
	if err != nil || len(d.SealKey) != 32 {
		return fmt.Errorf("open %s: %s is not 64 hex digits: %w", d.Path, sealKey, fault.Invalid)
	}
	return nil
}

func (d *Dir) read(name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(d.Path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: %s is missing, run ingot-control init: %w", d.Path, name, fault.Precondition)
	}
	return data, err
}

func (d *Dir) loadServer() error {
	cert, err := d.read(serverCert)
	if err != nil {
		return err
	}
	key, err := d.read(serverKey)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("open %s: server certificate: %w", d.Path, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.server = pair
	return nil
}

// serverNames are those of the present server certificate; nil when there is none that is usable.
func (d *Dir) serverNames() []string {
	if err := d.loadServer(); err != nil || d.server.Leaf.CheckSignatureFrom(d.Authority.cert) != nil {
		return nil
	}
	return namesOf(d.server.Leaf)
}

// ServerCertificate is for tls.Config.GetCertificate. It renews the certificate when less than a
// third of its life is left.
func (d *Dir) ServerCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	leaf := d.server.Leaf
	if time.Until(leaf.NotAfter) > leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		return &d.server, nil
	}
	signer := d.server.PrivateKey.(crypto.Signer) // X509KeyPair yields nothing else
	chain, err := d.Authority.IssueServer(signer.Public(), namesOf(leaf))
	if err != nil {
		return nil, err
	}
	key, err := EncodeKey(signer)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("renew server certificate: %w", err)
	}
	d.server = pair
	// A file that cannot be written is no reason to refuse clients: the next start tries again.
	_ = durable.Replace(filepath.Join(d.Path, serverCert), chain, 0o644)
	return &d.server, nil
}

// Names are what the server's certificate is for.
func (d *Dir) Names() []string { return namesOf(d.server.Leaf) }

// Fresh reports whether a PEM certificate is from this authority and has more than a third of its
// life left.
func (a *Authority) Fresh(certPEM []byte) bool {
	cert, err := ParseCertificate(certPEM)
	if err != nil || cert.CheckSignatureFrom(a.cert) != nil {
		return false
	}
	return cert.NotAfter.Sub(a.now()) > cert.NotAfter.Sub(cert.NotBefore)/3
}

// dnsName is what a certificate can be for, beside addresses (RFC 1123, 2.1).
var dnsName = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9.]{0,251}[a-zA-Z0-9])?$`)

func checkNames(names []string) error {
	var faults fault.Fields
	for _, name := range names {
		if net.ParseIP(name) == nil && !dnsName.MatchString(name) {
			faults.Add("name", "%q is neither a DNS name nor an IP address", name)
		}
	}
	return faults.Err()
}

func newSealKey() ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("generate seal key: %w", err)
	}
	return []byte(hex.EncodeToString(key) + "\n"), nil
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// A writer makes files that are missing and stops at the first error.
type writer struct {
	dir   string
	wrote []string
	err   error
}

func (w *writer) file(name string, mode fs.FileMode, content func() ([]byte, error)) {
	if w.err != nil {
		return
	}
	_, err := os.Stat(filepath.Join(w.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		w.replace(name, mode, content)
		return
	}
	w.err = err
}

func (w *writer) replace(name string, mode fs.FileMode, content func() ([]byte, error)) {
	if w.err != nil {
		return
	}
	data, err := content()
	if err == nil {
		err = durable.Replace(filepath.Join(w.dir, name), data, mode)
	}
	if err != nil {
		w.err = fmt.Errorf("%s: %w", name, err)
		return
	}
	w.wrote = append(w.wrote, name)
}

// key is the private key in a file, made when it is missing; but not when the certificate made for
// it is there, because then it was lost.
func (w *writer) key(name, certificate string) crypto.Signer {
	path := filepath.Join(w.dir, name)
	if w.err == nil && certificate != "" && missing(path) && !missing(filepath.Join(w.dir, certificate)) {
		w.err = fmt.Errorf("%s is missing though %s is there: restore it from a backup: %w", name, certificate, fault.Precondition)
	}
	w.file(name, 0o600, func() ([]byte, error) {
		key, err := NewKey()
		if err != nil {
			return nil, err
		}
		return EncodeKey(key)
	})
	if w.err != nil {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		w.err = err
		return nil
	}
	key, err := ParseKey(data)
	if err != nil {
		w.err = fmt.Errorf("%s: %w", name, err)
	}
	return key
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// lockDir waits until no other Init works on the directory.
func lockDir(path string) (unlock func(), err error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { d.Close() }, nil
}
