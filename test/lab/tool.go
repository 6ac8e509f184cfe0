package lab

import (
	"fmt"
	"os"
	"os/exec"
)

// buildTool compiles a package of this module into a static program. The Go build cache makes a
// second call cheap.
func buildTool(out, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, said)
	}
	return nil
}
