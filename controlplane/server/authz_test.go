package server_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
)

func TestWhoMayDoWhat(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	apply(t, admin, base+"---"+machine+"---\n"+manifest("core", "Secret", "s", "stringData: {a: b}")+"---\n"+manifest("core", "Project", "other", ""))
	member := w.as(pki.Identity{Role: pki.Member, Name: "alice", Project: "shop"})
	stranger := w.as(pki.Identity{Role: pki.Member, Name: "bob", Project: "other"})
	host := w.host("h1")

	get := func(kind, project, name string) func(*testing.T, *client.Client) error {
		return func(t *testing.T, c *client.Client) error {
			_, err := c.Get(t.Context(), &v1alpha1.GetRequest{Kind: kind, Namespace: project, Name: name})
			return err
		}
	}
	list := func(kind, project string) func(*testing.T, *client.Client) error {
		return func(t *testing.T, c *client.Client) error {
			_, err := c.List(t.Context(), &v1alpha1.ListRequest{Kind: kind, Namespace: project})
			return err
		}
	}
	watch := func(kind, project string) func(*testing.T, *client.Client) error {
		return func(t *testing.T, c *client.Client) error {
			s, err := c.WatchObjects(t.Context(), &v1alpha1.WatchRequest{Kind: kind, Namespace: project})
			if err == nil {
				_, err = s.Next()
			}
			return err
		}
	}
	create := func(m string) func(*testing.T, *client.Client) error {
		o := one(t, m)
		return func(t *testing.T, c *client.Client) error {
			_, err := c.Create(t.Context(), &v1alpha1.CreateRequest{Object: o, DryRun: true})
			return err
		}
	}
	remove := func(kind, project, name string) func(*testing.T, *client.Client) error {
		return func(t *testing.T, c *client.Client) error {
			_, err := c.Delete(t.Context(), &v1alpha1.DeleteRequest{Kind: kind, Namespace: project, Name: name})
			return err
		}
	}
	sync := func(t *testing.T, c *client.Client) error {
		s, err := c.Hosts.Sync(t.Context())
		if err != nil {
			return err
		}
		if err := s.Send(&v1alpha1.HostReport{Hello: &v1alpha1.HostHello{}}); err != nil {
			return err
		}
		_, err = s.Recv()
		return err
	}
	const ok = ""
	for _, test := range []struct {
		name                           string
		do                             func(*testing.T, *client.Client) error
		admin, member, stranger, hosts string // reason of the refusal
	}{
		{"get a machine", get("Machine", "shop", "web"), ok, ok, "OtherProject", "HostDenied"},
		{"get a secret", get("Secret", "shop", "s"), ok, ok, "OtherProject", "HostDenied"},
		{"get a class", get("MachineClass", "", "small"), ok, ok, ok, "HostDenied"},
		{"get the project", get("Project", "", "shop"), ok, ok, "AdminsOnly", "HostDenied"},
		{"list projects", list("Project", ""), ok, "AdminsOnly", "AdminsOnly", "HostDenied"},
		{"list machines", list("Machine", "shop"), ok, ok, "OtherProject", "HostDenied"},
		{"list machines of all projects", list("Machine", ""), ok, "ProjectRequired", "ProjectRequired", "HostDenied"},
		{"list pools", list("MachinePool", ""), ok, "AdminsOnly", "AdminsOnly", "HostDenied"},
		{"list join tokens", list("JoinToken", ""), ok, "AdminsOnly", "AdminsOnly", "HostDenied"},
		{"watch machines", watch("Machine", "shop"), ok, ok, "OtherProject", "HostDenied"},
		{"watch machines of all projects", watch("Machine", ""), ok, "ProjectRequired", "ProjectRequired", "HostDenied"},
		{"create a network", create(manifest("networking", "Network", "net", "")), ok, ok, "OtherProject", "HostDenied"},
		{"create a network with a VNI of one's own", create(manifest("networking", "Network", "net", "spec: {providerID: \"ingot://vni/7\"}")), ok, "AdminsOnly", "OtherProject", "HostDenied"},
		{"create a class", create(manifest("compute", "MachineClass", "c", "capabilities: {cpu: 1, memory: 1Gi}")), ok, "AdminsOnly", "AdminsOnly", "HostDenied"},
		{"create a project", create(manifest("core", "Project", "third", "")), ok, "AdminsOnly", "AdminsOnly", "HostDenied"},
		{"create an event", create(manifest("core", "Event", "e", "reason: a")), "ReadOnly", "ReadOnly", "ReadOnly", "HostDenied"},
		{"create an allocation", create(manifest("ipam", "PrefixAllocation", "a", "")), "ReadOnly", "ReadOnly", "ReadOnly", "HostDenied"},
		{"get a placement", get("MachinePlacement", "shop", "web"), "ControllerOwned", "ControllerOwned", "ControllerOwned", "HostDenied"},
		{"list host machines", list("HostMachine", "shop"), "ControllerOwned", "ControllerOwned", "ControllerOwned", "HostDenied"},
		{"list requests", list("Request", ""), "ControllerOwned", "ControllerOwned", "ControllerOwned", "HostDenied"},
		{"delete a class", remove("MachineClass", "", "none"), "NotFound", "AdminsOnly", "AdminsOnly", "HostDenied"},
		{"follow a host", sync, "Denied", "Denied", "Denied", ok},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, caller := range []struct {
				c    *client.Client
				want string
			}{{admin, test.admin}, {member, test.member}, {stranger, test.stranger}, {host, test.hosts}} {
				err := test.do(t, caller.c)
				if caller.want == ok {
					if err != nil {
						t.Error(err)
					}
					continue
				}
				code := codes.PermissionDenied
				if caller.want == "NotFound" {
					code = codes.NotFound
				}
				wantError(t, err, code, caller.want, "")
			}
		})
	}
}

func TestBadCertificatesAreRefusedWithWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	elsewhere, _, err := pki.Init(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	ours := string(w.keys.Authority.PEM())
	foreign := contextFrom(t, elsewhere, w.address, pki.Identity{Role: pki.Admin, Name: "admin"}, time.Hour)
	foreign.CertificateAuthority = ours
	expired := w.contextOf(pki.Identity{Role: pki.Host, Name: "h1"}, -time.Minute)
	for _, test := range []struct {
		name string
		c    *client.Context
		text string
	}{
		{"of another installation", foreign, "not by this installation"},
		{"expired", expired, "certificate of CN=h1,O=ingot:hosts expired at"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := w.dial(test.c)
			_, err := c.List(t.Context(), &v1alpha1.ListRequest{Kind: "Project"})
			wantError(t, err, codes.Unauthenticated, "CertificateRefused", test.text)
			s, err := c.Hosts.Sync(t.Context())
			if err == nil {
				_, err = s.Recv()
			}
			wantError(t, err, codes.Unauthenticated, "CertificateRefused", test.text)
			_, err = c.Renew(t.Context(), w.address, mustKey(t))
			wantError(t, err, codes.Unauthenticated, "CertificateRefused", test.text)
		})
	}
	t.Run("a server of another installation", func(t *testing.T) {
		c := w.contextOf(pki.Identity{Role: pki.Admin, Name: "admin"}, time.Hour)
		c.CertificateAuthority = string(elsewhere.Authority.PEM())
		_, err := w.dial(c).List(t.Context(), &v1alpha1.ListRequest{Kind: "Project"})
		wantError(t, err, codes.Unavailable, "", "certificate signed by unknown authority")
	})
}

func TestAStreamEndsWithItsCertificate(t *testing.T) {
	w := newWorld(t)
	c := w.dial(w.contextOf(pki.Identity{Role: pki.Admin, Name: "admin"}, 1500*time.Millisecond))
	watch, err := c.WatchObjects(t.Context(), &v1alpha1.WatchRequest{Kind: "Project"})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = watch.Next()
	}
	wantError(t, err, codes.Unauthenticated, "CertificateRefused", "expired")
}
