// Package image owns the host's cache of machine images: it pulls OCI artifacts from registries
// and from layout directories, verifies every byte against its digest, and keeps each once. It
// never runs anything and never hands out a file that was not verified.
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// An Image is what a machine boots from, as files in the cache. They are read-only and shared.
type Image struct {
	// Reference is what was asked for, Digest the manifest it led to.
	Reference, Digest string
	// Kernel and Initramfs are set when the image boots directly. Cmdline is the image's, maybe empty.
	Kernel, Initramfs, Cmdline string
	// Disk is the content of the first disk, raw. Empty when the image has none.
	Disk string
}

// Config configures a Cache. Zero values are the defaults named.
type Config struct {
	// Dir is the cache's own directory. Required.
	Dir string
	// LayoutDirs are the directories below which oci-layout: references are allowed. Machines are
	// asked for by tenants, so none is allowed by default.
	LayoutDirs []string
	// PlainHTTP lists registries (host or host:port) spoken to without TLS.
	PlainHTTP []string
	// CredentialsFile is a Docker config.json with the registries' credentials. Empty: anonymous.
	CredentialsFile string
	// Architecture selects among the images of an index. Default: the host's.
	Architecture string
	// MaxBytes is the size above which the images used longest ago are dropped after a pull.
	// Default 32 GiB. What was used within the last hour stays.
	MaxBytes int64
	// RetryMin and RetryMax bound the back-off of a reference that could not be pulled.
	// Default 1 s and 5 min.
	RetryMin, RetryMax time.Duration
	// StallTimeout ends a download that delivers nothing for that long. Default 60 s.
	StallTimeout time.Duration
	// Log defaults to slog.Default.
	Log *slog.Logger
}

// Validate reports all faults, joined.
func (c Config) Validate() error {
	var errs []error
	if !filepath.IsAbs(c.Dir) {
		errs = append(errs, fmt.Errorf("dir %q: must be absolute", c.Dir))
	}
	for _, dir := range c.LayoutDirs {
		if !filepath.IsAbs(dir) {
			errs = append(errs, fmt.Errorf("layout dir %q: must be absolute", dir))
		}
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	if c.Architecture == "" {
		c.Architecture = runtime.GOARCH
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 32 << 30
	}
	if c.RetryMin == 0 {
		c.RetryMin = time.Second
	}
	if c.RetryMax == 0 {
		c.RetryMax = 5 * time.Minute
	}
	if c.StallTimeout == 0 {
		c.StallTimeout = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// A Cache pulls and keeps images. Its methods are safe for concurrent use.
type Cache struct {
	cfg     Config
	pulls   singleflight.Group // by reference
	fetches singleflight.Group // by digest

	mu       sync.Mutex // guards failures
	failures map[string]failure
}

// failure is what a reference's last pull ended with.
type failure struct {
	err   *PullError
	delay time.Duration
}

// A PullError says which image could not be brought here, why, and when the next attempt is allowed.
type PullError struct {
	Reference string
	RetryAt   time.Time
	Err       error
}

func (e *PullError) Error() string { return fmt.Sprintf("pull %s: %v", e.Reference, e.Err) }
func (e *PullError) Unwrap() error { return e.Err }

// Open opens the cache in cfg.Dir, made if needed, and removes what an interrupted pull left.
func Open(cfg Config) (*Cache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("open image cache: %w", err)
	}
	c := &Cache{cfg: cfg.withDefaults(), failures: map[string]failure{}}
	if err := os.RemoveAll(c.tmpDir()); err != nil {
		return nil, fmt.Errorf("open image cache: %w", err)
	}
	for _, dir := range []string{cfg.Dir, c.blobDir(), c.rawDir(), c.tmpDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("open image cache: %w", err)
		}
	}
	return c, nil
}

func (c *Cache) blobDir() string { return filepath.Join(c.cfg.Dir, "sha256") }
func (c *Cache) rawDir() string  { return filepath.Join(c.cfg.Dir, "raw") }
func (c *Cache) tmpDir() string  { return filepath.Join(c.cfg.Dir, "tmp") }

// Ensure returns the image behind reference, which is REGISTRY/REPOSITORY:TAG, the same with
// @DIGEST, or oci-layout:/ABSOLUTE/DIRECTORY with either. A tag is resolved at every call; its
// content is fetched when it is not here. Concurrent calls for one image share one pull, which
// goes on when a caller leaves. The error is a *PullError, or ctx's. The files of the image stay
// for at least an hour.
func (c *Cache) Ensure(ctx context.Context, reference string) (Image, error) {
	if err := c.lastFailure(reference); err != nil {
		return Image{}, err
	}
	done := c.pulls.DoChan(reference, func() (any, error) {
		img, err := c.pull(context.WithoutCancel(ctx), reference)
		if err != nil {
			return Image{}, c.noteFailure(reference, err)
		}
		c.forgetFailure(reference)
		if err := c.sweep(time.Now()); err != nil {
			c.cfg.Log.Warn("image cache not swept", "error", err)
		}
		return img, nil
	})
	select {
	case <-ctx.Done():
		return Image{}, ctx.Err()
	case r := <-done:
		return r.Val.(Image), r.Err
	}
}

// lastFailure returns the reference's last error while its back-off lasts.
func (c *Cache) lastFailure(reference string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.failures[reference]; ok && time.Now().Before(f.err.RetryAt) {
		return f.err
	}
	return nil
}

func (c *Cache) noteFailure(reference string, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := failure{delay: c.cfg.RetryMin}
	if last, ok := c.failures[reference]; ok {
		f.delay = min(2*last.delay, c.cfg.RetryMax)
	}
	f.err = &PullError{Reference: reference, RetryAt: time.Now().Add(f.delay), Err: err}
	for other, last := range c.failures { // what nobody asked for again is forgotten
		if time.Since(last.err.RetryAt) > c.cfg.RetryMax {
			delete(c.failures, other)
		}
	}
	c.failures[reference] = f
	return f.err
}

func (c *Cache) forgetFailure(reference string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failures, reference)
}
