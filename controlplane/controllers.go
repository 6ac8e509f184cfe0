// Package controlplane joins the controllers that turn what users want into what hosts are told.
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

// Config tunes the controllers; its zero value is the default.
type Config struct {
	Scheduler scheduler.Config
	HostView  hostview.Config
}

// Controllers are all of them, for one engine over a store of api.Schema.
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
