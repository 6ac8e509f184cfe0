package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"ingot/runtime/fault"
	"ingot/test/need"
)

func self() Owner { return Owner{UserID: uint32(os.Getuid()), GroupID: uint32(os.Getgid())} }

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	content := bytes.Repeat([]byte("x"), 8192)
	if err := os.WriteFile(source, content, 0o400); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, source string
		size         int64
		want         []byte
		class        error
	}{
		{name: "empty", size: 4096, want: make([]byte, 4096)},
		{name: "copy", source: source, want: content},
		{name: "grown copy", source: source, size: 16384, want: append(bytes.Clone(content), make([]byte, 8192)...)},
		{name: "smaller than its image", source: source, size: 4096, class: fault.Invalid},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			err := Create(context.Background(), path, test.source, test.size, self())
			if !errors.Is(err, test.class) {
				t.Fatalf("error %v, want %v", err, test.class)
			}
			got, _ := os.ReadFile(path)
			if !bytes.Equal(got, test.want) {
				t.Errorf("%d bytes, want %d", len(got), len(test.want))
			}
			if left, _ := filepath.Glob(path + "*.tmp"); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestHolesStayHoles(t *testing.T) {
	dir := t.TempDir()
	source, path := filepath.Join(dir, "source"), filepath.Join(dir, "disk")
	f, err := os.Create(source)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("end"), 256<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := Create(context.Background(), path, source, 1<<30, self()); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Size != 1<<30 || stat.Blocks*512 > 1<<20 {
		t.Errorf("size %d, on disk %d", stat.Size, stat.Blocks*512)
	}
}

func TestDiskThatExistsIsNotTouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, []byte("guest's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(context.Background(), path, "", 4096, self()); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "guest's" {
		t.Errorf("content %q", got)
	}
}

// A full file system is Exhausted and leaves nothing; with room again, the repetition succeeds.
func TestFullFileSystem(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	if err := os.WriteFile(source, bytes.Repeat([]byte("x"), 1<<20), 0o400); err != nil {
		t.Fatal(err)
	}
	small := filepath.Join(dir, "small")
	done := make(chan struct{})
	go func() { // the mount lives on this thread and ends with it
		defer close(done)
		runtime.LockOSThread()
		if err := errors.Join(os.Mkdir(small, 0o755), unix.Unshare(unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", small, "tmpfs", 0, "size=512k")); err != nil {
			t.Error(err)
			return
		}
		path := filepath.Join(small, "disk")
		if err := Create(context.Background(), path, source, 0, self()); !errors.Is(err, fault.Exhausted) {
			t.Errorf("error %v, want Exhausted", err)
		}
		if left, _ := filepath.Glob(filepath.Join(small, "*")); len(left) > 0 {
			t.Errorf("left %v", left)
		}
		if err := unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, "size=2m"); err != nil {
			t.Error(err)
		}
		if err := Create(context.Background(), path, source, 0, self()); err != nil {
			t.Errorf("with room: %v", err)
		}
		linked := filepath.Join(small, "kernel")
		if err := Link(context.Background(), linked, source, self()); err != nil {
			t.Errorf("link across file systems: %v", err)
		}
	}()
	<-done
}

func TestLinkSharesTheFile(t *testing.T) {
	dir := t.TempDir()
	source, path := filepath.Join(dir, "source"), filepath.Join(dir, "kernel")
	if err := os.WriteFile(source, []byte("kernel"), 0o400); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Link(context.Background(), path, source, self()); err != nil {
			t.Fatal(err)
		}
	}
	a, _ := os.Stat(source)
	b, _ := os.Stat(path)
	if !os.SameFile(a, b) {
		t.Error("not the same file")
	}
}
