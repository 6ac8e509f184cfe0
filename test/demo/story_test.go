package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/test/lab"
	"ingot/test/need"
)

// demoOf is a demo without programs, which fails when it starts the control plane.
func demoOf(t *testing.T) config {
	t.Helper()
	need.Root(t)
	need.Commands(t, append([]string{"go", "apt-get", "mke2fs", "/bin/busybox"}, lab.FRRPrograms...)...)
	dir := t.TempDir()
	return config{bin: filepath.Join(dir, "bin"), dir: filepath.Join(dir, "demo"), examples: "../../examples"}
}

func TestFailureNamesTheStepAndTheLogsAndIsCleanedUp(t *testing.T) {
	cfg := demoOf(t)
	var out bytes.Buffer
	err := run(t.Context(), cfg, &out)
	if err == nil || !strings.Contains(err.Error(), "step 4 (make the certificate authority") || !strings.Contains(err.Error(), cfg.dir+"/*/log") {
		t.Errorf("error is %v", err)
	}
	if !strings.Contains(out.String(), "remove everything") {
		t.Errorf("nothing was cleaned up:\n%s", &out)
	}
	if logs, _ := filepath.Glob(cfg.dir + "/spine/log/bgpd.log"); len(logs) != 1 {
		t.Error("the logs are gone")
	}
}

func TestInterruptLeavesNothing(t *testing.T) {
	cfg := demoOf(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := run(ctx, cfg, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("error is %v", err)
	}
	if _, err := os.Stat(cfg.dir); !os.IsNotExist(err) {
		t.Errorf("folder is left: %v", err)
	}
}
