// Package network joins the runtime's interfaces, the host view, the dataplane and routing: it
// turns what a machine asks for, and what the control plane says about it, into ports; announces
// the ports; and puts learned routes into the dataplane. The dataplane's own durable specs are the
// memory of it; nothing is kept twice.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"ingot/controlplane/api/v1alpha1"
	"ingot/dataplane"
	"ingot/iri/machine"
	"ingot/routing"
	"ingot/runtime/fault"
)

// InterfaceAttribute is the attribute of an IRI network interface that carries the uid of its
// NetworkInterface. Interfaces without it come from a foreign poollet: what they say is all there is.
const InterfaceAttribute = "ingot.dev/interface-uid"

// A Dataplane is what package dataplane gives.
type Dataplane interface {
	EnsurePort(ctx context.Context, spec dataplane.PortSpec) (dataplane.PortStatus, error)
	DeletePort(ctx context.Context, id string) error
	Prune(ctx context.Context, keep []string) error
	Ports() []dataplane.PortStatus
	ApplyRoutes(ctx context.Context, routes []dataplane.Route) error
	SyncRoutes(ctx context.Context, vni uint32, all []dataplane.Route) error
}

// A Speaker is what package routing gives.
type Speaker interface {
	Announce(ctx context.Context, all []routing.Announcement) error
	Import(vnis []uint32)
	Synced() <-chan struct{}
}

// Interfaces finds the HostInterface with a uid; fault.NotFound when the control plane has told
// of none.
type Interfaces interface {
	Interface(ctx context.Context, uid string) (*v1alpha1.HostInterfaceSpec, error)
}

// Config configures a Network.
type Config struct {
	// UnderlayPrefix is this host's; ports get their addresses from it.
	UnderlayPrefix netip.Prefix
	// DNS is told to machines whose interface names none.
	DNS []netip.Addr
	Log *slog.Logger
}

// A Network owns the ports of a host.
type Network struct {
	cfg        Config
	log        *slog.Logger
	dataplane  Dataplane
	interfaces Interfaces
	changed    chan struct{} // ports have changed since they were announced
	routes     routeTable

	mu sync.Mutex // guards requests and serialises changes of ports
	// requests are what the runtime has asked for in this process' life, by port.
	requests map[string]machine.PortRequest
}

// New returns a network whose ports are those that the dataplane has adopted.
func New(cfg Config, dp Dataplane, interfaces Interfaces) *Network {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	n := &Network{cfg: cfg, log: cfg.Log.With("component", "network"), dataplane: dp, interfaces: interfaces,
		changed: make(chan struct{}, 1), requests: map[string]machine.PortRequest{}}
	n.routes = newRouteTable(dp, n.log)
	n.signal()
	return n
}

func (n *Network) signal() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// PortID names the port of a machine's interface.
func PortID(machineID, nic string) string { return machineID + "/" + nic }

// EnsurePort implements machine.Ports.
func (n *Network) EnsurePort(ctx context.Context, r machine.PortRequest) (machine.Port, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := PortID(r.MachineID, r.NIC)
	n.requests[id] = r
	status, err := n.ensure(ctx, id, r)
	if err != nil {
		return machine.Port{}, err
	}
	return machine.Port{Device: status.Device, MAC: status.Spec.MAC, MTU: status.MTU, Handle: id}, nil
}

// ReleasePort implements machine.Ports.
func (n *Network) ReleasePort(ctx context.Context, machineID, nic string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := PortID(machineID, nic)
	delete(n.requests, id)
	if err := n.dataplane.DeletePort(ctx, id); err != nil {
		return err
	}
	n.signal()
	return nil
}

// Refresh brings the ports of an interface in line with what the control plane says of it now. One
// that it says nothing of any more keeps what it had: its machine decides on its end.
func (n *Network) Refresh(ctx context.Context, interfaceUID string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for id, r := range n.requests {
		if r.Attributes[InterfaceAttribute] != interfaceUID {
			continue
		}
		if _, err := n.ensure(ctx, id, r); err != nil {
			errs = append(errs, fmt.Errorf("refresh port %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// Settle removes the ports of machines that are not alive: left over from a host that was stopped
// in the middle of an end. alive must be the whole truth.
func (n *Network) Settle(ctx context.Context, alive map[string]bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var keep []string
	for _, p := range n.dataplane.Ports() {
		machineID, _, _ := strings.Cut(p.ID, "/")
		if _, asked := n.requests[p.ID]; asked || alive[machineID] {
			keep = append(keep, p.ID)
		}
	}
	if err := n.dataplane.Prune(ctx, keep); err != nil {
		return err
	}
	n.signal()
	return nil
}

// ensure brings one port to its spec; n.mu is held.
func (n *Network) ensure(ctx context.Context, id string, r machine.PortRequest) (dataplane.PortStatus, error) {
	have, exists := n.port(id)
	spec, err := n.spec(ctx, id, r)
	switch {
	case errors.Is(err, fault.NotFound) && exists:
		spec = have.Spec
	case errors.Is(err, fault.NotFound):
		return dataplane.PortStatus{}, fmt.Errorf("port %s: the control plane has not told of its interface yet: %w", id, fault.Unavailable)
	case err != nil:
		return dataplane.PortStatus{}, err
	}
	if exists {
		spec.Underlay = have.Spec.Underlay
	} else if spec.Underlay, err = n.allocate(id); err != nil {
		return dataplane.PortStatus{}, err
	}
	status, err := n.dataplane.EnsurePort(ctx, spec)
	if err != nil {
		return dataplane.PortStatus{}, err
	}
	n.signal()
	return status, nil
}

func (n *Network) port(id string) (dataplane.PortStatus, bool) {
	for _, p := range n.dataplane.Ports() {
		if p.ID == id {
			return p, true
		}
	}
	return dataplane.PortStatus{}, false
}

// Run announces ports whenever they change, until ctx ends.
func (n *Network) Run(ctx context.Context, speaker Speaker) error {
	synced := speaker.Synced()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.changed:
			if err := n.announce(ctx, speaker); err != nil && ctx.Err() == nil {
				n.log.Error("announce ports", "error", err)
				time.AfterFunc(retryRoutes, n.signal)
			}
		case <-synced:
			synced = nil
			n.routes.settle(ctx)
		case <-n.routes.retry():
			n.routes.again(ctx)
		}
	}
}

func (n *Network) announce(ctx context.Context, speaker Speaker) error {
	var all []routing.Announcement
	vnis := map[uint32]bool{}
	for _, p := range n.dataplane.Ports() {
		if !p.Ready {
			continue
		}
		vnis[p.Spec.VNI] = true
		for _, prefix := range owned(p.Spec) {
			all = append(all, routing.Announcement{PortID: p.ID, VNI: p.Spec.VNI, Prefix: prefix, NextHop: p.Spec.Underlay})
		}
	}
	// Import first: the answer to an announcement may be traffic, which needs the way back.
	hosted := slices.Sorted(maps.Keys(vnis))
	n.routes.host(ctx, hosted)
	speaker.Import(hosted)
	return speaker.Announce(ctx, all)
}

// owned are the prefixes that live at a port.
func owned(s dataplane.PortSpec) []netip.Prefix {
	all := slices.Clone(s.Prefixes)
	for _, a := range s.Addresses {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all
}

// Learn takes route changes from the speaker.
func (n *Network) Learn(updates []routing.RouteUpdate) { n.routes.learn(context.Background(), updates) }
