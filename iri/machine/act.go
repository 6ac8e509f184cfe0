package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"

	"ingot/iri/machine/disk"
	"ingot/iri/machine/domain"
	"ingot/runtime/fault"
)

// act takes one action. A wait ends the plan: nothing can be done before.
func (s *Server) act(ctx context.Context, e *entry, r *record, h have, a action) (wait time.Duration, err error) {
	switch a {
	case prepareDisks:
		return 0, s.prepareDisks(ctx, e, r)
	case ensurePorts:
		return 0, s.ensurePorts(ctx, e, r)
	case defineDomain:
		return 0, s.define(ctx, e, r)
	case startDomain:
		return s.startDomain(ctx, e)
	case resumeDomain:
		e.tell(warning, "Paused", "a disk could not be written: is the host's file system full?")
		return s.cfg.RetryMax, s.hypervisor.Resume(ctx, e.id)
	case stopDomain:
		return s.stopDomain(ctx, e, r)
	case undefineDomain:
		return 0, s.hypervisor.Undefine(ctx, e.id)
	case releasePorts:
		return 0, s.releasePorts(ctx, r)
	case removeFiles:
		if err := os.RemoveAll(s.files(e.id).dir); err != nil {
			return 0, fmt.Errorf("remove machine directory: %w", err)
		}
		return 0, nil
	case forget:
		if err := e.remove(); err != nil {
			return 0, err
		}
		s.unregister(e, r)
		e.log.Info("machine deleted")
		return resync, nil
	}
	panic("unknown action")
}

// prepareDisks brings the images here and makes the machine's files from them, once.
func (s *Server) prepareDisks(ctx context.Context, e *entry, r *record) (err error) {
	defer func() { s.reportDisks(ctx, e, err) }()
	f := s.files(e.id)
	if r.Prepared {
		return f.complete(r)
	}
	var boot bootRecord
	err = s.heavily(ctx, func() error { return f.create(ctx, r.Spec.GetIgnitionData(), s.owner) })
	if err != nil {
		return err
	}
	for _, v := range r.Spec.GetVolumes() {
		b, err := s.prepareDisk(ctx, e, f, v, boot.Kernel)
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.GetName(), err)
		}
		if !boot.Kernel {
			boot = b
		}
	}
	return e.change(func(r *record) bool {
		r.Prepared, r.Boot = true, boot
		return true
	})
}

// prepareDisk makes one volume's disk, and the kernel beside it unless another volume brought one.
func (s *Server) prepareDisk(ctx context.Context, e *entry, f files, v *api.Volume, haveKernel bool) (boot bootRecord, err error) {
	local, source := v.GetLocalDisk(), ""
	if ref := local.GetImage().GetImage(); ref != "" {
		e.condition(disksReady, isFalse, "PullingImage", ref)
		img, err := s.images.Ensure(ctx, ref)
		if err != nil {
			return boot, err
		}
		source = img.Disk
		if img.Kernel != "" && !haveKernel {
			boot = bootRecord{Kernel: true, Initramfs: img.Initramfs != "", Cmdline: img.Cmdline}
			if boot.Cmdline == "" {
				boot.Cmdline = s.cfg.Cmdline
			}
			if err := disk.Link(ctx, f.kernel(), img.Kernel, s.owner); err != nil {
				return boot, err
			}
			if boot.Initramfs {
				if err := disk.Link(ctx, f.initramfs(), img.Initramfs, s.owner); err != nil {
					return boot, err
				}
			}
		}
	}
	return boot, s.heavily(ctx, func() error {
		return disk.Create(ctx, f.disk(v.GetName()), source, local.GetSizeBytes(), s.owner)
	})
}

// complete fails when a file that was there is not.
func (f files) complete(r *record) error {
	paths := []string{}
	if r.Boot.Kernel {
		paths = append(paths, f.kernel())
	}
	if r.Boot.Initramfs {
		paths = append(paths, f.initramfs())
	}
	for _, v := range r.Spec.GetVolumes() {
		paths = append(paths, f.disk(v.GetName()))
	}
	for _, path := range paths {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s was made once and is gone; it is not made anew", fault.Precondition, path)
		} else if err != nil {
			return fmt.Errorf("look for machine's files: %w", err)
		}
	}
	return nil
}

// heavily runs f when it is its turn.
func (s *Server) heavily(ctx context.Context, f func() error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case s.heavy <- struct{}{}:
	}
	defer func() { <-s.heavy }()
	return f()
}

func (s *Server) reportDisks(ctx context.Context, e *entry, err error) {
	switch {
	case err == nil:
		e.condition(disksReady, isTrue, "Ready", "")
	case ctx.Err() != nil:
	case errors.Is(err, fault.Exhausted):
		s.fail(e, disksReady, "DiskFull", err)
	case isPull(err):
		s.fail(e, disksReady, "ImagePullFailed", err)
	default:
		s.fail(e, disksReady, "DiskFailed", err)
	}
}

// fail reports what keeps the machine from its goal.
func (s *Server) fail(e *entry, kind conditionType, reason string, err error) {
	e.condition(kind, isFalse, reason, err.Error())
	e.tell(warning, reason, "%v", err)
}

