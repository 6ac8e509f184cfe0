package pki

import (
	"crypto"
	"strings"
	"testing"
	"time"
)

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAuthority(key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func publicKey(t *testing.T) crypto.PublicKey {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

func TestACertificateNamesItsBearer(t *testing.T) {
	a := newAuthority(t)
	for _, id := range []Identity{
		{Role: Admin, Name: "root"}, {Role: Host, Name: "h1"}, {Role: Member, Name: "alice", Project: "shop"},
	} {
		pem, err := a.Issue(id, publicKey(t), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ParseCertificate(pem)
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Verify(cert)
		if err != nil || got != id {
			t.Errorf("%s became %s, %v", id, got, err)
		}
		if _, err := newAuthority(t).Verify(cert); err == nil || !strings.Contains(err.Error(), "not by this installation") {
			t.Errorf("another authority says: %v", err)
		}
		a.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
		if _, err := a.Verify(cert); err == nil || !strings.Contains(err.Error(), "expired at") {
			t.Errorf("two hours later: %v", err)
		}
		a.now = time.Now
	}
}

func TestBadIdentitiesGetNoCertificate(t *testing.T) {
	a := newAuthority(t)
	for _, id := range []Identity{
		{}, {Role: Host}, {Role: Host, Name: "Host 1"}, {Role: Admin, Name: "a", Project: "p"},
		{Role: Member, Name: "a"}, {Role: Member, Name: "a", Project: "P"}, {Role: "root", Name: "a"},
	} {
		if _, err := a.Issue(id, publicKey(t), time.Hour); err == nil {
			t.Errorf("%+v got a certificate", id)
		}
	}
}

func TestAServersCertificateIsNoClients(t *testing.T) {
	a := newAuthority(t)
	pem, err := a.IssueServer(publicKey(t), []string{"a.example"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ParseCertificate(pem)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Verify(cert); err == nil {
		t.Error("it was taken for a client's")
	}
}

func TestARequestMustBeSignedByItsKey(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := NewRequest(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := RequestKey(csr); err != nil {
		t.Error(err)
	}
	csr[len(csr)-1] ^= 1
	for _, bad := range [][]byte{csr, nil, []byte("no request")} {
		if _, err := RequestKey(bad); err == nil || !strings.Contains(err.Error(), "csr: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestATokenSurvivesItsText(t *testing.T) {
	token, err := NewToken(newAuthority(t).Hash())
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseToken(" " + token.Text() + "\n")
	if err != nil || got != token || !got.Matches(token.SecretHash()) {
		t.Fatalf("parsed %v, %v", got, err)
	}
	if strings.Contains(token.String(), strings.Split(token.Text(), ".")[2]) {
		t.Error("String tells the secret")
	}
	got.Secret[31] ^= 1
	if got.Matches(token.SecretHash()) || got.Matches(nil) {
		t.Error("another secret matches")
	}
	text := token.Text()
	for _, bad := range []string{"", "x", text + ".a", text[:len(text)-1], "ingot2" + text[6:], strings.Replace(text, ".", "..", 1), text[:30] + "!" + text[31:]} {
		if _, err := ParseToken(bad); err == nil {
			t.Errorf("%q was taken", bad)
		} else if len(bad) > 40 && strings.Contains(err.Error(), bad[24:40]) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}
