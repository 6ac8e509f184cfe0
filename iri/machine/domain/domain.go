// Package domain owns the words in which the machine runtime speaks of virtual machines to a
// hypervisor: what is wanted (Spec), what is seen (Info) and what just happened (Event). It does
// no I/O and knows no hypervisor; package libvirt translates.
package domain

import "net"

// Accel is how vCPUs are executed.
type Accel string

const (
	// KVM runs vCPUs on the host's CPU.
	KVM Accel = "kvm"
	// TCG emulates them.
	TCG Accel = "tcg"
)

// A Spec is everything a hypervisor must know of one machine. It carries no secret: ignition is a
// file, named by its path.
type Spec struct {
	// ID is the machine's id, a UUID, and the domain's UUID and name.
	ID string
	// UID is the orchestrator's id of the machine, kept in the domain's metadata so that a domain
	// whose record was lost can be recognised. May be empty.
	UID string
	// Title is shown to a person listing domains. May be empty.
	Title string

	// CPUs is the number of vCPUs, at least 1.
	CPUs int64
	// MemoryBytes is the guest's memory.
	MemoryBytes int64
	Accel       Accel
	CPU         CPU

	Boot  Boot
	Disks []Disk
	NICs  []NIC
	// Ignition is the file given to the guest as fw_cfg opt/com.coreos/config. Empty: none.
	Ignition string
	// Console is the file the serial console is logged to.
	Console string

	// UserID and GroupID are what the emulator runs as, and what may read the files named here.
	UserID, GroupID uint32
}

// CPU is the model the guest sees.
type CPU struct {
	// Mode is "host-model", "host-passthrough", "custom", "maximum" or "" for the hypervisor's default.
	Mode string
	// Model names the model of mode custom.
	Model string
	// Disable lists features masked from the guest.
	Disable []string
}

// Boot says what the machine executes first. Without a kernel it boots from its first disk.
type Boot struct {
	// Kernel and Initramfs are files; an initramfs needs a kernel.
	Kernel, Initramfs string
	// Cmdline is the kernel's command line.
	Cmdline string
}

// A Disk is a virtio block device on a raw image file.
type Disk struct {
	// Name is the volume's name in the machine.
	Name string
	// Path is the image file.
	Path string
	// Target is the device name in the domain, vda, vdb and so on; unique in the domain.
	Target string
	// Serial is what the guest reads as the disk's serial, at most 20 bytes (virtio-blk's limit).
	Serial string
}

// A NIC is a virtio network device on an existing tap.
type NIC struct {
	// Device is the tap.
	Device string
	MAC    net.HardwareAddr
	// MTU is announced to the guest in bytes; 0 leaves the guest's default.
	MTU int
}

// State is what a domain is doing.
type State uint8

const (
	// Off is defined and not running.
	Off State = iota
	// Running executes, or is about to end.
	Running
	// Paused holds its memory and does not execute.
	Paused
)

func (s State) String() string { return [...]string{"off", "running", "paused"}[s] }

// Reason is why a domain is in its state, as far as that matters to a machine runtime.
type Reason uint8

const (
	// Unknown: it never ran, the host rebooted, or the hypervisor does not say.
	Unknown Reason = iota
	// GuestShutdown: the guest's operating system switched the machine off, by itself or asked by ACPI.
	GuestShutdown
	// Destroyed: somebody pulled the plug.
	Destroyed
	// Crashed: the emulator or the guest died.
	Crashed
	// StartFailed: the emulator did not come up.
	StartFailed
	// IOError: paused because a disk could not be written, for example a full one.
	IOError
)

func (r Reason) String() string {
	return [...]string{"unknown", "guest-shutdown", "destroyed", "crashed", "start-failed", "io-error"}[r]
}

// Info is what the hypervisor says of a domain.
type Info struct {
	ID     string
	UID    string
	State  State
	Reason Reason
}

// An Event says that a domain's state may have changed; the reader asks for the state. An empty
// ID means any domain may have: the connection to the hypervisor was made anew.
type Event struct {
	ID string
}
