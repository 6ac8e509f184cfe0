package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// grace is how long a file stays after its last use, whatever the size of the cache: the callers
// of Ensure link or copy it meanwhile.
const grace = time.Hour

type cached struct {
	path  string
	bytes int64 // on disk
	used  time.Time
}

// sweep removes the files used longest ago until the cache fits. Machines have links or copies of
// their own, so none of them is hurt.
func (c *Cache) sweep(now time.Time) error {
	files, total, err := c.files()
	if err != nil {
		return fmt.Errorf("sweep image cache: %w", err)
	}
	slices.SortFunc(files, func(a, b cached) int { return a.used.Compare(b.used) })
	for _, f := range files {
		if total <= c.cfg.MaxBytes || now.Sub(f.used) < grace {
			break
		}
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep image cache: %w", err)
		}
		total -= f.bytes
	}
	return nil
}

func (c *Cache) files() (files []cached, total int64, err error) {
	for _, dir := range []string{c.blobDir(), c.rawDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, 0, err
		}
		for _, entry := range entries {
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, 0, err
			}
			f := cached{path: filepath.Join(dir, entry.Name()), used: info.ModTime(), bytes: info.Size()}
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				f.bytes = stat.Blocks * 512
			}
			files = append(files, f)
			total += f.bytes
		}
	}
	return files, total, nil
}

// Stats are the cache's numbers at one moment.
type Stats struct {
	// Files and Bytes are what the cache holds on disk.
	Files int
	Bytes int64
	// Failing is the number of references whose last pull failed.
	Failing int
}

// Stats reads the cache's directory.
func (c *Cache) Stats() (Stats, error) {
	files, total, err := c.files()
	if err != nil {
		return Stats{}, fmt.Errorf("read image cache: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{Files: len(files), Bytes: total, Failing: len(c.failures)}, nil
}
