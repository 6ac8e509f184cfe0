package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"ingot/iri/machine/accel"
	"ingot/iri/machine/domain"
)

// LibvirtSocket is where a host's libvirtd listens, on that host.
const LibvirtSocket = "/run/libvirt/libvirt-sock"

// qemuConf keeps libvirt from what the lab's namespaces do themselves or cannot do: mount
// namespaces, cgroups, security labels, a log daemon.
const qemuConf = `user = "libvirt-qemu"
group = "libvirt-qemu"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
`

// StartLibvirt starts the host's libvirtd and returns when it answers. The process may be killed
// and restarted; domains outlive it.
func (h *Host) StartLibvirt(ctx context.Context) (*Process, error) {
	daemonConf := fmt.Sprintf("host_uuid = %q\nauth_unix_rw = \"none\"\nunix_sock_rw_perms = \"0700\"\n", uuid.NewString())
	for name, text := range map[string]string{"qemu.conf": qemuConf, "libvirtd.conf": daemonConf} {
		if err := os.WriteFile(h.Path("/etc/libvirt/"+name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if err := h.hideBrokenKVM(ctx); err != nil {
		return nil, err
	}
	p, err := h.Start(Program{Name: "libvirtd", Args: []string{"/usr/sbin/libvirtd"}})
	if err != nil {
		return nil, err
	}
	if err := h.WaitSocket(ctx, p, LibvirtSocket); err != nil {
		return nil, err
	}
	// Its first question to QEMU takes a second, which is no part of what a test measures.
	_, err = h.Virsh(ctx, "domcapabilities")
	return p, err
}

// hideBrokenKVM takes /dev/kvm away from the host where it opens but runs no vCPU. libvirtd would
// believe in it and ask QEMU anew, for a second, each time that it defines or starts a domain.
func (h *Host) hideBrokenKVM(ctx context.Context) error {
	const device = "/dev/kvm"
	if _, err := os.Stat(device); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(cache, "accel.lock")) // for who asks first
	if err != nil {
		return err
	}
	accelerator, err := accel.Detect(ctx, accel.Config{CacheDir: cache, Log: slog.New(slog.DiscardHandler)})
	unlock()
	if err != nil || accelerator == domain.KVM {
		return err
	}
	nothing := filepath.Join(h.Dir, "no-kvm")
	if err := os.WriteFile(nothing, nil, 0); err != nil {
		return err
	}
	return h.in(unix.CLONE_NEWNS, func() error {
		if err := unix.Mount(nothing, device, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hide %s: %w", device, err)
		}
		return nil
	})
}

// WaitSocket waits until a Unix socket on the host accepts connections. It gives up when p ends.
func (h *Host) WaitSocket(ctx context.Context, p *Process, inside string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		conn, err := net.Dial("unix", h.Path(inside))
		if err == nil {
			return conn.Close()
		}
		if !p.Running() {
			return fmt.Errorf("start %s on %s: it ended: %w (log: %s)", p.Name, h.Name, p.Wait(ctx), p.Log)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s of %s on %s: %w (log: %s)", filepath.Base(inside), p.Name, h.Name, err, p.Log)
		case <-ticker.C:
		}
	}
}

// Virsh runs virsh on the host, against its own libvirtd.
func (h *Host) Virsh(ctx context.Context, args ...string) ([]byte, error) {
	return h.Exec(ctx, "virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...)
}
