package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"ingot/runtime/fault"
)

// The layers of a machine image by media type: IronCore's
// (https://github.com/ironcore-dev/ironcore-image, image.go and OCI-SPEC.md) with their older
// names, and plain disk images. Whether a disk is qcow2 is read from the disk.
var layerRoles = map[string]role{
	"application/vnd.ironcore.image.kernel":                       kernel,
	"application/vnd.ironcore.image.vmlinuz.v1alpha1.vmlinuz":     kernel,
	"application/vnd.ironcore.osboot.kernel":                      kernel,
	"application/vnd.ironcore.image.initramfs":                    initramfs,
	"application/vnd.ironcore.image.initramfs.v1alpha1.initramfs": initramfs,
	"application/vnd.ironcore.osboot.initramfs":                   initramfs,
	"application/vnd.ironcore.image.rootfs":                       disk,
	"application/vnd.ironcore.image.rootfs.v1alpha1.rootfs":       disk,
	"application/vnd.ironcore.osboot.disk.img":                    disk,
	"application/x-raw-disk-image":                                disk,
	"application/x-qemu-disk":                                     disk,
	"application/x-qcow2":                                         disk,
	"application/vnd.ironcore.image.squashfs":                     squashfs,
	"application/vnd.ironcore.image.squashfs.v1alpha1.squashfs":   squashfs,
	"application/vnd.ironcore.osboot.squashfs":                    squashfs,
	// Parts of images that boot other ways; a machine does not need them.
	"application/vnd.ironcore.image.uki": unused,
	"application/vnd.ironcore.image.iso": unused,
}

type role uint8

const (
	unused role = iota
	kernel
	initramfs
	disk
	squashfs // the disk of an image that has no other
	roles
)

const (
	maxManifestBytes = 4 << 20
	// maxIndexDepth bounds indexes within indexes.
	maxIndexDepth = 4
)

// pull resolves the reference and fetches what is not in the cache.
func (c *Cache) pull(ctx context.Context, reference string) (Image, error) {
	src, name, err := c.open(ctx, reference)
	if err != nil {
		return Image{}, err
	}
	desc, err := c.resolve(ctx, src, name)
	if err != nil {
		return Image{}, fmt.Errorf("resolve %q: %w", name, classify(err))
	}
	manifest, desc, err := c.manifest(ctx, src, desc, maxIndexDepth)
	if err != nil {
		return Image{}, err
	}
	var layers [roles]*ocispec.Descriptor
	for i, layer := range manifest.Layers {
		r, ok := layerRoles[layer.MediaType]
		if !ok {
			return Image{}, fmt.Errorf("%w: layer of media type %q is not a kernel, initramfs or disk",
				fault.Unsupported, layer.MediaType)
		}
		if layers[r] == nil {
			layers[r] = &manifest.Layers[i]
		}
	}
	img := Image{Reference: reference, Digest: desc.Digest.String()}
	if layers[disk] == nil {
		layers[disk] = layers[squashfs]
	}
	if layers[kernel] == nil && layers[disk] == nil {
		return Image{}, fmt.Errorf("%w: the image has neither a kernel nor a disk", fault.Unsupported)
	}
	for r, path := range map[role]*string{kernel: &img.Kernel, initramfs: &img.Initramfs, disk: &img.Disk} {
		if layers[r] == nil {
			continue
		}
		if *path, err = c.fetch(ctx, src, *layers[r]); err != nil {
			return Image{}, err
		}
	}
	if img.Disk != "" {
		if img.Disk, err = c.raw(img.Disk); err != nil {
			return Image{}, err
		}
	}
	img.Cmdline, err = c.cmdline(ctx, src, manifest.Config)
	return img, err
}

// resolve finds the manifest of a tag or digest; a digest in the cache needs no source.
func (c *Cache) resolve(ctx context.Context, src source, name string) (ocispec.Descriptor, error) {
	if d, err := digest.Parse(name); err == nil && d.Algorithm() == digest.SHA256 {
		if info, err := os.Stat(c.blobPath(d)); err == nil {
			return ocispec.Descriptor{Digest: d, Size: info.Size()}, nil
		}
	}
	return src.Resolve(ctx, name)
}

// document is a manifest or an index.
type document struct {
	ocispec.Manifest
	Manifests []ocispec.Descriptor `json:"manifests"`
}

