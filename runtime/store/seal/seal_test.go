package seal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ingot/runtime/fault"
)

func TestWhatIsSealedOpensOnlyUnchanged(t *testing.T) {
	s, err := New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.Seal([]byte("secret"), []byte("Secret/1"))
	if err != nil || bytes.Contains(sealed, []byte("secret")) {
		t.Fatalf("sealed %q, %v", sealed, err)
	}
	if plain, err := s.Open(sealed, []byte("Secret/1")); err != nil || string(plain) != "secret" {
		t.Errorf("opened %q, %v", plain, err)
	}
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, tt := range map[string][2][]byte{
		"other data": {sealed, []byte("Secret/2")}, "changed": {changed, []byte("Secret/1")}, "short": {sealed[:5], []byte("Secret/1")},
	} {
		if _, err := s.Open(tt[0], tt[1]); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	again, err := s.Seal([]byte("secret"), []byte("Secret/1"))
	if err != nil || bytes.Equal(again, sealed) {
		t.Errorf("sealed twice alike, %v", err)
	}
}

func TestKeyFileIsMadeOnceAndKeptPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	first, err := FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key file: %v, %v", info.Mode(), err)
	}
	sealed, err := first.Seal([]byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := second.Open(sealed, nil); err != nil || string(plain) != "secret" {
		t.Errorf("opened with the key of the file: %q, %v", plain, err)
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := FromFile(path); !errors.Is(err, fault.Precondition) {
		t.Errorf("key that a group may read: %v", err)
	}
}

func TestAKeyFileThatIsNoKeyIsInvalid(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "short": "00ff", "not hex": "zz", "long": string(bytes.Repeat([]byte("0"), 70))} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := FromFile(path); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}
