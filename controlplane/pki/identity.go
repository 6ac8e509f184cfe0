package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"regexp"
	"strings"

	"ingot/runtime/fault"
)

// Organizations in certificates, which decide what the bearer may do.
const (
	adminsOrg     = "ingot:admins"
	hostsOrg      = "ingot:hosts"
	projectPrefix = "ingot:project:"
)

// label is a DNS label (RFC 1123): what users, hosts and projects are called.
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Role is the sort of bearer.
type Role string

const (
	// Admin may do everything that users may do.
	Admin Role = "admin"
	// Member may do it in one project.
	Member Role = "member"
	// Host is a hypervisor's agent: it may use HostService and nothing else.
	Host Role = "host"
)

// Identity is who a certificate names.
type Identity struct {
	Role Role
	// Name of the user or the host.
	Name string
	// Project of a Member.
	Project string
}

// String is the identity as in logs: host/h1, admin/root, member/alice@shop.
func (id Identity) String() string {
	if id.Project != "" {
		return fmt.Sprintf("%s/%s@%s", id.Role, id.Name, id.Project)
	}
	return fmt.Sprintf("%s/%s", id.Role, id.Name)
}

// Validate returns all faults of the identity.
func (id Identity) Validate() error {
	var faults fault.Fields
	if !label.MatchString(id.Name) {
		faults.Add("name", "%q is not a DNS label", id.Name)
	}
	switch id.Role {
	case Admin, Host:
		if id.Project != "" {
			faults.Add("project", "an identity of role %s has no project", id.Role)
		}
	case Member:
		if !label.MatchString(id.Project) {
			faults.Add("project", "%q is not a DNS label", id.Project)
		}
	default:
		faults.Add("role", "unknown role %q", id.Role)
	}
	return faults.Err()
}

func (id Identity) subject() pkix.Name {
	org := map[Role]string{Admin: adminsOrg, Host: hostsOrg, Member: projectPrefix + id.Project}[id.Role]
	return pkix.Name{CommonName: id.Name, Organization: []string{org}}
}

// identityOf reads the identity from a certificate that was verified.
func identityOf(cert *x509.Certificate) (Identity, error) {
	id := Identity{Name: cert.Subject.CommonName}
	if len(cert.Subject.Organization) == 1 {
		switch org := cert.Subject.Organization[0]; {
		case org == adminsOrg:
			id.Role = Admin
		case org == hostsOrg:
			id.Role = Host
		case strings.HasPrefix(org, projectPrefix):
			id.Role, id.Project = Member, strings.TrimPrefix(org, projectPrefix)
		}
	}
	if err := id.Validate(); err != nil {
		return Identity{}, fmt.Errorf("certificate of %s names nobody we know: %v: %w", cert.Subject, err, fault.Denied)
	}
	return id, nil
}
