package image

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"

	"ingot/runtime/fault"
)

const layoutScheme = "oci-layout:"

// source is where an image comes from: a registry's repository or a layout directory.
type source interface {
	Resolve(ctx context.Context, name string) (ocispec.Descriptor, error)
	Fetch(ctx context.Context, target ocispec.Descriptor) (io.ReadCloser, error)
}

// open returns the source of a reference and the tag or digest in it.
func (c *Cache) open(ctx context.Context, reference string) (source, string, error) {
	if path, ok := strings.CutPrefix(reference, layoutScheme); ok {
		return c.openLayout(ctx, path)
	}
	ref, err := registry.ParseReference(reference)
	if err != nil {
		return nil, "", fmt.Errorf("%w reference: %w", fault.Invalid, err)
	}
	if ref.Reference == "" {
		ref.Reference = "latest"
	}
	repository, err := remote.NewRepository(ref.Registry + "/" + ref.Repository)
	if err != nil {
		return nil, "", fmt.Errorf("%w reference: %w", fault.Invalid, err)
	}
	repository.PlainHTTP = slices.Contains(c.cfg.PlainHTTP, ref.Registry)
	client := &auth.Client{Client: httpClient(), Cache: auth.NewCache()}
	if c.cfg.CredentialsFile != "" {
		store, err := credentials.NewStore(c.cfg.CredentialsFile, credentials.StoreOptions{})
		if err != nil {
			return nil, "", fmt.Errorf("read registry credentials: %w", err)
		}
		client.Credential = credentials.Credential(store)
	}
	repository.Client = client
	return repository, ref.Reference, nil
}

func httpClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = 30 * time.Second
	policy := &retry.GenericPolicy{
		Retryable: retry.DefaultPredicate, Backoff: retry.DefaultBackoff,
		MinWait: 200 * time.Millisecond, MaxWait: 3 * time.Second, MaxRetry: 2,
	}
	return &http.Client{Transport: &retry.Transport{Base: transport, Policy: func() retry.Policy { return policy }}}
}

// openLayout opens DIRECTORY:TAG or DIRECTORY@DIGEST.
func (c *Cache) openLayout(ctx context.Context, path string) (source, string, error) {
	dir, name, ok := strings.Cut(path, "@")
	if !ok {
		i := strings.LastIndexByte(path, ':')
		if i < 0 {
			return nil, "", fmt.Errorf("%w reference: want oci-layout:/directory:tag", fault.Invalid)
		}
		dir, name = path[:i], path[i+1:]
	}
	if !filepath.IsAbs(dir) {
		return nil, "", fmt.Errorf("%w reference: layout directory %q is not absolute", fault.Invalid, dir)
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, "", fmt.Errorf("open layout: %w: %w", fault.NotFound, err)
	}
	if !slices.ContainsFunc(c.cfg.LayoutDirs, func(root string) bool { return within(root, dir) }) {
		return nil, "", fmt.Errorf("%w: layout directory %s is not below one of the host's LayoutDirs %q",
			fault.Denied, dir, c.cfg.LayoutDirs)
	}
	layout, err := oci.NewFromFS(ctx, os.DirFS(dir))
	if err != nil {
		return nil, "", fmt.Errorf("open layout %s: %w", dir, err)
	}
	return layout, name, nil
}

// within reports whether dir is root or below it, links followed.
func within(root, dir string) bool {
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return false
	}
	rel, err := filepath.Rel(real, dir)
	return err == nil && filepath.IsLocal(rel)
}
