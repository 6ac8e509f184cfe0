package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"

	"ingot/iri/machine/disk"
)

// files names what the emulator opens for one machine. The directory belongs to root, so that the
// emulator can replace nothing in it; what it writes is made for it beforehand.
type files struct {
	dir string
}

func (s *Server) files(id string) files {
	return files{dir: filepath.Join(s.cfg.Dir, "machines", id)}
}

func (f files) kernel() string    { return filepath.Join(f.dir, "kernel") }
func (f files) initramfs() string { return filepath.Join(f.dir, "initramfs") }
func (f files) ignition() string  { return filepath.Join(f.dir, "ignition") }
func (f files) console() string   { return filepath.Join(f.dir, "console.log") }

func (f files) disk(volume string) string {
	return filepath.Join(f.dir, "disk-"+safeName(volume)+".raw")
}

// create makes the directory, the ignition file and the console log.
func (f files) create(ctx context.Context, ignition []byte, owner disk.Owner) error {
	if err := os.MkdirAll(f.dir, 0o710); err != nil {
		return fmt.Errorf("make machine directory: %w", err)
	}
	if err := os.Chown(f.dir, -1, int(owner.GroupID)); err != nil {
		return fmt.Errorf("make machine directory: %w", err)
	}
	if len(ignition) > 0 {
		if err := disk.Write(f.ignition(), ignition, owner); err != nil {
			return err
		}
	}
	return disk.Create(ctx, f.console(), "", 0, owner)
}

// safeName turns a volume's name into a file name of its own.
func safeName(name string) string {
	return strings.NewReplacer("%", "%25", "/", "%2F").Replace(name)
}

// serial is the volume's name as a virtio-blk serial, which has 20 bytes: a longer name is
// replaced by the start of its SHA-256.
func serial(volume string) string {
	if len(volume) <= 20 {
		return volume
	}
	sum := sha256.Sum256([]byte(volume))
	return hex.EncodeToString(sum[:])[:20]
}

// targets gives each volume its device in the domain: oda becomes vda; a volume without a device,
// or with one of another form, gets the first free letter.
func targets(volumes []*api.Volume) []string {
	out := make([]string, len(volumes))
	taken := map[string]bool{}
	for i, v := range volumes {
		device := v.GetDevice()
		if len(device) == 3 && device[1] == 'd' && device[2] >= 'a' && device[2] <= 'z' {
			target := "vd" + device[2:]
			if !taken[target] {
				out[i], taken[target] = target, true
			}
		}
	}
	next := byte('a')
	for i := range out {
		for out[i] == "" {
			if target := "vd" + string(next); !taken[target] {
				out[i], taken[target] = target, true
			}
			next++
		}
	}
	return out
}
