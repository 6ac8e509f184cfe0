// Package need tells what a test requires of the machine it runs on. A test that cannot run is
// skipped here and nowhere else, and the skip names what is missing. On a machine where
// `make setup` ran as root nothing is skipped.
package need

import (
	"os"
	"os/exec"
	"os/user"
	"strings"
	"testing"
)

// Root skips t unless it runs as root, which namespaces, taps and BPF need.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing: root (network namespaces, taps and BPF programs)")
	}
}

// Commands skips t unless every named program is in PATH or is an existing absolute path.
func Commands(t testing.TB, names ...string) {
	t.Helper()
	var missing []string
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		t.Skipf("missing programs: %s (run `make setup`)", strings.Join(missing, ", "))
	}
}

// User skips t unless the user exists.
func User(t testing.TB, name string) {
	t.Helper()
	if _, err := user.Lookup(name); err != nil {
		t.Skipf("missing: %v (run `make setup`)", err)
	}
}
