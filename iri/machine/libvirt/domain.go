package libvirt

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"

	"libvirt.org/go/libvirt"

	"ingot/iri/machine/domain"
	"ingot/runtime/fault"
)

// with runs call on the domain.
func (h *Hypervisor) with(ctx context.Context, verb, id string, call func(*libvirt.Domain) error) error {
	err := h.do(ctx, func(conn *libvirt.Connect) error {
		d, err := conn.LookupDomainByUUIDString(id)
		if err != nil {
			return err
		}
		defer d.Free()
		return call(d)
	})
	if err != nil {
		return fmt.Errorf("%s domain %s: %w", verb, id, err)
	}
	return nil
}

// Get implements machine.Hypervisor.
func (h *Hypervisor) Get(ctx context.Context, id string) (domain.Info, error) {
	var info domain.Info
	err := h.with(ctx, "get", id, func(d *libvirt.Domain) error {
		var err error
		info, err = describe(d)
		return err
	})
	if err != nil {
		return domain.Info{}, err
	}
	return info, nil
}

// List implements machine.Hypervisor.
func (h *Hypervisor) List(ctx context.Context) ([]domain.Info, error) {
	var infos []domain.Info
	err := h.do(ctx, func(conn *libvirt.Connect) error {
		domains, err := conn.ListAllDomains(0)
		if err != nil {
			return err
		}
		for i := range domains {
			defer domains[i].Free()
		}
		for i := range domains {
			info, err := describe(&domains[i])
			var e libvirt.Error
			switch {
			case errors.As(err, &e) && (e.Code == libvirt.ERR_NO_DOMAIN || e.Code == libvirt.ERR_NO_DOMAIN_METADATA):
				continue // undefined meanwhile, or somebody else's
			case err != nil:
				return err
			}
			infos = append(infos, info)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	return infos, nil
}

// describe fails with ERR_NO_DOMAIN_METADATA on a domain that this package did not define.
func describe(d *libvirt.Domain) (domain.Info, error) {
	id, err := d.GetUUIDString()
	if err != nil {
		return domain.Info{}, err
	}
	text, err := d.GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, metadataURI, libvirt.DOMAIN_AFFECT_CURRENT)
	if err != nil {
		return domain.Info{}, err
	}
	var meta metadata
	if err := xml.Unmarshal([]byte(text), &meta); err != nil {
		return domain.Info{}, fmt.Errorf("read metadata of domain %s: %w", id, err)
	}
	state, reason, err := d.GetState()
	if err != nil {
		return domain.Info{}, err
	}
	info := domain.Info{ID: id, UID: meta.UID}
	info.State, info.Reason = translate(state, reason)
	return info, nil
}

func translate(state libvirt.DomainState, reason int) (domain.State, domain.Reason) {
	switch state {
	case libvirt.DOMAIN_SHUTOFF, libvirt.DOMAIN_NOSTATE, libvirt.DOMAIN_CRASHED:
		return domain.Off, offReason(state, libvirt.DomainShutoffReason(reason))
	case libvirt.DOMAIN_PAUSED:
		if libvirt.DomainPausedReason(reason) == libvirt.DOMAIN_PAUSED_IOERROR {
			return domain.Paused, domain.IOError
		}
		return domain.Paused, domain.Unknown
	default: // running, blocked, in shutdown, suspended by the guest
		return domain.Running, domain.Unknown
	}
}

func offReason(state libvirt.DomainState, reason libvirt.DomainShutoffReason) domain.Reason {
	if state == libvirt.DOMAIN_CRASHED {
		return domain.Crashed
	}
	switch reason {
	case libvirt.DOMAIN_SHUTOFF_SHUTDOWN:
		return domain.GuestShutdown
	case libvirt.DOMAIN_SHUTOFF_DESTROYED:
		return domain.Destroyed
	case libvirt.DOMAIN_SHUTOFF_CRASHED:
		return domain.Crashed
	case libvirt.DOMAIN_SHUTOFF_FAILED:
		return domain.StartFailed
	default:
		return domain.Unknown
	}
}

// Define implements machine.Hypervisor.
func (h *Hypervisor) Define(ctx context.Context, spec domain.Spec) error {
	text, err := render(spec)
	if err != nil {
		return fmt.Errorf("define domain %s: %w", spec.ID, err)
	}
	err = h.do(ctx, func(conn *libvirt.Connect) error {
		d, err := conn.DomainDefineXMLFlags(text, libvirt.DOMAIN_DEFINE_VALIDATE)
		if err != nil {
			return err
		}
		return d.Free()
	})
	if err != nil {
		return fmt.Errorf("define domain %s: %w", spec.ID, err)
	}
	return nil
}

// Start implements machine.Hypervisor.
func (h *Hypervisor) Start(ctx context.Context, id string) error {
	return h.with(ctx, "start", id, func(d *libvirt.Domain) error {
		return unlessState(d.CreateWithFlags(libvirt.DOMAIN_NONE), d.IsActive, true)
	})
}

// Shutdown implements machine.Hypervisor. The request goes by ACPI, which needs nothing but a
// kernel in the guest.
func (h *Hypervisor) Shutdown(ctx context.Context, id string) error {
	return h.with(ctx, "shut down", id, func(d *libvirt.Domain) error {
		return d.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
	})
}

// Resume implements machine.Hypervisor.
func (h *Hypervisor) Resume(ctx context.Context, id string) error {
	return h.with(ctx, "resume", id, func(d *libvirt.Domain) error { return d.Resume() })
}

// Destroy implements machine.Hypervisor.
func (h *Hypervisor) Destroy(ctx context.Context, id string) error {
	return ignoreMissing(h.with(ctx, "destroy", id, func(d *libvirt.Domain) error {
		return unlessState(d.DestroyFlags(libvirt.DOMAIN_DESTROY_DEFAULT), d.IsActive, false)
	}))
}

// Undefine implements machine.Hypervisor.
func (h *Hypervisor) Undefine(ctx context.Context, id string) error {
	return ignoreMissing(h.with(ctx, "undefine", id, func(d *libvirt.Domain) error {
		return d.UndefineFlags(libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.DOMAIN_UNDEFINE_NVRAM |
			libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
	}))
}

// unlessState forgives an action that was invalid because the domain is active, or not, already.
func unlessState(err error, isActive func() (bool, error), want bool) error {
	var e libvirt.Error
	if errors.As(err, &e) && e.Code == libvirt.ERR_OPERATION_INVALID {
		if active, askErr := isActive(); askErr == nil && active == want {
			return nil
		}
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
