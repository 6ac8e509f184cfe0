// Package accel owns the answer to one question: do vCPUs really run under KVM on this host?
// That /dev/kvm opens proves nothing, under nested or paravirtual virtualisation least of all:
// simple code may run while SSE or an operating system does not. So a small firmware is run.
package accel

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"ingot/iri/machine/domain"
)

// firmware is assembled from firmware/probe.asm.
//
//go:embed firmware/probe.bin
var firmware []byte

const (
	romBytes    = 64 << 10
	resetVector = romBytes - 16
	// passed is QEMU's exit status when the firmware writes 0x21 to isa-debug-exit: 2*0x21 + 1.
	passed = 2*0x21 + 1
)

// Emulation is the measure of how long the firmware may take under KVM: the same host, as loaded,
// runs both. KVM may take ten times as long, and two seconds in any case.
const (
	kvmSlower = 10
	kvmLeast  = 2 * time.Second
)

// doubtAfter is when an answer against KVM is asked for again: the probe may have been starved.
const doubtAfter = time.Hour

// Config configures Detect. Zero values are the defaults named.
type Config struct {
	// CacheDir keeps the answer until the next boot, one against KVM for an hour. Empty: ask
	// every time.
	CacheDir string
	// QEMU is the emulator. Default "qemu-system-x86_64".
	QEMU string
	// Timeout bounds the probe of each; a vCPU that does not end the firmware in time does not
	// work. Default 10 s. The firmware takes a tenth of a second.
	Timeout time.Duration
	// Log defaults to slog.Default.
	Log *slog.Logger
}

// Detect returns KVM when KVM runs the firmware to its end, and TCG otherwise. It fails only when
// ctx ends or not even TCG runs it, that is, when there is no working QEMU.
func Detect(ctx context.Context, cfg Config) (domain.Accel, error) {
	if cfg.QEMU == "" {
		cfg.QEMU = "qemu-system-x86_64"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cache := cachePath(cfg.CacheDir)
	if answer, ok := readCache(cache); ok {
		return answer, nil
	}
	begin := time.Now()
	tcgErr := probe(ctx, cfg, domain.TCG, cfg.Timeout)
	timeout := cfg.Timeout
	if tcgErr == nil {
		timeout = min(timeout, max(kvmLeast, kvmSlower*time.Since(begin)))
	}
	kvmErr := probe(ctx, cfg, domain.KVM, timeout)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	answer := domain.KVM
	switch {
	case kvmErr != nil && tcgErr != nil:
		return "", errors.Join(kvmErr, tcgErr)
	case kvmErr != nil:
		answer = domain.TCG
		cfg.Log.Warn("KVM does not run a vCPU; machines are emulated", "error", kvmErr)
	}
	cfg.Log.Info("accelerator chosen", "accel", answer)
	return answer, writeCache(cache, answer)
}

// probe runs the firmware under one accelerator.
func probe(ctx context.Context, cfg Config, a domain.Accel, timeout time.Duration) error {
	dir, err := os.MkdirTemp("", "ingot-accel-")
	if err != nil {
		return fmt.Errorf("make probe directory: %w", err)
	}
	defer os.RemoveAll(dir)
	rom := filepath.Join(dir, "rom")
	if err := os.WriteFile(rom, image(), 0o600); err != nil {
		return fmt.Errorf("write probe firmware: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, cfg.QEMU, "-accel", string(a), "-machine", "q35", "-m", "64",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-bios", rom,
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4")
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("probe %s: the vCPU did not finish within %s", a, timeout)
	case errors.As(err, &exit) && exit.ExitCode() == passed:
		return nil
	default:
		return fmt.Errorf("probe %s: %w: %s", a, err, bytes.TrimSpace(stderr.Bytes()))
	}
}

// image is the firmware with the reset vector, a far jump to its first byte.
func image() []byte {
	rom := make([]byte, romBytes)
	copy(rom, firmware)
	copy(rom[resetVector:], []byte{0xea, 0x00, 0x00, 0x00, 0xf0})
	return rom
}

// cachePath names the answer after the running boot; "" means do not cache.
func cachePath(dir string) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if dir == "" || err != nil {
		return ""
	}
	return filepath.Join(dir, "accel-"+strings.TrimSpace(string(boot)))
}

func readCache(path string) (domain.Accel, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", false
	}
	a := domain.Accel(data)
	if a == domain.TCG {
		info, err := os.Stat(path)
		return a, err == nil && time.Since(info.ModTime()) < doubtAfter
	}
	return a, a == domain.KVM
}

// writeCache replaces the answers of earlier boots.
func writeCache(path string, a domain.Accel) error {
	if path == "" {
		return nil
	}
	old, err := filepath.Glob(filepath.Join(filepath.Dir(path), "accel-*"))
	if err != nil {
		return fmt.Errorf("list cached accelerators: %w", err)
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("remove cached accelerator: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return fmt.Errorf("make accelerator cache: %w", err)
	}
	if err := os.WriteFile(path+".tmp", []byte(a), 0o600); err != nil {
		return fmt.Errorf("write accelerator cache: %w", err)
	}
	return os.Rename(path+".tmp", path)
}
