package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	qcow2reader "github.com/lima-vm/go-qcow2reader"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"

	"ingot/runtime/fault"
	"ingot/runtime/group"
)

// Header fields of qcow2 (https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.rst).
const (
	qcow2Magic          = "QFI\xfb"
	qcow2BackingOffset  = 8
	qcow2ClusterOffset  = 20
	qcow2L1Offset       = 36
	qcow2FeaturesOffset = 72
	qcow2ExternalData   = 1 << 2 // incompatible feature bit
	copyBytes           = 1 << 20

	// What QEMU's own limits are (block/qcow2.h): the reader allocates what the header asks for.
	qcow2MaxClusterBits = 21
	qcow2MaxL1Entries   = 32 << 20 / 8
)

// raw returns the disk as a raw image: the blob itself, or what a qcow2 blob unpacks to, kept
// beside it. A qcow2 image that names other files is refused: they would be the host's.
func (c *Cache) raw(blob string) (string, error) {
	in, err := os.Open(blob)
	if err != nil {
		return "", fmt.Errorf("open disk: %w", err)
	}
	defer in.Close()
	header := make([]byte, qcow2FeaturesOffset+8)
	if _, err := io.ReadFull(in, header); err != nil || string(header[:4]) != qcow2Magic {
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read disk: %w", err)
		}
		return blob, nil
	}
	if binary.BigEndian.Uint64(header[qcow2BackingOffset:]) != 0 {
		return "", fmt.Errorf("%w disk: a qcow2 image with a backing file is refused", fault.Invalid)
	}
	version := binary.BigEndian.Uint32(header[4:])
	if version >= 3 && binary.BigEndian.Uint64(header[qcow2FeaturesOffset:])&qcow2ExternalData != 0 {
		return "", fmt.Errorf("%w disk: a qcow2 image with an external data file is refused", fault.Invalid)
	}
	clusterBits := binary.BigEndian.Uint32(header[qcow2ClusterOffset:])
	l1Entries := binary.BigEndian.Uint32(header[qcow2L1Offset:])
	if clusterBits > qcow2MaxClusterBits || l1Entries > qcow2MaxL1Entries {
		return "", fmt.Errorf("%w disk: a qcow2 image with clusters of 2^%d bytes and an index of %d entries is refused; at most 2^%d and %d",
			fault.Invalid, clusterBits, l1Entries, qcow2MaxClusterBits, qcow2MaxL1Entries)
	}
	path := filepath.Join(c.rawDir(), filepath.Base(blob))
	_, err, _ = c.fetches.Do(path, func() (any, error) {
		now := time.Now()
		if err := os.Chtimes(path, now, now); !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, c.publish(path, func(out *os.File) error {
			err := group.Call(func() error { return c.unpack(out, in) })
			var p *group.Panic
			if errors.As(err, &p) { // of the reader, on what a tenant made
				return fmt.Errorf("%w disk: %w", fault.Invalid, err)
			}
			return err
		})
	})
	if err != nil {
		return "", fmt.Errorf("unpack qcow2 disk: %w", err)
	}
	return path, nil
}

// unpack writes the image's content, holes left out.
func (c *Cache) unpack(out *os.File, in *os.File) error {
	img, err := qcow2reader.OpenWithType(in, qcow2.Type)
	if err != nil {
		return fmt.Errorf("%w: %w", fault.Invalid, err)
	}
	defer img.Close()
	if err := img.Readable(); err != nil {
		return fmt.Errorf("%w: %w", fault.Unsupported, err)
	}
	size := img.Size()
	if err := out.Truncate(size); err != nil {
		return err
	}
	for offset := int64(0); offset < size; {
		extent, err := img.Extent(offset, size-offset)
		if err != nil {
			return err
		}
		if !extent.Zero {
			if err := c.room(extent.Length); err != nil { // its clusters can be one and the same
				return err
			}
			part := io.NewSectionReader(img, offset, extent.Length)
			if _, err := io.CopyBuffer(io.NewOffsetWriter(out, offset), part, make([]byte, copyBytes)); err != nil {
				return err
			}
		}
		offset += extent.Length
	}
	return nil
}
