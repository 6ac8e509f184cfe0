package dataplane

import (
	"context"
	"fmt"

	"ingot/runtime/fault"
)

// A Manager is this host's dataplane. Its methods may be called from several goroutines.
type Manager struct {
	cfg Config
}

// Open adopts what an earlier process left under cfg.Dir and cfg.StateDir, or starts afresh.
// Forwarding goes on while it works. Errors: fault.Invalid for cfg, fault.Unsupported where
// the kernel lacks something.
func Open(cfg Config) (*Manager, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("open dataplane: %w: %w", fault.Invalid, err)
	}
	return &Manager{cfg: cfg.withDefaults()}, nil
}

// EnsurePort creates the port or brings it to spec. It is durable and filtered when it returns.
func (m *Manager) EnsurePort(ctx context.Context, spec PortSpec) (PortStatus, error) {
	return PortStatus{}, fmt.Errorf("ensure port %s: %w", spec.ID, fault.Unsupported)
}

// DeletePort removes the port and all that belongs to it; an unknown port is a success.
func (m *Manager) DeletePort(ctx context.Context, id string) error {
	return fmt.Errorf("delete port %s: %w", id, fault.Unsupported)
}

// Prune removes every port, tap, pin and map entry that belongs to none of keep. Call it only
// with the full desired state at hand.
func (m *Manager) Prune(ctx context.Context, keep []string) error {
	return fmt.Errorf("prune: %w", fault.Unsupported)
}

// Ports lists the ports in order of their ID.
func (m *Manager) Ports() []PortStatus { return nil }

// ApplyRoutes upserts the routes; one without next hops is deleted.
func (m *Manager) ApplyRoutes(ctx context.Context, routes []Route) error {
	return fmt.Errorf("apply routes: %w", fault.Unsupported)
}

// SyncRoutes makes all the whole set of the VNI's routes.
func (m *Manager) SyncRoutes(ctx context.Context, vni uint32, all []Route) error {
	return fmt.Errorf("sync routes of VNI %d: %w", vni, fault.Unsupported)
}

// Counters reports every port, and one entry with PortID "" for what belongs to none.
func (m *Manager) Counters() ([]PortCounters, error) {
	return nil, fmt.Errorf("read counters: %w", fault.Unsupported)
}

// Flows lists the connections of one port.
func (m *Manager) Flows(portID string) ([]Flow, error) {
	return nil, fmt.Errorf("list flows of %s: %w", portID, fault.Unsupported)
}

// Run answers DHCP and router solicitations and expires flows until ctx ends; then it returns nil.
func (m *Manager) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Close releases this process' handles; everything stays pinned and forwarding.
func (m *Manager) Close() error { return nil }
