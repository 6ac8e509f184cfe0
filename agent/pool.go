package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/apimachinery/pkg/api/resource"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/iri/machine"
	"ingot/iri/machine/domain"
	"ingot/runtime/fault"
	"ingot/runtime/store"
	"ingot/runtime/version"
)

// reportEvery is the host's heartbeat.
const reportEvery = 5 * time.Second

// diskStep is what reported disk space is rounded down to, in bytes: every log line changes it, and
// each change would be a write of the control plane and another look at all machines without a place.
const diskStep = 256 << 20

// poolMemory remembers since when the pool's condition is as it is.
type poolMemory struct {
	ready bool
	since time.Time
}

// reportPool tells the control plane what this host has, as a heartbeat and when classes change or
// libvirt is reached.
func (a *Agent) reportPool(ctx context.Context) error {
	classes, err := a.store.Watch(ctx, 0, store.Query{Kind: api.MachineClass})
	if err != nil {
		return err
	}
	defer classes.Close()
	for {
		// Whatever changes after the status was taken ends the wait.
		wait, cancel := context.WithTimeout(ctx, reportEvery)
		a.hypervisor.Watch(wait, func(e domain.Event) {
			if e.ID == "" {
				cancel()
			}
		})
		status, err := a.poolStatus(ctx)
		if err != nil {
			a.log.Debug("pool not reported", "error", err)
		} else {
			a.view.ReportPool(status)
		}
		_, err = classes.Next(wait)
		waited := wait.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !waited {
			return err
		}
	}
}

func (a *Agent) poolStatus(ctx context.Context) (*v1alpha1.MachinePoolStatus, error) {
	total, free := a.machines.Capacity()
	used, available, err := diskSpace(a.cfg.StateDir)
	if err != nil {
		return nil, err
	}
	s := &v1alpha1.MachinePoolStatus{
		Capacity: quantities(total, used+available), Allocatable: quantities(free, available), AgentVersion: version.String(),
		AcceptsAnyClass: true,
		Addresses: []*v1alpha1.PoolAddress{{Type: "Hostname", Address: a.cfg.Host},
			{Type: "Underlay", Address: a.cfg.Underlay.Prefix.String()}},
	}
	page, err := a.store.List(ctx, store.Query{Kind: api.MachineClass})
	if err != nil {
		return nil, err
	}
	for _, r := range page.Items {
		s.AvailableMachineClasses = append(s.AvailableMachineClasses, &v1alpha1.LocalRef{Name: r.Name})
	}
	state, reason, message := "Ready", "Connected", "libvirt runs machines"
	if !a.hypervisor.Connected() {
		state, reason, message = "Pending", "LibvirtAway", "libvirtd does not answer; running machines go on"
	}
	s.State = state
	if a.lastStatus.since.IsZero() || a.lastStatus.ready != (state == "Ready") {
		a.lastStatus = poolMemory{state == "Ready", time.Now()}
	}
	s.Conditions = []*v1alpha1.Condition{{Type: "Ready", Status: conditionWord(state == "Ready"), Reason: reason,
		Message: message, LastTransitionTime: timestamppb.New(a.lastStatus.since)}}
	return s, nil
}

func conditionWord(holds bool) string {
	if holds {
		return "True"
	}
	return "False"
}

func quantities(r machine.Resources, disk int64) map[string]string {
	return map[string]string{
		"cpu":    strconv.FormatInt(r.CPUs, 10),
		"memory": resource.NewQuantity(r.MemoryBytes, resource.BinarySI).String(),
		"disk":   resource.NewQuantity(disk/diskStep*diskStep, resource.BinarySI).String(),
	}
}

// diskSpace returns the bytes that machines' disks take below dir, and those that are left there.
func diskSpace(dir string) (used, available int64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, 0, fmt.Errorf("look at file system of %s: %w", dir, err)
	}
	disks, err := filepath.Glob(filepath.Join(dir, "machines", "machines", "*", "*"))
	if err != nil {
		return 0, 0, fmt.Errorf("list disks: %w", err)
	}
	for _, disk := range disks {
		var st unix.Stat_t
		if unix.Lstat(disk, &st) == nil { // else it was removed meanwhile
			used += st.Blocks * 512
		}
	}
	return used, int64(fs.Bavail) * fs.Bsize, nil
}

// renewCertificate asks for a fresh certificate when a third of the present one's life is left.
func (a *Agent) renewCertificate(ctx context.Context) error {
	for {
		due, err := renewalDue(a.identity)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(time.Until(due), time.Minute)):
		}
		if err := a.renew(ctx); err != nil {
			a.log.Warn("certificate not renewed", "error", err, "due", due)
		}
	}
}

func renewalDue(identity *client.Context) (time.Time, error) {
	cert, err := pki.ParseCertificate([]byte(identity.Certificate))
	if err != nil {
		return time.Time{}, fmt.Errorf("read own certificate: %w", err)
	}
	life := cert.NotAfter.Sub(cert.NotBefore)
	return cert.NotAfter.Add(-life / 3), nil
}

func (a *Agent) renew(ctx context.Context) error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	fresh, err := a.control.Renew(ctx, a.identity.Server, key)
	if err != nil {
		return err
	}
	if err := fresh.Save(a.cfg.contextFile()); err != nil {
		return err
	}
	next, err := client.Dial(fresh)
	if err != nil {
		return err
	}
	previous := a.control
	a.control, a.identity = next, fresh
	a.view.Use(next.Hosts)
	a.log.Info("certificate renewed")
	// The stream over the old connection ends, and the next one goes over the new.
	return previous.Close()
}

func ignoreNotFound(err error) error {
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
