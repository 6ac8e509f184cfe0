package machine

import (
	"ingot/iri/machine/domain"
)

// have is what the hypervisor says of a machine's domain.
type have struct {
	defined bool
	state   domain.State
	reason  domain.Reason
}

func (h have) active() bool { return h.defined && h.state != domain.Off }

// An action is one step towards what is wanted. Each is idempotent.
type action uint8

const (
	prepareDisks action = iota // image, disks, ignition
	ensurePorts
	defineDomain
	startDomain
	resumeDomain
	stopDomain // ask, and pull the plug after a while; nothing follows it in a plan
	undefineDomain
	releasePorts
	removeFiles
	forget
)

func (a action) String() string {
	return [...]string{"prepare disks", "ensure ports", "define domain", "start domain", "resume domain",
		"stop domain", "undefine domain", "release ports", "remove files", "forget"}[a]
}

// plan is the way from what is there to what the record wants.
func plan(r *record, h have) []action {
	switch {
	case r.deleting() && h.active():
		return []action{stopDomain}
	case r.deleting():
		return []action{undefineDomain, releasePorts, removeFiles, forget}
	case h.active() && (r.Run == runStopping || !r.wantsOn()):
		return []action{stopDomain}
	case h.active() && h.state == domain.Paused && h.reason == domain.IOError:
		return []action{ensurePorts, resumeDomain}
	case h.active():
		return []action{ensurePorts}
	case r.wantsOn() && !r.GuestOff:
		return []action{prepareDisks, ensurePorts, defineDomain, startDomain}
	case h.defined:
		return []action{ensurePorts}
	default:
		return []action{prepareDisks, ensurePorts, defineDomain}
	}
}

// An ending is how a domain came to be off.
type ending uint8

const (
	notEnded    ending = iota
	stopped            // the server stopped it
	guestOff           // the guest switched itself off
	crashed            // it died, or somebody destroyed it
	interrupted        // the host went down, or the domain was taken away
)

// account compares what the server last did with what is there: the new run state and how the
// domain ended, if it did since.
func account(run runState, h have) (runState, ending) {
	switch {
	case h.active() && run == runIdle:
		return runUp, notEnded // started before the server could write it down, or adopted
	case h.active() || run == runIdle:
		return run, notEnded
	case run == runStopping:
		return runIdle, stopped
	case !h.defined:
		return runIdle, interrupted
	}
	switch h.reason {
	case domain.GuestShutdown:
		return runIdle, guestOff
	case domain.Crashed, domain.Destroyed, domain.StartFailed:
		return runIdle, crashed
	default:
		return runIdle, interrupted
	}
}

// lastKnown is what is believed of a domain until the hypervisor was asked.
func lastKnown(r *record) have {
	h := have{defined: r.Prepared}
	if r.Run != runIdle {
		h.state = domain.Running
	}
	return h
}
