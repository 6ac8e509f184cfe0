package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// guestCommandLine boots fast under TCG and on KVM.
const guestCommandLine = "console=ttyS0 quiet mitigations=off tsc=unstable no_timer_check cryptomgr.notests nokaslr audit=0 random.trust_cpu=1"

// guestModules are the modules a guest needs; what they depend on is found in the modules.
var guestModules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio-rng",
	"af_packet", "qemu_fw_cfg", "button", "evdev", "crc32c_generic", "ext4",
}

// Paths in both file systems of the image.
const (
	guestPath   = "/sbin/guest"
	busyboxPath = "/bin/busybox"
)

// BuildGuestImage makes the guest image in the OCI layout dir/guest, unless it is there already,
// and returns its reference, "oci-layout:PATH:latest". The kernel is that of Debian's package
// linux-image-cloud-amd64, downloaded once into CacheDir. Equal inputs make equal bytes.
func BuildGuestImage(dir string) (string, error) {
	layout, err := filepath.Abs(filepath.Join(dir, "guest"))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(layout, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(layout + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	ref := "oci-layout:" + layout + ":latest"
	work, err := os.MkdirTemp("", "ingot-image-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)

	helper := filepath.Join(work, "guest")
	if err := buildTool(helper, "ingot/test/lab/guest"); err != nil {
		return "", err
	}
	deb, err := kernelPackage()
	if err != nil {
		return "", err
	}
	inputs, err := digestInputs(helper, busyboxPath, deb)
	if err != nil {
		return "", err
	}
	if layoutHasInputs(layout, inputs) {
		return ref, nil
	}
	kernel, err := unpackKernel(deb, guestModules)
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", deb, err)
	}
	initramfs, err := buildInitramfs(kernel, helper)
	if err != nil {
		return "", fmt.Errorf("build initramfs: %w", err)
	}
	rootfs, err := buildRootfs(work, helper)
	if err != nil {
		return "", fmt.Errorf("build root file system: %w", err)
	}
	err = writeLayout(layout, inputs, guestCommandLine, []layer{
		{mediaTypeLayer + "kernel", kernel.image},
		{mediaTypeLayer + "initramfs", initramfs},
		{mediaTypeLayer + "rootfs", rootfs},
	})
	return ref, err
}

// CacheDir is where downloads are kept: $XDG_CACHE_HOME/ingot or ~/.cache/ingot.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil { // no home directory, as in some containers
		dir = os.TempDir()
	}
	dir = filepath.Join(dir, "ingot")
	return dir, os.MkdirAll(dir, 0o755)
}

// digestInputs tells images of different contents apart.
func digestInputs(helper, busybox, deb string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, filepath.Base(deb), guestCommandLine, guestModules, rootfsRecipe)
	for _, path := range []string{helper, busybox} {
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(hash, file)
		file.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// buildInitramfs holds the helper as /init, the modules and their order. It is not compressed: a
// guest under TCG would take longer to unpack than to read it.
func buildInitramfs(kernel *kernelFiles, helper string) ([]byte, error) {
	program, err := os.ReadFile(helper)
	if err != nil {
		return nil, err
	}
	archive := newCpio()
	archive.directory("dev")
	archive.directory("modules")
	archive.device("dev/console", 5, 1)
	archive.file("init", 0o755, program)
	for _, name := range kernel.order {
		archive.file("modules/"+name, 0o644, kernel.modules[name])
	}
	archive.file("modules/order", 0o644, []byte(strings.Join(kernel.order, "\n")+"\n"))
	return archive.close(), nil
}
