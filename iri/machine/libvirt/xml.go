package libvirt

import (
	"encoding/xml"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"ingot/iri/machine/domain"
)

// metadataURI is the XML namespace of what this package keeps in a domain's metadata: a domain
// with it is one of ours.
const metadataURI = "https://ingot.dev/xmlns/machine/1"

// ignitionKey is where Ignition looks in QEMU's fw_cfg
// (https://coreos.github.io/ignition/supported-platforms/, "qemu").
const ignitionKey = "opt/com.coreos/config"

// metadata is the element kept in the domain. libvirt hands it back without its namespace.
type metadata struct {
	XMLName xml.Name `xml:"machine"`
	Space   string   `xml:"xmlns,attr,omitempty"`
	UID     string   `xml:"uid,attr,omitempty"`
}

// render writes the persistent definition of a domain. It holds paths and names, never secrets.
func render(spec domain.Spec) (string, error) {
	meta, err := xml.Marshal(metadata{Space: metadataURI, UID: spec.UID})
	if err != nil {
		return "", fmt.Errorf("render metadata: %w", err)
	}
	id := fmt.Sprintf("+%d:+%d", spec.UserID, spec.GroupID)
	d := libvirtxml.Domain{
		Type:     domainType(spec.Accel),
		Name:     spec.ID,
		UUID:     spec.ID,
		Title:    title(spec.Title),
		Metadata: &libvirtxml.DomainMetadata{XML: string(meta)},
		Memory:   &libvirtxml.DomainMemory{Value: uint(spec.MemoryBytes / 1024), Unit: "KiB"},
		VCPU:     &libvirtxml.DomainVCPU{Placement: "static", Value: uint(spec.CPUs)},
		CPU:      cpu(spec.CPU),
		OS:       boot(spec),
		Features: &libvirtxml.DomainFeatureList{
			ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{},
		},
		Clock: &libvirtxml.DomainClock{Offset: "utc"},
		// A guest that switches itself off stays off until the runtime decides; a reboot stays
		// within the domain; a dead one is gone and its reason is kept.
		OnPoweroff: "destroy",
		OnReboot:   "restart",
		OnCrash:    "destroy",
		Devices:    devices(spec),
		// The emulator runs as the given user whatever qemu.conf says, and no file changes hands:
		// the runtime set their owners.
		SecLabel: []libvirtxml.DomainSecLabel{{Type: "static", Model: "dac", Relabel: "no", Label: id}},
	}
	if spec.Ignition != "" {
		d.SysInfo = []libvirtxml.DomainSysInfo{{FWCfg: &libvirtxml.DomainSysInfoFWCfg{
			Entry: []libvirtxml.DomainSysInfoEntry{{Name: ignitionKey, File: spec.Ignition}},
		}}}
	}
	text, err := d.Marshal()
	if err != nil {
		return "", fmt.Errorf("render domain: %w", err)
	}
	return text, nil
}

// domainType is libvirt's word for an accelerator.
func domainType(a domain.Accel) string {
	if a == domain.KVM {
		return "kvm"
	}
	return "qemu"
}

// title is one line, as libvirt demands.
func title(s string) string { return strings.Join(strings.Fields(s), " ") }

func cpu(c domain.CPU) *libvirtxml.DomainCPU {
	if c.Mode == "" {
		return nil
	}
	out := &libvirtxml.DomainCPU{Mode: c.Mode}
	if c.Model != "" {
		out.Model = &libvirtxml.DomainCPUModel{Value: c.Model, Fallback: "allow"}
	}
	for _, feature := range c.Disable {
		out.Features = append(out.Features, libvirtxml.DomainCPUFeature{Policy: "disable", Name: feature})
	}
	return out
}

func boot(spec domain.Spec) *libvirtxml.DomainOS {
	out := &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "q35", Type: "hvm"}}
	if spec.Boot.Kernel == "" {
		out.BootDevices = []libvirtxml.DomainBootDevice{{Dev: "hd"}}
		return out
	}
	out.Kernel, out.Initrd, out.Cmdline = spec.Boot.Kernel, spec.Boot.Initramfs, spec.Boot.Cmdline
	return out
}

func devices(spec domain.Spec) *libvirtxml.DomainDeviceList {
	port := uint(0)
	out := &libvirtxml.DomainDeviceList{
		Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
		Serials: []libvirtxml.DomainSerial{{
			Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
			Target: &libvirtxml.DomainSerialTarget{Type: "isa-serial", Port: &port},
			Log:    &libvirtxml.DomainChardevLog{File: spec.Console, Append: "on"},
		}},
		Channels: []libvirtxml.DomainChannel{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{}},
			Target: &libvirtxml.DomainChannelTarget{
				VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: "org.qemu.guest_agent.0"},
			},
		}},
		RNGs: []libvirtxml.DomainRNG{{
			Model: "virtio",
			Backend: &libvirtxml.DomainRNGBackend{
				Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"},
			},
		}},
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "virtio"},
		Panics:     []libvirtxml.DomainPanic{{Model: "isa"}},
	}
	for _, disk := range spec.Disks {
		out.Disks = append(out.Disks, libvirtxml.DomainDisk{
			Device: "disk",
			// A full host pauses the guest instead of losing its writes.
			Driver: &libvirtxml.DomainDiskDriver{
				Name: "qemu", Type: "raw", Cache: "none", IO: "threads", Discard: "unmap", ErrorPolicy: "enospace",
			},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: disk.Path}},
			Target: &libvirtxml.DomainDiskTarget{Dev: disk.Target, Bus: "virtio"},
			Serial: disk.Serial,
		})
	}
	for _, nic := range spec.NICs {
		out.Interfaces = append(out.Interfaces, iface(nic))
	}
	return out
}

func iface(nic domain.NIC) libvirtxml.DomainInterface {
	out := libvirtxml.DomainInterface{
		MAC:    &libvirtxml.DomainInterfaceMAC{Address: nic.MAC.String()},
		Source: &libvirtxml.DomainInterfaceSource{Ethernet: &libvirtxml.DomainInterfaceSourceEthernet{}},
		Target: &libvirtxml.DomainInterfaceTarget{Dev: nic.Device, Managed: "no"},
		Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
		// No option ROM: machines do not boot from the network.
		ROM: &libvirtxml.DomainROM{Enabled: "no"},
	}
	if nic.MTU > 0 {
		out.MTU = &libvirtxml.DomainInterfaceMTU{Size: uint(nic.MTU)}
	}
	return out
}
