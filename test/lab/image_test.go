package lab

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot/test/need"
)

func TestGuestImageIsTheSameBytesEachTime(t *testing.T) {
	need.Root(t)
	need.Commands(t, "go", "apt-get", "dpkg-deb", "mke2fs", "debugfs", busyboxPath)
	var images []map[string]int64
	for range 2 {
		dir := t.TempDir()
		if _, err := BuildGuestImage(dir); err != nil {
			t.Fatal(err)
		}
		images = append(images, blobs(t, filepath.Join(dir, "guest")))
	}
	if diff := cmp.Diff(images[0], images[1]); diff != "" {
		t.Errorf("second build differs (-first +second):\n%s", diff)
	}
	if len(images[0]) != 5 {
		t.Errorf("%d blobs, want config, manifest, kernel, initramfs and root file system", len(images[0]))
	}
}

// blobs returns the sizes of a layout's blobs by digest.
func blobs(t *testing.T, layout string) map[string]int64 {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(layout, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int64{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		sizes[e.Name()] = info.Size()
	}
	return sizes
}

// layersOf returns the files of an image's layers by their role.
func layersOf(layout string) (map[string]string, error) {
	blob := func(d ocispec.Descriptor) string {
		return filepath.Join(layout, "blobs", "sha256", d.Digest.Encoded())
	}
	data, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, err
	}
	if data, err = os.ReadFile(blob(index.Manifests[0])); err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(data, &manifest); err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, l := range manifest.Layers {
		files[strings.TrimPrefix(l.MediaType, mediaTypeLayer)] = blob(l)
	}
	return files, nil
}
