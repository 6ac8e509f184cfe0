package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/testing/protocmp"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/seal"
	"ingot/runtime/store/storetest"
)

func testSealer(t *testing.T) seal.Sealer {
	t.Helper()
	s, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tryOpen(t *testing.T, path string) (store.Store, error) {
	t.Helper()
	return Open(storetest.Schema(), Config{Path: path, Sealer: testSealer(t), History: 64, LockTimeout: 50 * time.Millisecond})
}

func mustOpen(t *testing.T, path string) store.Store {
	t.Helper()
	s, err := tryOpen(t, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustClose(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustTxn(t *testing.T, s store.Store, op store.OpType, r *resource.Resource) {
	t.Helper()
	if _, err := s.Txn(t.Context(), store.Txn{Ops: []store.Op{{Type: op, Resource: r}}}); err != nil {
		t.Fatal(err)
	}
}

func everything(t *testing.T, s store.Store) []*resource.Resource {
	t.Helper()
	var all []*resource.Resource
	for _, kind := range storetest.Schema().Kinds() {
		page, err := s.List(t.Context(), store.Query{Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.Items...)
	}
	return all
}

func TestConformance(t *testing.T) {
	storetest.Suite(t, func(t *testing.T) store.Store {
		return mustOpen(t, filepath.Join(t.TempDir(), "store"))
	})
}

func TestEverythingSurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	s := mustOpen(t, path)
	full := storetest.New(storetest.Server, "p", "a", "host", "h1", "v", "1")
	full.Labels = map[string]string{"tier": "web"}
	full.Annotations = map[string]string{"note": "x"}
	full.Finalizers = []string{"one", "two"}
	mustTxn(t, s, store.Create, full)
	mustTxn(t, s, store.Create, storetest.New(storetest.Zone, "", "z"))
	mustTxn(t, s, store.Create, storetest.New(storetest.Token, "p", "t", "v", "secret"))
	mustTxn(t, s, store.Create, storetest.New(storetest.Server, "p", "gone"))
	mustTxn(t, s, store.Delete, storetest.New(storetest.Server, "p", "gone"))
	mustTxn(t, s, store.Delete, full)
	want, revision := everything(t, s), s.Revision()
	mustClose(t, s)

	s = mustOpen(t, path)
	if diff := cmp.Diff(want, everything(t, s), protocmp.Transform()); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	if s.Revision() != revision {
		t.Errorf("revision %d, want %d", s.Revision(), revision)
	}
	page, err := s.List(t.Context(), store.Query{Kind: storetest.Server, Index: "host", Value: "h1"})
	if err != nil || len(page.Items) != 1 {
		t.Errorf("index after a restart: %v, %v", page.Items, err)
	}
	for from, reset := range map[uint64]bool{revision - 1: true, revision: false} {
		w, err := s.Watch(t.Context(), from, store.Query{Kind: storetest.Zone})
		if err != nil {
			t.Fatal(err)
		}
		mustTxn(t, s, store.Create, storetest.New(storetest.Zone, "", fmt.Sprint("new", from)))
		if batch, err := w.Next(t.Context()); err != nil || batch.Reset != reset {
			t.Errorf("watch from %d over a restart at %d: reset %t, %v", from, revision, batch.Reset, err)
		}
	}
}

func TestTheFileIsOnlyItsOwners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	for _, before := range []os.FileMode{0, 0o644} {
		if before != 0 {
			if err := os.Chmod(path, before); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, mustOpen(t, path))
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
}

func TestALockedFileNamesItsHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	mustOpen(t, path)
	_, err := tryOpen(t, path)
	if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), fmt.Sprintf("locked by process %d (bolt.test)", os.Getpid())) {
		t.Errorf("second open: %v", err)
	}
}

func TestSealedKindsAreNotReadableOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	s := mustOpen(t, path)
	token := storetest.New(storetest.Token, "p", "t", "v", "hunter2-spec")
	token.Annotations = map[string]string{"note": "hunter2-note"}
	mustTxn(t, s, store.Create, token)
	mustTxn(t, s, store.Create, storetest.New(storetest.Server, "p", "s", "v", "plain-spec"))
	mustClose(t, s)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("hunter2")) || !bytes.Contains(data, []byte("plain-spec")) {
		t.Error("the secret is in the file, or nothing is")
	}
	other, err := seal.New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(storetest.Schema(), Config{Path: path, Sealer: other})
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "Token/p/t") {
		t.Errorf("open with another key: %v", err)
	}
	if _, err := Open(storetest.Schema(), Config{Path: path}); !errors.Is(err, fault.Precondition) {
		t.Errorf("open without a key: %v", err)
	}
}

