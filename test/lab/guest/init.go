package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rootDevice is the machine's first disk; the image has no partition table.
const rootDevice = "/dev/vda"

// runInit is process 1, first in the initramfs, then on the root disk.
func runInit([]string) error {
	if err := mountKernelFilesystems(); err != nil {
		return err
	}
	order, err := os.ReadFile("/modules/order")
	if errors.Is(err, fs.ErrNotExist) {
		return superviseDaemon()
	}
	if err != nil {
		return err
	}
	for _, module := range strings.Fields(string(order)) {
		if err := loadModule("/modules/" + module); err != nil {
			return err
		}
	}
	if err := seedRandom(); err != nil {
		return err
	}
	return switchRoot("/root")
}

// seedRandom lets the kernel hand out random numbers at once. An emulated machine without an
// entropy device would wait a minute for its own; what a lab's guest draws needs not be secret.
func seedRandom() error {
	pool := struct {
		bits, bytes int32
		data        [32]byte
	}{bits: 256, bytes: 32}
	binary.NativeEndian.PutUint64(pool.data[:], uint64(time.Now().UnixNano()))
	file, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool)))
	if errno != 0 {
		return fmt.Errorf("seed random numbers: %w", errno)
	}
	return nil
}

func mountKernelFilesystems() error {
	for _, m := range []struct{ kind, target string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.target, m.kind, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && err != unix.EEXIST && err != unix.ENODEV {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

// switchRoot mounts the disk and makes it the root; the initramfs is emptied to free its memory.
func switchRoot(target string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err := os.Stat(rootDevice); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("find root disk: no %s after 30 s", rootDevice)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(rootDevice, target, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", rootDevice, err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(dir, target+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	for _, path := range []string{"/modules", "/init"} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := os.Chdir(target); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return unix.Exec("/sbin/init", []string{"init"}, environment())
}

// superviseDaemon keeps the daemon running and reaps every orphan. It starts no process through
// os/exec, whose waiting it would disturb.
func superviseDaemon() error {
	daemon := 0
	for {
		if daemon == 0 {
			pid, err := syscall.ForkExec("/sbin/guest", []string{"daemon"}, &syscall.ProcAttr{
				Dir: "/", Env: environment(), Files: []uintptr{0, 1, 2},
			})
			if err != nil {
				return fmt.Errorf("start daemon: %w", err)
			}
			daemon = pid
		}
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for orphans: %w", err)
		}
		if pid == daemon {
			fmt.Printf("ingot-guest daemon ended with %v, starting it again\n", status)
			daemon = 0
			time.Sleep(time.Second)
		}
	}
}

func environment() []string {
	return []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/root", "TERM=linux"}
}
