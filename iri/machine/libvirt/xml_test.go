package libvirt

import (
	"flag"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirt"

	"ingot/iri/machine"
	"ingot/iri/machine/domain"
)

var _ machine.Hypervisor = (*Hypervisor)(nil)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestDefinitions(t *testing.T) {
	direct := domain.Spec{
		ID: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0", UID: "uid-1", Title: "web\n1",
		CPUs: 2, MemoryBytes: 256 << 20, Accel: domain.TCG,
		Boot: domain.Boot{Kernel: "/m/kernel", Initramfs: "/m/initramfs", Cmdline: "console=ttyS0 a=\"<&>\""},
		Disks: []domain.Disk{
			{Name: "root", Path: "/m/disk-root.raw", Target: "vda", Serial: "root"},
			{Name: "data", Path: "/m/disk-data.raw", Target: "vdb", Serial: "data"},
		},
		NICs:     []domain.NIC{{Device: "tap0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1400}},
		Ignition: "/m/ignition", Console: "/m/console.log", UserID: 999, GroupID: 995,
	}
	fromDisk := direct
	fromDisk.Boot, fromDisk.Ignition, fromDisk.NICs, fromDisk.Accel = domain.Boot{}, "", nil, domain.KVM
	fromDisk.CPU = domain.CPU{Mode: "custom", Model: "Skylake-Server", Disable: []string{"pni", "vmx"}}
	for name, spec := range map[string]domain.Spec{"direct": direct, "disk": fromDisk} {
		t.Run(name, func(t *testing.T) {
			got, err := render(spec)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".xml")
			if *update {
				if err := os.WriteFile(golden, []byte(got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got+"\n"); diff != "" {
				t.Errorf("domain (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStatesAndReasons(t *testing.T) {
	tests := []struct {
		name   string
		state  libvirt.DomainState
		reason int
		want   domain.State
		why    domain.Reason
	}{
		{"running", libvirt.DOMAIN_RUNNING, 0, domain.Running, domain.Unknown},
		{"about to end", libvirt.DOMAIN_SHUTDOWN, 0, domain.Running, domain.Unknown},
		{"full disk", libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_IOERROR), domain.Paused, domain.IOError},
		{"paused by hand", libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_USER), domain.Paused, domain.Unknown},
		{"guest's poweroff", libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_SHUTDOWN), domain.Off, domain.GuestShutdown},
		{"destroyed", libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_DESTROYED), domain.Off, domain.Destroyed},
		{"crashed", libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_CRASHED), domain.Off, domain.Crashed},
		{"did not start", libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_FAILED), domain.Off, domain.StartFailed},
		{"never ran", libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_UNKNOWN), domain.Off, domain.Unknown},
		{"panicked", libvirt.DOMAIN_CRASHED, 0, domain.Off, domain.Crashed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if state, why := translate(test.state, test.reason); state != test.want || why != test.why {
				t.Errorf("%v, %v, want %v, %v", state, why, test.want, test.why)
			}
		})
	}
}