// edit changes the file behind the store's back.
func edit(t *testing.T, path string, fn func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(fn); err != nil {
		t.Fatal(err)
	}
}

func TestCorruptRecordsAreNamed(t *testing.T) {
	servers := []byte("kind/Server")
	for _, tt := range []struct {
		name, want string
		damage     func(b *bbolt.Bucket) error
	}{
		{"a flipped bit", "Server/p/a: checksum", func(b *bbolt.Bucket) error {
			value := bytes.Clone(b.Get([]byte("p\x00a")))
			value[len(value)-1] ^= 1
			return b.Put([]byte("p\x00a"), value)
		}},
		{"a short record", "Server/p/a: checksum", func(b *bbolt.Bucket) error { return b.Put([]byte("p\x00a"), []byte{1}) }},
		{"a record at another's place", "Server/p/c: checksum", func(b *bbolt.Bucket) error {
			return b.Put([]byte("p\x00c"), bytes.Clone(b.Get([]byte("p\x00a"))))
		}},
		{"a key without project", "Server at \"x\"", func(b *bbolt.Bucket) error { return b.Put([]byte("x"), []byte{1}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store")
			s := mustOpen(t, path)
			mustTxn(t, s, store.Create, storetest.New(storetest.Server, "p", "a", "v", "1"))
			mustTxn(t, s, store.Create, storetest.New(storetest.Server, "p", "b", "v", "1"))
			mustClose(t, s)
			edit(t, path, func(tx *bbolt.Tx) error { return tt.damage(tx.Bucket(servers)) })
			_, err := tryOpen(t, path)
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "/p/b") {
				t.Errorf("open: %v, want %q named", err, tt.want)
			}
		})
	}
}

func TestDamagedFilesAreErrors(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "whole")
	s := mustOpen(t, whole)
	for i := range 500 {
		mustTxn(t, s, store.Create, storetest.New(storetest.Server, "p", fmt.Sprint(i), "v", strings.Repeat("x", 100)))
	}
	mustClose(t, s)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{
		"not a store": []byte(strings.Repeat("no store\n", 1000)),
		"cut off":     data[:len(data)/2],
		"zeroed":      append(data[:2*4096:2*4096], make([]byte, len(data)-2*4096)...),
	} {
		path := filepath.Join(t.TempDir(), "store")
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := tryOpen(t, path); err == nil {
			t.Errorf("%s: opened with %d resources", name, len(everything(t, s)))
			s.Close()
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v does not name the file", name, err)
		}
	}
}

func TestAFormatOfTheFutureIsUnsupported(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	mustClose(t, mustOpen(t, path))
	edit(t, path, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(metaBucket)).Put([]byte(formatKey), []byte("ingot-store-9"))
	})
	if _, err := tryOpen(t, path); !errors.Is(err, fault.Unsupported) {
		t.Errorf("open: %v", err)
	}
}

func TestAnUnencodableResourceRefusesOnlyItsOwnTransaction(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "store"))
	_, err := s.Txn(t.Context(), store.Txn{Ops: []store.Op{{Type: store.Create, Resource: storetest.New(storetest.Server, "p", "a", "v", "\xff")}}})
	if err == nil || !strings.Contains(err.Error(), "Server/p/a") {
		t.Errorf("resource with invalid UTF-8: %v", err)
	}
	mustTxn(t, s, store.Create, storetest.New(storetest.Server, "p", "b"))
}

func TestCrash(t *testing.T) { storetest.Crash(t, mustOpen) }

func TestModel(t *testing.T) {
	paths := map[store.Store]string{}
	open := func(t *testing.T) store.Store {
		path := filepath.Join(t.TempDir(), "store")
		s := mustOpen(t, path)
		paths[s] = path
		return s
	}
	storetest.Model(t, open, func(t *testing.T, s store.Store) store.Store {
		mustClose(t, s)
		again := mustOpen(t, paths[s])
		paths[again] = paths[s]
		return again
	})
}

func TestLinearizable(t *testing.T) {
	storetest.Linearizable(t, func(t *testing.T) store.Store { return mustOpen(t, filepath.Join(t.TempDir(), "store")) })
}
