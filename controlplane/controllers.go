package controlplane

import (
	"ingot/controlplane/hostview"
	"ingot/controlplane/ipam"
	"ingot/controlplane/machine"
	"ingot/controlplane/network"
	"ingot/controlplane/policy"
	"ingot/controlplane/scheduler"
	"ingot/runtime/controller"
)

// Controllers are all controllers, which turn what users want into what hosts are told: for one
// engine over a store of api.Schema. Of cfg they use Scheduler and HostView.
func Controllers(cfg Config) []controller.Controller {
	return []controller.Controller{
		machine.New(),
		ipam.NewInterfaces(),
		ipam.New(),
		network.New(),
		network.NewInterfaces(),
		policy.New(),
		scheduler.New(cfg.Scheduler),
		hostview.NewInterfaces(cfg.HostView),
		hostview.NewMachines(),
	}
}
