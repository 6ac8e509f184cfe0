package machine_test

import (
	"os/user"
	"testing"
)

// needEmulatorUser skips t without the user that QEMU runs as.
func needEmulatorUser(t testing.TB) {
	t.Helper()
	if _, err := user.Lookup("libvirt-qemu"); err != nil {
		t.Skipf("missing: %v (run `make setup`)", err)
	}
}
