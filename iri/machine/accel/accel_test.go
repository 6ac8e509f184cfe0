package accel

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"ingot/iri/machine/domain"
	"ingot/test/need"
)

func TestFirmwareMatchesItsSource(t *testing.T) {
	need.Commands(t, "as", "ld")
	dir := t.TempDir()
	object, binary := filepath.Join(dir, "probe.o"), filepath.Join(dir, "probe.bin")
	for _, args := range [][]string{
		{"as", "--64", "firmware/probe.asm", "-o", object},
		{"ld", "-m", "elf_x86_64", "-Ttext", "0", "-e", "0", "--oformat", "binary", object, "-o", binary},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	want, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(firmware, want) {
		t.Error("firmware/probe.bin is not what firmware/probe.asm assembles to")
	}
}

func TestEmulationRunsTheFirmware(t *testing.T) {
	need.Commands(t, "qemu-system-x86_64")
	err := probe(context.Background(), Config{QEMU: "qemu-system-x86_64"}, domain.TCG, time.Minute)
	if err != nil {
		t.Error(err)
	}
}

// An emulator that hangs under KVM, one that dies, and one that works, told apart by what it is
// asked for.
func TestDetect(t *testing.T) {
	tests := []struct {
		name, script string
		want         domain.Accel
		fails        bool
	}{
		{name: "kvm works", script: "exit 67", want: domain.KVM},
		{name: "kvm hangs", script: "case $2 in kvm) exec sleep 600;; *) exit 67;; esac", want: domain.TCG},
		{name: "kvm dies", script: "case $2 in kvm) exit 1;; *) exit 67;; esac", want: domain.TCG},
		{name: "kvm computes wrongly", script: "case $2 in kvm) exit 35;; *) exit 67;; esac", want: domain.TCG},
		{name: "nothing works", script: "exit 1", fails: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			qemu := filepath.Join(dir, "qemu")
			if err := os.WriteFile(qemu, []byte("#!/bin/sh\n"+test.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			cfg := Config{QEMU: qemu, CacheDir: filepath.Join(dir, "cache"), Timeout: 2 * time.Second}
			got, err := Detect(context.Background(), cfg)
			if (err != nil) != test.fails || got != test.want {
				t.Fatalf("Detect() = %q, %v; want %q, failure %v", got, err, test.want, test.fails)
			}
			if test.fails {
				return
			}
			cfg.QEMU = "/nonexistent"
			if cached, err := Detect(context.Background(), cfg); err != nil || cached != test.want {
				t.Errorf("second Detect() = %q, %v; want the cached %q", cached, err, test.want)
			}
		})
	}
}

func TestAnAnswerAgainstKVMIsDoubtedAfterAWhile(t *testing.T) {
	for _, test := range []struct {
		cached domain.Accel
		holds  bool
	}{{domain.KVM, true}, {domain.TCG, false}} {
		path := filepath.Join(t.TempDir(), "accel")
		if err := writeCache(path, test.cached); err != nil {
			t.Fatal(err)
		}
		if a, ok := readCache(path); !ok || a != test.cached {
			t.Errorf("fresh answer %s is read as %q, %t", test.cached, a, ok)
		}
		old := time.Now().Add(-doubtAfter)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
		if a, ok := readCache(path); ok != test.holds {
			t.Errorf("old answer %s is read as %q, %t", test.cached, a, ok)
		}
	}
}
