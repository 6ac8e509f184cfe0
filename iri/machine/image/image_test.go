package image

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot/runtime/fault"
	"ingot/test/need"
)

// shelf is what a registry or a layout holds.
type shelf struct {
	blobs map[string][]byte // by digest
	tags  map[string]ocispec.Descriptor
}

func newShelf() *shelf {
	return &shelf{blobs: map[string][]byte{}, tags: map[string]ocispec.Descriptor{}}
}

func (c *shelf) add(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	c.blobs[d.Digest.String()] = data
	return d
}

func (c *shelf) addJSON(mediaType string, v any) ocispec.Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return c.add(mediaType, data)
}

const prefix = "application/vnd.ironcore.image."

// image adds an IronCore image with the given layers and tags it.
func (c *shelf) image(tag, cmdline string, layers ...ocispec.Descriptor) ocispec.Descriptor {
	config := c.addJSON(prefix+"config.v1+json", map[string]string{"commandLine": cmdline})
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers}
	m.SchemaVersion = 2
	d := c.addJSON(ocispec.MediaTypeImageManifest, m)
	c.tags[tag] = d
	return d
}

// layout writes the content as an OCI layout and returns its directory.
func (c *shelf) layout(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for tag, d := range c.tags {
		d.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
		index.Manifests = append(index.Manifests, d)
	}
	data, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "index.json"), data)
	write(t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	for d, data := range c.blobs {
		write(t, filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:")), data)
	}
	return dir
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// registry serves the content over HTTP. before, if set, may answer a request itself.
func (c *shelf) registry(t testing.TB, before func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before != nil && before(w, r) {
			return
		}
		name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		d, ok := c.tags[name]
		if !ok {
			d.Digest = digest.Digest(name)
		}
		data, ok := c.blobs[d.Digest.String()]
		if !ok {
			http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
			return
		}
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Docker-Content-Digest", d.Digest.String())
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if r.Method != http.MethodHead {
			_, _ = w.Write(data)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func open(t testing.TB, cfg Config) *Cache {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// read renders an image by the content of its files.
func read(t testing.TB, img Image) map[string]string {
	t.Helper()
	out := map[string]string{"cmdline": img.Cmdline}
	for name, path := range map[string]string{"kernel": img.Kernel, "initramfs": img.Initramfs, "disk": img.Disk} {
		if path == "" {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = strings.TrimRight(string(data), "\x00")
	}
	return out
}

func TestImagesOfEveryKind(t *testing.T) {
	c := newShelf()
	k, i := c.add(prefix+"kernel", []byte("k")), c.add(prefix+"initramfs", []byte("i"))
	d, s := c.add(prefix+"rootfs", []byte("d")), c.add(prefix+"squashfs", []byte("s"))
	c.image("all", "quiet", k, i, d)
	c.image("old", "", c.add(prefix+"vmlinuz.v1alpha1.vmlinuz", []byte("ok")), c.add(prefix+"initramfs.v1alpha1.initramfs", []byte("oi")), c.add(prefix+"rootfs.v1alpha1.rootfs", []byte("od")))
	c.image("squash", "", k, i, s)
	c.image("both", "", s, d)
	c.image("raw", "", c.add("application/x-raw-disk-image", []byte("raw")))
	metal, virtual := c.image("metal", "metal", k), c.image("virtual", "virtual", k)
	metal.Platform, virtual.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}, &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	virtual.Annotations = map[string]string{"variant": "virtualization"}
	arm := c.image("arm", "arm", k)
	arm.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	c.tags["index"] = c.addJSON(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{arm, metal, virtual}})
	c.tags["foreign"] = c.addJSON(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{arm}})
	c.image("tarball", "", c.add("application/vnd.oci.image.layer.v1.tar+gzip", []byte("t")))
	c.image("empty", "")
	layout := c.layout(t)
	cache := open(t, Config{LayoutDirs: []string{filepath.Dir(layout)}, Architecture: "amd64"})

	tests := []struct {
		name, ref string
		want      map[string]string
		class     error
	}{
		{name: "kernel, initramfs and disk", ref: "all", want: map[string]string{"kernel": "k", "initramfs": "i", "disk": "d", "cmdline": "quiet"}},
		{name: "older media types", ref: "old", want: map[string]string{"kernel": "ok", "initramfs": "oi", "disk": "od", "cmdline": ""}},
		{name: "squashfs is the disk", ref: "squash", want: map[string]string{"kernel": "k", "initramfs": "i", "disk": "s", "cmdline": ""}},
		{name: "unless there is another", ref: "both", want: map[string]string{"disk": "d", "cmdline": ""}},
		{name: "plain disk", ref: "raw", want: map[string]string{"disk": "raw", "cmdline": ""}},
		{name: "index: architecture and variant", ref: "index", want: map[string]string{"kernel": "k", "cmdline": "virtual"}},
		{name: "index without our architecture", ref: "foreign", class: fault.NotFound},
		{name: "container image", ref: "tarball", class: fault.Unsupported},
		{name: "nothing to boot", ref: "empty", class: fault.Unsupported},
		{name: "unknown tag", ref: "nothing", class: fault.NotFound},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			img, err := cache.Ensure(t.Context(), "oci-layout:"+layout+":"+test.ref)
			if !errors.Is(err, test.class) {
				t.Fatalf("error %v, want %v", err, test.class)
			}
			if test.class != nil {
				return
			}
			if diff := cmp.Diff(test.want, read(t, img)); diff != "" {
				t.Errorf("image (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReferencesThatAreRefused(t *testing.T) {
	layout := newShelf().layout(t)
	allowed := t.TempDir()
	if err := os.Symlink(layout, filepath.Join(allowed, "link")); err != nil {
		t.Fatal(err)
	}
	cache := open(t, Config{LayoutDirs: []string{allowed}})
	tests := []struct {
		ref   string
		class error
	}{
		{"", fault.Invalid}, {"example.org/Case:1", fault.Invalid}, {"oci-layout:/nowhere", fault.Invalid},
		{"oci-layout:relative:latest", fault.Invalid}, {"oci-layout:/nowhere:latest", fault.NotFound},
		{"oci-layout:" + layout + ":latest", fault.Denied},
		{"oci-layout:" + allowed + "/link:latest", fault.Denied},
		{"oci-layout:" + allowed + "/../" + filepath.Base(allowed) + "x:latest", fault.NotFound},
	}
	for _, test := range tests {
		if _, err := cache.Ensure(t.Context(), test.ref); !errors.Is(err, test.class) {
			t.Errorf("%q: %v, want %v", test.ref, err, test.class)
		}
	}
}

func TestRegistryIsAskedForEachBlobOnceByAll(t *testing.T) {
	c := newShelf()
	c.image("1", "", c.add(prefix+"rootfs", []byte("disk")))
	var blobs atomic.Int32
	host := c.registry(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet {
			blobs.Add(1)
		}
		return false
	})
	cache := open(t, Config{PlainHTTP: []string{host}})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := cache.Ensure(t.Context(), host+"/os:1"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := blobs.Load(); n != 2 { // the config and the disk
		t.Errorf("%d blobs fetched, want 2", n)
	}
}

func TestDigestInTheCacheNeedsNoRegistry(t *testing.T) {
	c := newShelf()
	d := c.image("1", "", c.add(prefix+"rootfs", []byte("disk")))
	var down atomic.Bool
	host := c.registry(t, func(w http.ResponseWriter, _ *http.Request) bool {
		if down.Load() {
			w.WriteHeader(http.StatusTeapot)
		}
		return down.Load()
	})
	cache := open(t, Config{PlainHTTP: []string{host}})
	ref := host + "/os@" + d.Digest.String()
	if _, err := cache.Ensure(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	down.Store(true)
	if img, err := cache.Ensure(t.Context(), ref); err != nil || read(t, img)["disk"] != "disk" {
		t.Errorf("%v, %v", img, err)
	}
}

// Everything that can go wrong on the way fails with the reference named, leaves nothing under a
// digest's name, backs off, and heals.
func TestFailedPullNeverPoisons(t *testing.T) {
	disk := []byte("the content of the disk")
	tests := []struct {
		name string
		blob func(http.ResponseWriter)
	}{
		{name: "other bytes", blob: func(w http.ResponseWriter) { _, _ = w.Write([]byte("THE CONTENT OF THE DISK")) }},
		{name: "too short", blob: func(w http.ResponseWriter) { _, _ = w.Write(disk[:5]) }},
		{name: "too long", blob: func(w http.ResponseWriter) { _, _ = w.Write(append([]byte{}, append(disk, "more"...)...)) }},
		{name: "cut off", blob: func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(len(disk)))
			_, _ = w.Write(disk[:5])
			panic(http.ErrAbortHandler)
		}},
		{name: "stalled", blob: func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(len(disk)))
			_, _ = w.Write(disk[:5])
			w.(http.Flusher).Flush()
			<-time.After(3 * time.Second)
		}},
		{name: "missing", blob: func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newShelf()
			layer := c.add(prefix+"rootfs", disk)
			c.image("1", "", layer)
			var healed atomic.Bool
			var asked atomic.Int32
			host := c.registry(t, func(w http.ResponseWriter, r *http.Request) bool {
				asked.Add(1)
				if healed.Load() || !strings.HasSuffix(r.URL.Path, layer.Digest.String()) {
					return false
				}
				test.blob(w)
				return true
			})
			cache := open(t, Config{PlainHTTP: []string{host}, RetryMin: 100 * time.Millisecond, StallTimeout: time.Second})
			ref := host + "/os:1"
			_, err := cache.Ensure(t.Context(), ref)
			var pull *PullError
			if !errors.As(err, &pull) || pull.Reference != ref || !strings.Contains(err.Error(), ref) {
				t.Fatalf("error %v", err)
			}
			before := asked.Load()
			if _, again := cache.Ensure(t.Context(), ref); again == nil || asked.Load() != before {
				t.Errorf("no back-off: %v", again)
			}
			if left, _ := filepath.Glob(filepath.Join(cache.tmpDir(), "*")); len(left) > 0 {
				t.Errorf("left %v", left)
			}
			if _, err := os.Stat(cache.blobPath(layer.Digest)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a blob that failed is in the cache: %v", err)
			}
			healed.Store(true)
			<-time.After(time.Until(pull.RetryAt))
			if img, err := cache.Ensure(t.Context(), ref); err != nil || read(t, img)["disk"] != string(disk) {
				t.Errorf("healed: %v, %v", img, err)
			}
		})
	}
}

func TestLeavingCallerLeavesThePull(t *testing.T) {
	c := newShelf()
	c.image("1", "", c.add(prefix+"rootfs", []byte("disk")))
	release := make(chan struct{})
	host := c.registry(t, func(http.ResponseWriter, *http.Request) bool {
		<-release
		return false
	})
	cache := open(t, Config{PlainHTTP: []string{host}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cache.Ensure(ctx, host+"/os:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	close(release)
	if _, err := cache.Ensure(t.Context(), host+"/os:1"); err != nil {
		t.Error(err)
	}
}

func TestQcow2IsUnpackedAndNamesNoOtherFile(t *testing.T) {
	need.Commands(t, "qemu-img")
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	want := make([]byte, 1<<20)
	copy(want[512<<10:], "data in the middle")
	write(t, raw, want)
	qemuImg := func(args ...string) []byte {
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img %v: %v: %s", args, err, out)
		}
		data, err := os.ReadFile(args[len(args)-1])
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	c := newShelf()
	add := func(tag string, data []byte) { c.image(tag, "", c.add(prefix+"rootfs", data)) }
	plain := qemuImg("convert", "-O", "qcow2", raw, filepath.Join(dir, "plain"))
	add("plain", plain)
	add("compressed", qemuImg("convert", "-c", "-O", "qcow2", raw, filepath.Join(dir, "compressed")))
	add("backing", qemuImg("convert", "-O", "qcow2", "-B", raw, "-F", "raw", raw, filepath.Join(dir, "backing")))
	external := append([]byte{}, plain...)
	binary.BigEndian.PutUint64(external[qcow2FeaturesOffset:], qcow2ExternalData)
	add("external", external)
	huge := slices.Clone(plain)
	binary.BigEndian.PutUint32(huge[qcow2L1Offset:], 1<<31)
	add("huge", huge)
	add("broken", []byte(qcow2Magic+strings.Repeat("\x00", 200)))
	layout := c.layout(t)
	cache := open(t, Config{LayoutDirs: []string{layout}})
	for _, tag := range []string{"plain", "compressed"} {
		img, err := cache.Ensure(t.Context(), "oci-layout:"+layout+":"+tag)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(img.Disk); err != nil || sum(got) != sum(want) {
			t.Errorf("%s: %v, %d bytes", tag, err, len(got))
		}
	}
	for _, tag := range []string{"backing", "external", "huge", "broken"} {
		if _, err := cache.Ensure(t.Context(), "oci-layout:"+layout+":"+tag); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", tag, err)
		}
	}
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func TestImageThatWouldFillTheHostIsRefused(t *testing.T) {
	shelf := newShelf()
	layer := shelf.add("application/vnd.ironcore.image.rootfs", []byte("disk"))
	layer.Size = 1 << 60
	shelf.image("v1", "", layer)
	layout := shelf.layout(t)
	_, err := open(t, Config{LayoutDirs: []string{layout}}).Ensure(t.Context(), "oci-layout:"+layout+":v1")
	if !errors.Is(err, fault.Exhausted) {
		t.Errorf("got %v, want that there is no room", err)
	}
}

func TestSweepDropsWhatWasUsedLongestAgo(t *testing.T) {
	c := newShelf()
	c.image("1", "", c.add(prefix+"rootfs", []byte(strings.Repeat("1", 64<<10))))
	c.image("2", "", c.add(prefix+"rootfs", []byte(strings.Repeat("2", 64<<10))))
	layout := c.layout(t)
	cache := open(t, Config{LayoutDirs: []string{layout}, MaxBytes: 100 << 10})
	ensure := func(tag string) Image {
		img, err := cache.Ensure(t.Context(), "oci-layout:"+layout+":"+tag)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	first := ensure("1")
	second := ensure("2")
	for _, img := range []Image{first, second} {
		if _, err := os.Stat(img.Disk); err != nil {
			t.Errorf("swept within the hour: %v", err)
		}
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(first.Disk, old, old); err != nil {
		t.Fatal(err)
	}
	if err := cache.sweep(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first.Disk); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the oldest stays: %v", err)
	}
	if _, err := os.Stat(second.Disk); err != nil {
		t.Errorf("the newest is gone: %v", err)
	}
}
