// Package disk owns the files of a machine's local disks: raw images that appear under their name
// only when they are complete. It knows neither images' origins nor hypervisors.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ingot/runtime/durable"
	"ingot/runtime/fault"
)

// Owner is who may open a file: the emulator.
type Owner struct {
	UserID, GroupID uint32
}

// chunk is how much is copied between two looks at the context.
const chunk = 64 << 20

// Create makes the raw disk at path with the content of source, or empty when source is "", grown
// to size bytes; size 0 takes the source's. A disk that exists is left as it is. The content is
// shared with the source where the file system can (reflink); holes stay holes. Errors are
// Exhausted when the file system is full and Invalid when size is smaller than the source.
func Create(ctx context.Context, path, source string, size int64, owner Owner) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for disk: %w", err)
	}
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create disk: %w", classify(err))
	}
	defer out.Close()
	if err := fill(ctx, out, source, size, owner); err != nil {
		return errors.Join(fmt.Errorf("write disk %s: %w", filepath.Base(path), classify(err)), os.Remove(tmp))
	}
	err = os.Rename(tmp, path)
	if err == nil { // a disk that was once reported complete must be there after a power cut
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("publish disk: %w", err)
	}
	return nil
}

func fill(ctx context.Context, out *os.File, source string, size int64, owner Owner) error {
	if source != "" {
		in, err := os.Open(source)
		if err != nil {
			return err
		}
		defer in.Close()
		info, err := in.Stat()
		if err != nil {
			return err
		}
		switch {
		case size == 0:
			size = info.Size()
		case size < info.Size():
			return fmt.Errorf("%w size: %d bytes, the image has %d", fault.Invalid, size, info.Size())
		}
		if err := unix.IoctlFileClone(int(out.Fd()), int(in.Fd())); err != nil {
			if err := copySparse(ctx, out, in, info.Size()); err != nil {
				return err
			}
		}
	}
	if err := out.Truncate(size); err != nil {
		return err
	}
	if err := out.Chown(int(owner.UserID), int(owner.GroupID)); err != nil {
		return err
	}
	return out.Sync()
}

// copySparse copies the data of in and leaves its holes.
func copySparse(ctx context.Context, out, in *os.File, size int64) error {
	for offset := int64(0); offset < size; {
		data, err := unix.Seek(int(in.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole is left
			return nil
		}
		if err != nil {
			return fmt.Errorf("seek data: %w", err)
		}
		hole, err := unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("seek hole: %w", err)
		}
		if err := copyRange(ctx, out, in, data, hole); err != nil {
			return err
		}
		offset = hole
	}
	return nil
}

func copyRange(ctx context.Context, out, in *os.File, from, to int64) error {
	if _, err := in.Seek(from, io.SeekStart); err != nil {
		return err
	}
	if _, err := out.Seek(from, io.SeekStart); err != nil {
		return err
	}
	for left := to - from; left > 0; left -= min(chunk, left) {
		if err := ctx.Err(); err != nil {
			return err
		}
		// Within one file system the kernel copies (copy_file_range).
		if _, err := io.CopyN(out, in, min(chunk, left)); err != nil {
			return fmt.Errorf("copy: %w", err)
		}
	}
	return nil
}

// Link makes a file of the cache the machine's own, so that the cache may drop it: a hard link that
// the owner's group may read, or a copy on another file system. An existing file is kept.
func Link(ctx context.Context, path, source string, owner Owner) error {
	err := os.Link(source, path)
	if errors.Is(err, unix.EXDEV) {
		return Create(ctx, path, source, 0, owner)
	}
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = errors.Join(os.Chown(path, -1, int(owner.GroupID)), os.Chmod(path, 0o440))
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", filepath.Base(path), classify(err))
	}
	return nil
}

// Write replaces the small file at path for the owner alone.
func Write(path string, data []byte, owner Owner) error {
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", filepath.Base(path), classify(err))
	}
	defer out.Close()
	_, err = out.Write(data)
	if err == nil {
		err = out.Chown(int(owner.UserID), int(owner.GroupID))
	}
	if err == nil {
		err = out.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", filepath.Base(path), classify(err)), os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("publish %s: %w", filepath.Base(path), err)
	}
	return nil
}

// classify gives a full file system its class.
func classify(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: %w", fault.Exhausted, err)
	}
	return err
}
