package pki

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// contents are the files of a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

func mustInit(t *testing.T, dir string, names ...string) (*Dir, []string) {
	t.Helper()
	d, wrote, err := Init(dir, names)
	if err != nil {
		t.Fatal(err)
	}
	return d, wrote
}

func TestInitTwiceChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	_, wrote := mustInit(t, dir, "a.example", "fd00::1")
	if d := cmp.Diff([]string{"ca.key", "ca.crt", "seal.key", "server.key", "server.crt"}, wrote); d != "" {
		t.Errorf("wrote (-want +got):\n%s", d)
	}
	before := contents(t, dir)
	_, wrote = mustInit(t, dir, "fd00::1", "a.example")
	if len(wrote) != 0 {
		t.Errorf("wrote %v", wrote)
	}
	if d := cmp.Diff(before, contents(t, dir)); d != "" {
		t.Errorf("files (-before +after):\n%s", d)
	}
	for name := range before {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".key") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", name, info.Mode())
		}
	}
}

func TestInitCompletesWhatIsHalfDone(t *testing.T) {
	for _, missing := range []string{"ca.crt", "seal.key", "server.key", "server.crt"} {
		t.Run(missing, func(t *testing.T) {
			dir := t.TempDir()
			mustInit(t, dir, "a.example")
			before := contents(t, dir)
			if err := os.Remove(filepath.Join(dir, missing)); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenDir(dir); err == nil || !strings.Contains(err.Error(), missing+" is missing, run ingot-control init") {
				t.Errorf("open: %v", err)
			}
			d, _ := mustInit(t, dir, "a.example")
			after := contents(t, dir)
			for _, kept := range []string{"ca.key", "ca.crt", "seal.key", "server.key"} {
				if kept != missing && before[kept] != after[kept] {
					t.Errorf("%s was changed", kept)
				}
			}
			if _, err := OpenDir(dir); err != nil {
				t.Error(err)
			}
			if err := d.server.Leaf.CheckSignatureFrom(d.Authority.cert); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("but does not replace the key of an authority", func(t *testing.T) {
		dir := t.TempDir()
		mustInit(t, dir, "a.example")
		if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Init(dir, []string{"a.example"}); err == nil || !strings.Contains(err.Error(), "ca.key is missing though ca.crt is there") {
			t.Error(err)
		}
	})
}

func TestInitGivesTheServerMoreNames(t *testing.T) {
	dir := t.TempDir()
	mustInit(t, dir, "a.example")
	d, wrote := mustInit(t, dir, "10.0.0.1")
	if diff := cmp.Diff([]string{"server.crt"}, wrote); diff != "" {
		t.Errorf("wrote (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a.example", "10.0.0.1"}, d.Names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if _, _, err := Init(dir, []string{"a b"}); err == nil || !strings.Contains(err.Error(), `"a b" is neither`) {
		t.Error(err)
	}
}

func TestTheServerRenewsItsCertificate(t *testing.T) {
	dir := t.TempDir()
	d, _ := mustInit(t, dir, "a.example")
	first, err := d.ServerCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	// Near its end, as after most of a year.
	aged := *d.server.Leaf
	aged.NotBefore, aged.NotAfter = time.Now().Add(-serverLife), time.Now().Add(time.Hour)
	d.server.Leaf = &aged
	second, err := d.ServerCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(second.Leaf.NotAfter); left < serverLife-time.Hour || string(first.Certificate[0]) == "" {
		t.Errorf("certificate is good for %s", left)
	}
	again, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !again.server.Leaf.Equal(second.Leaf) {
		t.Error("the new certificate was not kept")
	}
}
