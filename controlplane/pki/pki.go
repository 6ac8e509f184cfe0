// Package pki owns who is who: the certificate authority of one installation, the certificates it
// issues, the identity that a certificate gives, and join tokens. It knows no resources and serves
// no requests. Private keys leave it only into files of mode 0600.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"

	"ingot/runtime/fault"
)

// Lifetimes of what the authority issues.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	serverLife    = 365 * 24 * time.Hour
	// HostLife is how long a host's certificate is good; hosts renew it after two thirds.
	HostLife = 30 * 24 * time.Hour
	// UserLife is the default for users.
	UserLife = 365 * 24 * time.Hour
	// skew is how far a client's clock may be behind ours.
	skew = 5 * time.Minute
)

// An Authority issues certificates. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time
}

// NewAuthority makes a self-signed authority of key. Its name follows from the key, so that an
// authority made anew of the same key still is the issuer of what it has issued.
func NewAuthority(key crypto.Signer) (*Authority, error) {
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("name authority: %w", err)
	}
	id := sha256.Sum256(public)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: fmt.Sprintf("ingot authority %x", id[:4])},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse authority: %w", err)
	}
	return &Authority{cert: cert, key: key, now: time.Now}, nil
}

// ParseAuthority reads an authority from PEM.
func ParseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("authority: key does not belong to the certificate: %w", fault.Invalid)
	}
	return &Authority{cert: cert, key: key, now: time.Now}, nil
}

// Certificate is the authority's own.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// PEM is the authority's own certificate.
func (a *Authority) PEM() []byte { return encodeCertificate(a.cert.Raw) }

// Hash pins the authority in join tokens: SHA-256 of its public key (PKIX, DER).
func (a *Authority) Hash() [sha256.Size]byte { return Pin(a.cert) }

// Pin is SHA-256 of the public key (PKIX, DER) of a certificate.
func Pin(cert *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// IssueServer certifies a server for names (DNS names and IP addresses). The result is a chain that
// ends with the authority, because a joining host must see it.
func (a *Authority) IssueServer(key crypto.PublicKey, names []string) ([]byte, error) {
	template := a.template(pkix.Name{CommonName: "ingot-control"}, serverLife, x509.ExtKeyUsageServerAuth)
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	cert, err := a.sign(template, key)
	if err != nil {
		return nil, err
	}
	return append(cert, a.PEM()...), nil
}

// Issue certifies that key is id for life.
func (a *Authority) Issue(id Identity, key crypto.PublicKey, life time.Duration) ([]byte, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	return a.sign(a.template(id.subject(), life, x509.ExtKeyUsageClientAuth), key)
}

// IssueRequest certifies the key of a PKCS#10 request (DER) as id. The request must be signed by
// that key; its subject and extensions are ignored.
func (a *Authority) IssueRequest(id Identity, csr []byte, life time.Duration) ([]byte, error) {
	key, err := RequestKey(csr)
	if err != nil {
		return nil, err
	}
	return a.Issue(id, key, life)
}

// RequestKey is the public key of a PKCS#10 request (DER) whose signature holds.
func RequestKey(csr []byte) (crypto.PublicKey, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fault.Fields{{Path: "csr", Detail: "not a PKCS#10 request in DER: " + err.Error()}}
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fault.Fields{{Path: "csr", Detail: "not signed by its own key: " + err.Error()}}
	}
	return req.PublicKey, nil
}

func (a *Authority) template(subject pkix.Name, life time.Duration, use x509.ExtKeyUsage) *x509.Certificate {
	now := a.now()
	end := now.Add(life)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	return &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               subject,
		NotBefore:             now.Add(-skew),
		NotAfter:              end,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{use},
	}
}

func (a *Authority) sign(template *x509.Certificate, key crypto.PublicKey) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", template.Subject, err)
	}
	return encodeCertificate(der), nil
}

// Verify checks that cert was issued to a client by this authority and is valid now, and returns
// who it names. The error is of class Denied and says what is wrong with the certificate.
func (a *Authority) Verify(cert *x509.Certificate) (Identity, error) {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	_, err := cert.Verify(x509.VerifyOptions{
		Roots:       roots,
		CurrentTime: a.now(),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err == nil {
		return identityOf(cert)
	}
	who := cert.Subject.String()
	if cert.CheckSignatureFrom(a.cert) != nil {
		return Identity{}, fmt.Errorf("certificate of %s was issued by %q, not by this installation: %w",
			who, cert.Issuer.CommonName, fault.Denied)
	}
	if a.now().After(cert.NotAfter) {
		return Identity{}, fmt.Errorf("certificate of %s expired at %s: %w",
			who, cert.NotAfter.UTC().Format(time.RFC3339), fault.Denied)
	}
	return Identity{}, fmt.Errorf("certificate of %s: %v: %w", who, err, fault.Denied)
}

// NewKey makes a private key: ECDSA P-256.
func NewKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return key, nil
}

// NewRequest is a PKCS#10 request (DER) for key. Who it is for is decided by the server.
func NewRequest(key crypto.Signer) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate request: %w", err)
	}
	return csr, nil
}

// EncodeKey is key as PEM (PKCS#8).
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads a private key from PEM (PKCS#8).
func ParseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("no PRIVATE KEY in PEM: %w", fault.Invalid)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse key: %v: %w", err, fault.Invalid)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key of type %T cannot sign: %w", key, fault.Invalid)
	}
	return signer, nil
}

// ParseCertificate reads the first certificate of PEM.
func ParseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("no CERTIFICATE in PEM: %w", fault.Invalid)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %v: %w", err, fault.Invalid)
	}
	return cert, nil
}

// covers reports whether a server certificate is for all names.
func covers(cert *x509.Certificate, names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return cert.VerifyHostname(name) != nil })
}

// namesOf are the names a server certificate is for.
func namesOf(cert *x509.Certificate) []string {
	names := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

func encodeCertificate(der []byte) []byte {
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a bytes.Buffer does not fail
	return b.Bytes()
}

// serial is 127 random bits (RFC 5280, 4.1.2.2).
func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand does not fail since Go 1.24
	}
	return n
}
