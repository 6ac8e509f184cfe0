package machine

import (
	"errors"
	"fmt"
	"log/slog"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"ingot/iri/machine/domain"
)

// Deps are the collaborators of a Server. All are required but Log.
type Deps struct {
	Hypervisor Hypervisor
	Images     Images
	Ports      Ports
	// Changed is told the labels of a machine whose status has changed, or that is gone: a client
	// in this process need not poll. It must not block, nor call the server. May be nil.
	Changed func(labels map[string]string)
	// Log defaults to slog.Default.
	Log *slog.Logger
}

// Config configures a Server. Zero values are the defaults named.
type Config struct {
	// Dir is the absolute directory of everything the server keeps: records/ (0700) and machines/
	// with disks, readable by the emulator. Required. It and the image cache should share a file
	// system, so that kernels are linked and disks are reflinked.
	Dir string
	// Version is answered by the Version call: a semantic version. Default "0.0.0".
	Version string
	// Classes are what machines may ask for; SetClasses replaces them later.
	Classes []Class
	// Capacity is what the host has; zero fields are read from the host.
	Capacity Resources
	// Reserve is kept back from machines for the host itself. Default 1 GiB of memory, no CPU.
	Reserve Resources
	// CPUOvercommit is how many vCPUs are sold per CPU. Default 1.
	CPUOvercommit float64

	// Accel runs the vCPUs; see package accel for finding out. Required.
	Accel domain.Accel
	// CPU is the model guests see. The zero value is the hypervisor's default.
	CPU domain.CPU
	// EmulatorUser and EmulatorGroup are what QEMU runs as, by name or number, and who owns the
	// files it opens. Never root. Default "libvirt-qemu" for both.
	EmulatorUser, EmulatorGroup string

	// Cmdline is the kernel command line of images that have a kernel and name none.
	// Default "console=ttyS0".
	Cmdline string
	// ConsoleLogBytes bounds the console log of one machine: at this size the log becomes
	// console.log.1 and starts again. Default 4 MiB.
	ConsoleLogBytes int64

	// ShutdownTimeout is how long a guest told to power off may take before it is destroyed.
	// Default 60 s.
	ShutdownTimeout time.Duration
	// DeleteTimeout is the same for a machine that is deleted. Default 5 s; negative: at once.
	DeleteTimeout time.Duration
	// RestartGuestPoweroff starts a machine again whose guest switched itself off. By default such
	// a machine stays off, is reported as suspended, and starts again when it is told its power anew.
	RestartGuestPoweroff bool
	// RetryMin and RetryMax bound the back-off of a failed step. Default 250 ms and 30 s.
	RetryMin, RetryMax time.Duration
	// CrashMax bounds the back-off between restarts of a crashing guest, which starts at one second.
	// Default 5 min; a guest that stayed up for that long starts over.
	CrashMax time.Duration
	// Workers bounds how many machines have disks written or domains started at once. Default 8.
	Workers int
}

// Resources are host resources.
type Resources struct {
	// CPUs are whole logical CPUs.
	CPUs        int64
	MemoryBytes int64
}

// A Class is a size of machine.
type Class struct {
	Name string
	// Capabilities must equal the client's, key by key. "cpu" is whole vCPUs, "memory" bytes.
	Capabilities map[string]int64
}

func (c Class) resources() Resources {
	return Resources{CPUs: c.Capabilities["cpu"], MemoryBytes: c.Capabilities["memory"]}
}

func (c Class) validate() error {
	r := c.resources()
	switch {
	case c.Name == "":
		return errors.New("class without a name")
	case r.CPUs < 1:
		return fmt.Errorf("class %q: capability cpu is %d, must be at least 1", c.Name, r.CPUs)
	case r.MemoryBytes < 1<<20:
		return fmt.Errorf("class %q: capability memory is %d bytes, must be at least 1 MiB", c.Name, r.MemoryBytes)
	}
	return nil
}

// Validate reports all faults, joined.
func (c Config) Validate() error {
	var errs []error
	if !filepath.IsAbs(c.Dir) {
		errs = append(errs, fmt.Errorf("dir %q: must be absolute", c.Dir))
	}
	if c.Accel != domain.KVM && c.Accel != domain.TCG {
		errs = append(errs, fmt.Errorf("accel %q: must be kvm or tcg", c.Accel))
	}
	if c.CPUOvercommit < 0 {
		errs = append(errs, fmt.Errorf("cpu overcommit %g: must not be negative", c.CPUOvercommit))
	}
	if c.Workers < 0 {
		errs = append(errs, fmt.Errorf("workers %d: must not be negative", c.Workers))
	}
	if _, _, err := c.withDefaults().emulatorIDs(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, validateClasses(c.Classes))
	return errors.Join(errs...)
}

func validateClasses(classes []Class) error {
	var errs []error
	seen := map[string]bool{}
	for _, class := range classes {
		if err := class.validate(); err != nil {
			errs = append(errs, err)
		}
		if seen[class.Name] {
			errs = append(errs, fmt.Errorf("class %q: named twice", class.Name))
		}
		seen[class.Name] = true
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	setDefault(&c.Version, "0.0.0")
	setDefault(&c.CPUOvercommit, 1)
	setDefault(&c.Reserve.MemoryBytes, 1<<30)
	setDefault(&c.EmulatorUser, "libvirt-qemu")
	setDefault(&c.EmulatorGroup, "libvirt-qemu")
	setDefault(&c.Cmdline, "console=ttyS0")
	setDefault(&c.ConsoleLogBytes, 4<<20)
	setDefault(&c.ShutdownTimeout, time.Minute)
	setDefault(&c.DeleteTimeout, 5*time.Second)
	setDefault(&c.RetryMin, 250*time.Millisecond)
	setDefault(&c.RetryMax, 30*time.Second)
	setDefault(&c.CrashMax, 5*time.Minute)
	setDefault(&c.Workers, 8)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// emulatorIDs resolves the emulator's user and group. Root is refused: a guest that breaks out of
// its emulator would own the host.
func (c Config) emulatorIDs() (uid, gid uint32, err error) {
	uid, err = resolveID("user", c.EmulatorUser, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	if err != nil {
		return 0, 0, err
	}
	gid, err = resolveID("group", c.EmulatorGroup, func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	return uid, gid, err
}

func resolveID(kind, name string, lookup func(string) (string, error)) (uint32, error) {
	text := name
	if _, err := strconv.ParseUint(name, 10, 32); err != nil {
		if text, err = lookup(name); err != nil {
			return 0, fmt.Errorf("emulator %s %q: %w", kind, name, err)
		}
	}
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("emulator %s %q: %w", kind, name, err)
	}
	if id == 0 {
		return 0, fmt.Errorf("emulator %s %q: must not be root", kind, name)
	}
	return uint32(id), nil
}
