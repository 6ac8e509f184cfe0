package machine_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	meta "github.com/ironcore-dev/ironcore/iri/apis/meta/v1alpha1"
	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"ingot/iri/machine"
	"ingot/iri/machine/domain"
	"ingot/iri/machine/image"
	"ingot/iri/machine/libvirt"
	"ingot/test/lab"
	"ingot/test/need"
)

// patience bounds every wait for a guest: an emulated one boots in two seconds on an idle host.
const patience = 90 * time.Second

// taps makes persistent taps on a lab host, as the agent's dataplane would.
type taps struct {
	host *lab.Host

	mu   sync.Mutex // guards open
	open map[string]string
}

func (p *taps) EnsurePort(_ context.Context, r machine.PortRequest) (machine.Port, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := r.MachineID + "/" + r.NIC
	name, ok := p.open[key]
	if !ok {
		name = fmt.Sprintf("tap-%.8s", r.MachineID)
		err := p.host.Do(func() error {
			tap := &netlink.Tuntap{
				LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP,
				Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR,
			}
			if err := netlink.LinkAdd(tap); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			return netlink.LinkSetUp(tap)
		})
		if err != nil {
			return machine.Port{}, err
		}
		p.open[key] = name
	}
	mac := net.HardwareAddr{0x02, 0, 0, 0, 0, 1}
	return machine.Port{Device: name, MAC: mac, MTU: 1400, Handle: key}, nil
}

func (p *taps) ReleasePort(_ context.Context, id, nic string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := id + "/" + nic
	name, ok := p.open[key]
	if !ok {
		return nil
	}
	delete(p.open, key)
	return p.host.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
}

// real is a host of the lab with its libvirtd and the runtime under test.
type real struct {
	t       *testing.T
	host    *lab.Host
	libvirt *lab.Process
	taps    *taps
	dir     string
	image   string
	client  api.MachineRuntimeClient
	stop    func()
}