// manifest reads the manifest behind desc, through indexes, for the host's architecture.
func (c *Cache) manifest(ctx context.Context, src source, desc ocispec.Descriptor, depth int) (ocispec.Manifest, ocispec.Descriptor, error) {
	var doc document
	if err := c.readJSON(ctx, src, desc, &doc); err != nil {
		return ocispec.Manifest{}, desc, fmt.Errorf("read manifest: %w", err)
	}
	if len(doc.Manifests) == 0 {
		return doc.Manifest, desc, nil
	}
	if depth == 0 {
		return ocispec.Manifest{}, desc, fmt.Errorf("%w: indexes nested deeper than %d", fault.Unsupported, maxIndexDepth)
	}
	next, ok := c.choose(doc.Manifests)
	if !ok {
		return ocispec.Manifest{}, desc, fmt.Errorf("%w: the index has no image for linux/%s", fault.NotFound, c.cfg.Architecture)
	}
	return c.manifest(ctx, src, next, depth-1)
}

// choose picks the host's architecture, and among several the variant made for virtual machines.
func (c *Cache) choose(manifests []ocispec.Descriptor) (best ocispec.Descriptor, found bool) {
	for _, m := range manifests {
		if m.Platform != nil && (m.Platform.Architecture != c.cfg.Architecture || m.Platform.OS != "linux") {
			continue
		}
		if !found || m.Annotations["variant"] == "virtualization" {
			best, found = m, true
		}
	}
	return best, found
}

// cmdline reads the kernel command line from the image's config, when that is an IronCore one.
func (c *Cache) cmdline(ctx context.Context, src source, desc ocispec.Descriptor) (string, error) {
	switch desc.MediaType {
	case "application/vnd.ironcore.image.config.v1+json", "application/vnd.ironcore.image.config.v1alpha1+json",
		"application/vnd.ironcore.osboot.config.v1+json":
	default:
		return "", nil
	}
	var config struct {
		CommandLine string `json:"commandLine"`
	}
	if err := c.readJSON(ctx, src, desc, &config); err != nil {
		return "", fmt.Errorf("read image config: %w", err)
	}
	return config.CommandLine, nil
}

func (c *Cache) readJSON(ctx context.Context, src source, desc ocispec.Descriptor, into any) error {
	if desc.Size > maxManifestBytes {
		return fmt.Errorf("%w: %s has %d bytes, at most %d are read", fault.Unsupported, desc.Digest, desc.Size, maxManifestBytes)
	}
	path, err := c.fetch(ctx, src, desc)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%w: %s: %w", fault.Invalid, desc.Digest, err)
	}
	return nil
}

func (c *Cache) blobPath(d digest.Digest) string { return filepath.Join(c.blobDir(), d.Encoded()) }

// fetch returns the blob's file in the cache, downloaded and verified if it is not there.
// A blob appears under its name only when all its bytes were verified and are on disk.
func (c *Cache) fetch(ctx context.Context, src source, desc ocispec.Descriptor) (string, error) {
	if err := desc.Digest.Validate(); err != nil || desc.Digest.Algorithm() != digest.SHA256 {
		return "", fmt.Errorf("%w digest %q: want sha256", fault.Invalid, desc.Digest)
	}
	path := c.blobPath(desc.Digest)
	_, err, _ := c.fetches.Do(path, func() (any, error) {
		now := time.Now()
		if err := os.Chtimes(path, now, now); !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, c.publish(path, func(f *os.File) error { return c.download(ctx, src, desc, f) })
	})
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", desc.Digest, classify(err))
	}
	return path, nil
}

// room fails unless bytes fit into half of what the file system has left: an image that a tenant
// names must not stop the disks of machines that run.
func (c *Cache) room(bytes int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(c.cfg.Dir, &fs); err != nil {
		return fmt.Errorf("look at file system of %s: %w", c.cfg.Dir, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; bytes > free/2 {
		return fmt.Errorf("%w: %d bytes of an image; %d are free, and half of them are for machines", fault.Exhausted, bytes, free)
	}
	return nil
}

func (c *Cache) download(ctx context.Context, src source, desc ocispec.Descriptor, f *os.File) error {
	if err := c.room(desc.Size); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(c.cfg.StallTimeout, func() {
		cancel(fmt.Errorf("%w: nothing received for %s", fault.Unavailable, c.cfg.StallTimeout))
	})
	defer stall.Stop()
	body, err := src.Fetch(ctx, desc)
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	defer body.Close()
	verified := content.NewVerifyReader(readerFunc(func(p []byte) (int, error) {
		n, err := body.Read(p)
		if n > 0 {
			stall.Reset(c.cfg.StallTimeout)
		}
		return n, err
	}), desc)
	if _, err := io.Copy(f, verified); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return verified.Verify()
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// publish writes a file aside and moves it to path when it is complete and on disk.
func (c *Cache) publish(path string, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(c.tmpDir(), filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o440); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// classify gives errors of the registry library a class.
func classify(err error) error {
	if errors.Is(err, errdef.ErrNotFound) {
		return fmt.Errorf("%w: %w", fault.NotFound, err)
	}
	return err
}
