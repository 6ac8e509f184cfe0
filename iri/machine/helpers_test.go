package machine_test

import (
	"os/user"
	"strconv"
	"testing"
)

// emulatorGroup is the group that QEMU runs as.
func emulatorGroup(t testing.TB) uint32 {
	t.Helper()
	g, err := user.LookupGroup("libvirt-qemu")
	if err != nil {
		t.Skipf("missing: %v (run `make setup`)", err)
	}
	id, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(id)
}