// ensurePorts asks for every interface's port. A machine that runs already is not touched when
// one cannot be had.
func (s *Server) ensurePorts(ctx context.Context, e *entry, r *record) error {
	var ports []portRecord
	for _, nic := range r.Spec.GetNetworkInterfaces() {
		p, err := s.ports.EnsurePort(ctx, portRequest(r, nic))
		if err != nil {
			err = fmt.Errorf("network interface %s: %w", nic.GetName(), err)
			switch {
			case ctx.Err() != nil:
			case errors.Is(err, fault.Unavailable):
				e.condition(networkReady, isFalse, "PortPending", err.Error())
			default:
				s.fail(e, networkReady, "PortFailed", err)
			}
			return err
		}
		ports = append(ports, portRecord{
			NIC: nic.GetName(), Device: p.Device, MAC: p.MAC.String(), MTU: p.MTU, Handle: p.Handle,
		})
	}
	if err := e.change(func(r *record) bool {
		r.Ports = ports
		return true
	}); err != nil {
		return err
	}
	e.condition(networkReady, isTrue, "Ready", "")
	return nil
}

func portRequest(r *record, nic *api.NetworkInterface) PortRequest {
	out := PortRequest{
		MachineID: r.id(), NIC: nic.GetName(), NetworkID: nic.GetNetworkId(),
		Attributes: nic.GetAttributes(), Hostname: r.Spec.GetGuestConfig().GetHostname(),
	}
	for _, ip := range nic.GetIps() {
		if addr, err := netip.ParseAddr(ip); err == nil { // validated at creation
			out.IPs = append(out.IPs, addr)
		}
	}
	return out
}

func (s *Server) releasePorts(ctx context.Context, r *record) error {
	for _, nic := range r.Spec.GetNetworkInterfaces() {
		if err := s.ports.ReleasePort(ctx, r.id(), nic.GetName()); err != nil {
			return fmt.Errorf("network interface %s: %w", nic.GetName(), err)
		}
	}
	return nil
}

func (s *Server) define(ctx context.Context, e *entry, r *record) error {
	spec, err := s.domainSpec(r)
	if err == nil {
		err = s.hypervisor.Define(ctx, spec)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.fail(e, domainReady, "DefineFailed", err)
		}
		return err
	}
	h := e.look().have
	e.note(func(sn *seen) { sn.have.defined = true })
	if !h.defined {
		s.judge(e, have{defined: true})
	}
	return nil
}

// domainSpec is the domain of a machine whose disks and ports are there.
func (s *Server) domainSpec(r *record) (domain.Spec, error) {
	f := s.files(r.id())
	spec := domain.Spec{
		ID: r.id(), UID: r.uid(), Title: r.Metadata.GetLabels()[nameLabel],
		CPUs: r.Resources.CPUs, MemoryBytes: r.Resources.MemoryBytes, Accel: s.cfg.Accel, CPU: s.cfg.CPU,
		Console: f.console(), UserID: s.owner.UserID, GroupID: s.owner.GroupID,
	}
	if r.Boot.Kernel {
		spec.Boot = domain.Boot{Kernel: f.kernel(), Cmdline: r.Boot.Cmdline}
	}
	if r.Boot.Initramfs {
		spec.Boot.Initramfs = f.initramfs()
	}
	if len(r.Spec.GetIgnitionData()) > 0 {
		spec.Ignition = f.ignition()
	}
	devices := targets(r.Spec.GetVolumes())
	for i, v := range r.Spec.GetVolumes() {
		spec.Disks = append(spec.Disks, domain.Disk{
			Name: v.GetName(), Path: f.disk(v.GetName()), Target: devices[i], Serial: serial(v.GetName()),
		})
	}
	for _, p := range r.Ports {
		mac, err := p.hardwareAddr()
		if err != nil {
			return domain.Spec{}, err
		}
		spec.NICs = append(spec.NICs, domain.NIC{Device: p.Device, MAC: mac, MTU: p.MTU})
	}
	return spec, nil
}

func (s *Server) startDomain(ctx context.Context, e *entry) (time.Duration, error) {
	if wait := time.Until(e.look().notBefore); wait > 0 {
		e.condition(domainReady, isFalse, "CrashBackOff", "it crashed and starts again after a while")
		return wait, nil
	}
	if err := s.heavily(ctx, func() error { return s.hypervisor.Start(ctx, e.id) }); err != nil {
		if ctx.Err() == nil {
			s.fail(e, domainReady, "StartFailed", err)
		}
		return 0, err
	}
	if err := e.change(func(r *record) bool {
		r.Run = runUp
		return true
	}); err != nil {
		return 0, err
	}
	h := e.observe(domain.Info{State: domain.Running}, true)
	e.note(func(sn *seen) { sn.upSince = time.Now() })
	s.judge(e, h)
	e.tell(normal, "Started", "the machine was started")
	return 0, nil
}

// stopDomain writes the intent down, asks the guest, and pulls the plug when its time is over.
func (s *Server) stopDomain(ctx context.Context, e *entry, r *record) (time.Duration, error) {
	if err := e.change(func(r *record) bool {
		r.Run = runStopping
		return true
	}); err != nil {
		return 0, err
	}
	timeout := s.cfg.ShutdownTimeout
	if r.deleting() {
		timeout = s.cfg.DeleteTimeout
	}
	now := time.Now()
	var sn seen
	e.note(func(s *seen) {
		if limit := now.Add(timeout); s.stopBy.IsZero() || limit.Before(s.stopBy) {
			s.stopBy = limit
		}
		sn = *s
	})
	if !now.Before(sn.stopBy) || sn.have.state == domain.Paused {
		// The pass after this one finds the domain off.
		return time.Nanosecond, s.hypervisor.Destroy(ctx, e.id)
	}
	if !now.Before(sn.askAgain) {
		e.note(func(s *seen) { s.askAgain = now.Add(askAgain) })
		if err := s.hypervisor.Shutdown(ctx, e.id); err != nil && !errors.Is(err, fault.Precondition) {
			return 0, err
		}
	}
	return min(stopPoll, time.Until(sn.stopBy)+time.Millisecond), nil
}