func newReal(t *testing.T) *real {
	need.Root(t)
	need.User(t, "libvirt-qemu")
	need.Commands(t, "libvirtd", "virsh", "qemu-system-x86_64", "mke2fs")
	cache, err := lab.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := lab.BuildGuestImage(cache)
	if err != nil {
		t.Fatal(err)
	}
	host := lab.ForTest(t, lab.FabricConfig{Hosts: 1}).Hosts[0]
	process, err := host.StartLibvirt(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := &real{t: t, host: host, libvirt: process, image: ref, taps: &taps{host: host, open: map[string]string{}}}
	// Not t.TempDir, which the emulator's user may not pass.
	if r.dir, err = os.MkdirTemp("", "ingot-machine-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(r.dir) })
	if err := os.Chmod(r.dir, 0o711); err != nil {
		t.Fatal(err)
	}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

// start starts the runtime on what is in the directory.
func (r *real) start() {
	r.t.Helper()
	hypervisor, err := libvirt.New(libvirt.Config{URI: "qemu+unix:///system?socket=" + r.host.Path(lab.LibvirtSocket)})
	if err != nil {
		r.t.Fatal(err)
	}
	layout := strings.TrimSuffix(strings.TrimPrefix(r.image, "oci-layout:"), ":latest")
	images, err := image.Open(image.Config{Dir: filepath.Join(r.dir, "images"), LayoutDirs: []string{layout}})
	if err != nil {
		r.t.Fatal(err)
	}
	server, err := machine.New(machine.Deps{Hypervisor: hypervisor, Images: images, Ports: r.taps}, machine.Config{
		Dir: r.dir, Accel: domain.TCG, CPUOvercommit: 4,
		Classes: []machine.Class{{Name: "tiny", Capabilities: map[string]int64{"cpu": 1, "memory": 128 << 20}}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	socket := filepath.Join(r.dir, "iri.sock")
	for _, run := range []func() error{
		func() error { return hypervisor.Run(ctx) },
		func() error { return server.Run(ctx) },
		func() error { return server.Serve(ctx, socket) },
	} {
		wg.Go(func() {
			if err := run(); err != nil {
				r.t.Error(err)
			}
		})
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.client = api.NewMachineRuntimeClient(conn)
	r.stop = func() {
		conn.Close()
		cancel()
		wg.Wait()
	}
}

// run is a subtest whose helpers fail it, not its parent.
func (r *real) run(name string, f func(*testing.T)) {
	parent := r.t
	defer func() { r.t = parent }()
	parent.Run(name, func(t *testing.T) {
		r.t = t
		f(t)
	})
}

func (r *real) create(uid string) string {
	r.t.Helper()
	answer, err := r.client.CreateMachine(r.t.Context(), &api.CreateMachineRequest{Machine: &api.Machine{
		Metadata: &meta.ObjectMetadata{Labels: map[string]string{machine.UIDLabel: uid}},
		Spec: &api.MachineSpec{
			Class: "tiny", IgnitionData: []byte(`{"ignition":{"version":"3.4.0"}}`),
			Volumes: []*api.Volume{
				{Name: "root", Device: "oda", LocalDisk: &api.LocalDisk{SizeBytes: 64 << 20, Image: &api.ImageSpec{Image: r.image}}},
				{Name: "data", Device: "odb", LocalDisk: &api.LocalDisk{SizeBytes: 8 << 20}},
			},
			NetworkInterfaces: []*api.NetworkInterface{{Name: "primary", NetworkId: "ingot://vni/7", Ips: []string{"10.0.0.2"}}},
		},
	}}, grpc.WaitForReady(true))
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.Machine.Metadata.Id
}

// get returns the machine, nil when there is none.
func (r *real) get(id string) *api.Machine {
	r.t.Helper()
	answer, err := r.client.ListMachines(r.t.Context(), &api.ListMachinesRequest{Filter: &api.MachineFilter{Id: id}}, grpc.WaitForReady(true))
	if err != nil {
		r.t.Fatal(err)
	}
	if len(answer.Machines) == 0 {
		return nil
	}
	return answer.Machines[0]
}

// await polls until ok.
func (r *real) await(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for ticker := time.NewTicker(50 * time.Millisecond); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (r *real) awaitState(id string, want api.MachineState) {
	r.t.Helper()
	var last *api.Machine
	defer func() {
		if r.t.Failed() {
			r.t.Logf("machine: %v", last)
		}
	}()
	r.await("state "+want.String(), func() bool {
		last = r.get(id)
		return last.GetStatus().GetState() == want
	})
}

// emulator is the guest's process as libvirt names it; it stays the same while the guest runs.
func (r *real) emulator(id string) string {
	r.t.Helper()
	pid, err := os.ReadFile(r.host.Path("/run/libvirt/qemu/" + id + ".pid"))
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(pid))
}

func (r *real) ready(id string) lab.Guest {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	guest := lab.Guest{Host: r.host, Domain: id}
	if err := guest.WaitReady(ctx); err != nil {
		console, _ := os.ReadFile(filepath.Join(r.dir, "machines", id, "console.log"))
		r.t.Fatalf("%v\nconsole:\n%s", err, console)
	}
	return guest
}

func (r *real) exec(guest lab.Guest, command ...string) string {
	r.t.Helper()
	result, err := guest.Exec(r.t.Context(), command...)
	if err != nil || result.ExitCode != 0 {
		r.t.Fatalf("%v: %v: exit %d: %s%s", command, err, result.ExitCode, result.Stdout, result.Stderr)
	}
	return strings.TrimSpace(string(result.Stdout))
}

// deleteAndCheck deletes the machine as IronCore's poollet does and looks for leftovers.
func (r *real) deleteAndCheck(id string) {
	r.t.Helper()
	r.await("NotFound", func() bool {
		_, err := r.client.DeleteMachine(r.t.Context(), &api.DeleteMachineRequest{MachineId: id})
		if err != nil && status.Code(err) != codes.NotFound {
			r.t.Fatal(err)
		}
		return err != nil
	})
	domains, err := r.host.Virsh(r.t.Context(), "list", "--all", "--name")
	if err != nil || strings.TrimSpace(string(domains)) != "" {
		r.t.Errorf("domains left: %q, %v", domains, err)
	}
	links, err := r.host.Exec(r.t.Context(), "ip", "-br", "link", "show", "type", "tun")
	if err != nil || strings.Contains(string(links), "tap") {
		r.t.Errorf("taps left: %q, %v", links, err)
	}
	for _, pattern := range []string{"machines/*", "records/*"} {
		left, err := filepath.Glob(filepath.Join(r.dir, pattern))
		if err != nil || len(left) > 0 {
			r.t.Errorf("files left: %v, %v", left, err)
		}
	}
}

func TestGuestLivesThroughRestartsOfEverythingElse(t *testing.T) {
	r := newReal(t)
	id := r.create("uid-1")
	r.awaitState(id, api.MachineState_MACHINE_RUNNING)
	guest := r.ready(id)

	t.Run("what the guest sees", func(t *testing.T) {
		for _, test := range []struct{ name, command, want string }{
			{"boots from its disk, grown", "cat /sys/block/vda/size", "131072"},
			{"has its second disk", "cat /sys/block/vdb/serial", "data"},
			{"has the port's MTU", "cat /sys/class/net/eth0/mtu", "1400"},
			{"has the port's MAC", "cat /sys/class/net/eth0/address", "02:00:00:00:00:01"},
			{"gets ignition", "cat /sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config/raw", `{"ignition":{"version":"3.4.0"}}`},
		} {
			if got := r.exec(guest, "/bin/sh", "-c", test.command); got != test.want {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
			}
		}
	})
	t.Run("the emulator is not root and the definition holds no secret", func(t *testing.T) {
		xml, err := r.host.Virsh(t.Context(), "dumpxml", id)
		if err != nil || strings.Contains(string(xml), "3.4.0") {
			t.Errorf("dumpxml: %v: %s", err, xml)
		}
		status, err := r.host.Exec(t.Context(), "grep", "-E", "^(Uid|Seccomp):", "/proc/"+r.emulator(id)+"/status")
		if err != nil || strings.Contains(string(status), "Uid:\t0") || !strings.Contains(string(status), "Seccomp:\t2") {
			t.Errorf("emulator: %v: %s", err, status)
		}
	})

	pid := r.emulator(id)
	r.run("killed libvirtd", func(t *testing.T) {
		r.libvirt.Kill()
		if m := r.get(id); m.GetStatus().GetState() != api.MachineState_MACHINE_RUNNING {
			t.Errorf("without libvirtd: %v", m.GetStatus())
		}
		if err := r.libvirt.Restart(); err != nil {
			t.Fatal(err)
		}
		if err := r.host.WaitSocket(t.Context(), r.libvirt, lab.LibvirtSocket); err != nil {
			t.Fatal(err)
		}
		r.awaitState(id, api.MachineState_MACHINE_RUNNING)
	})
	r.run("restarted runtime", func(t *testing.T) {
		r.stop()
		r.start()
		r.awaitState(id, api.MachineState_MACHINE_RUNNING)
	})
	if now := r.emulator(id); now != pid {
		t.Errorf("the guest was started again: emulator %s, was %s", now, pid)
	}
	r.ready(id)

	r.run("power", func(t *testing.T) {
		set := func(p api.Power) {
			if _, err := r.client.UpdateMachinePower(t.Context(), &api.UpdateMachinePowerRequest{MachineId: id, Power: p}); err != nil {
				t.Fatal(err)
			}
		}
		set(api.Power_POWER_OFF)
		r.awaitState(id, api.MachineState_MACHINE_SUSPENDED)
		set(api.Power_POWER_ON)
		r.awaitState(id, api.MachineState_MACHINE_RUNNING)
		guest := r.ready(id)
		if _, err := guest.Start(t.Context(), "/bin/busybox", "poweroff", "-f"); err != nil {
			t.Logf("poweroff: %v", err) // the guest may be gone before it answers
		}
		r.awaitState(id, api.MachineState_MACHINE_SUSPENDED)
		set(api.Power_POWER_ON)
		r.awaitState(id, api.MachineState_MACHINE_RUNNING)
	})
	r.deleteAndCheck(id)
}
