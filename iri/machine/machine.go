// Package machine owns the IRI MachineRuntime: it turns machines asked for at a unix socket into
// persistent domains of a hypervisor, with their images, disks and network ports. A machine is
// durable before CreateMachine answers; every step after that is repeated until it holds.
// The package never imports libvirt, never decides on placement, and never stops or re-creates
// anything because something else could not be reached.
package machine

import (
	"context"
	"net"
	"net/netip"

	"ingot/iri/machine/domain"
	"ingot/iri/machine/image"
)

// UIDLabel carries the orchestrator's id of a machine. CreateMachine with a value that exists
// already answers the machine that exists: the request has no id of its own, and a client whose
// answer got lost repeats it.
const UIDLabel = "machinepoollet.ironcore.dev/machine-uid"

// Ports gives machines their network. The agent implements it on the dataplane.
type Ports interface {
	// EnsurePort creates or updates the port of one machine interface and returns it once packets
	// may flow. It is idempotent and is repeated at every start of the server and of the machine.
	// An error of class fault.Unavailable keeps the machine pending until a retry succeeds; so does
	// any other, but that one is reported as a warning.
	EnsurePort(ctx context.Context, r PortRequest) (Port, error)
	// ReleasePort removes the port. One that does not exist is success.
	ReleasePort(ctx context.Context, machineID, nic string) error
}

// A PortRequest is one network interface of a machine.
type PortRequest struct {
	MachineID string
	// NIC is the interface's name, unique in the machine.
	NIC string
	// NetworkID is the network's provider id, ingot://vni/<n>.
	NetworkID string
	IPs       []netip.Addr
	// Attributes are the interface's, as given by the client.
	Attributes map[string]string
	// Hostname is what the guest shall call itself. May be empty.
	Hostname string
}

// A Port is a tap, ready to be handed to an emulator.
type Port struct {
	// Device is the tap's name in the network namespace of the hypervisor.
	Device string
	MAC    net.HardwareAddr
	// MTU is what the guest must use, in bytes; 0 leaves the guest's default.
	MTU int
	// Handle names the port towards IRI clients, in the interface's status.
	Handle string
}

// Hypervisor runs domains. Errors are of the classes of package fault; Unavailable means that
// nothing is known, and never that a domain is gone.
type Hypervisor interface {
	// Get is NotFound when the hypervisor answers that there is no such domain.
	Get(ctx context.Context, id string) (domain.Info, error)
	// List returns the domains that this runtime once defined.
	List(ctx context.Context) ([]domain.Info, error)
	// Define creates the persistent definition or replaces it; a running domain sees the change at
	// its next start.
	Define(ctx context.Context, spec domain.Spec) error
	// Start starts a defined domain. One that runs already is success.
	Start(ctx context.Context, id string) error
	// Shutdown asks the guest to switch itself off and does not wait.
	Shutdown(ctx context.Context, id string) error
	// Resume lets a paused domain go on.
	Resume(ctx context.Context, id string) error
	// Destroy ends the domain at once. One that is off or unknown is success.
	Destroy(ctx context.Context, id string) error
	// Undefine removes the definition of a domain that is off. An unknown one is success.
	Undefine(ctx context.Context, id string) error
	// Watch calls fn for every event until ctx ends. fn must not block.
	Watch(ctx context.Context, fn func(domain.Event))
}

// Images brings images onto the host.
type Images interface {
	// Ensure returns the image behind the reference. Its files stay for at least an hour.
	Ensure(ctx context.Context, reference string) (image.Image, error)
}
