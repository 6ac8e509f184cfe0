package arch

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ingot/test/need"
)

// skipped are folders that hold nothing a generator reads or writes.
var skipped = map[string]bool{".git": true, ".demo": true, "bin": true}

func TestGeneratedFilesAreUpToDate(t *testing.T) {
	need.Commands(t, "make", "clang", "protoc")
	const root = "../.."
	work := t.TempDir()
	before := files(t, root)
	for name, data := range before {
		path := filepath.Join(work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"install", "tool"}, {"generate", "./..."}} {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = work, append(os.Environ(), "GOBIN="+filepath.Join(work, "bin"), "GOFLAGS=-buildvcs=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	for name, data := range files(t, work) {
		if !bytes.Equal(data, before[name]) {
			t.Errorf("%s is out of date: run `make generate`", name)
		}
	}
}

// files reads the tree below root.
func files(t *testing.T, root string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && skipped[entry.Name()]:
			return filepath.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		all[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
