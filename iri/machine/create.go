package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/google/uuid"
	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	"google.golang.org/protobuf/proto"

	"ingot/runtime/fault"
)

// maxName bounds names of volumes and interfaces, which become parts of file names and port ids.
const maxName = 63

// CreateMachine makes the machine durable and answers; the rest follows. A request with the UID of
// a machine that exists answers that machine.
func (s *Server) CreateMachine(ctx context.Context, req *api.CreateMachineRequest) (*api.CreateMachineResponse, error) {
	given := proto.CloneOf(req.GetMachine())
	if err := validate(given.GetSpec()); err != nil {
		return nil, toStatus(err)
	}
	for {
		e, r, created, err := s.reserve(given)
		if err != nil {
			return nil, toStatus(err)
		}
		if !created {
			select {
			case <-ctx.Done():
				return nil, toStatus(fmt.Errorf("%w: %w", fault.Unavailable, ctx.Err()))
			case <-e.durable:
			}
			view := e.view.Load()
			if view == nil { // the other request failed, or it was deleted meanwhile
				continue
			}
			if view.Metadata.DeletedAt != 0 {
				return nil, toStatus(fmt.Errorf("%w: machine %s of uid %q is being deleted; wait until it is gone",
					fault.Precondition, e.id, r.uid()))
			}
			return &api.CreateMachineResponse{Machine: view}, nil
		}
		view, err := s.commit(e, r)
		return &api.CreateMachineResponse{Machine: view}, toStatus(err)
	}
}

// reserve gives the machine its id and its share of the host, or finds the one with its UID.
func (s *Server) reserve(given *api.Machine) (e *entry, r *record, created bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r = &record{Metadata: newMetadata("", given.GetMetadata()), Spec: given.GetSpec()}
	if e := s.byUID[r.uid()]; e != nil && r.uid() != "" {
		return e, r, false, nil
	}
	class, err := s.class(r.Spec.GetClass())
	if err != nil {
		return nil, nil, false, err
	}
	r.Resources = class.resources()
	if free := (Resources{CPUs: s.capacity.CPUs - s.used.CPUs, MemoryBytes: s.capacity.MemoryBytes - s.used.MemoryBytes}); free.quantity(class) < 1 {
		return nil, nil, false, fmt.Errorf("%w: class %s needs %d CPUs and %d bytes of memory; %d and %d are free",
			fault.Exhausted, class.Name, r.Resources.CPUs, r.Resources.MemoryBytes, free.CPUs, free.MemoryBytes)
	}
	// A domain of this UID whose record was lost is this machine.
	id, orphan := s.orphans[r.uid()]
	if !orphan || s.entries[id] != nil {
		id = uuid.NewString()
	}
	delete(s.orphans, r.uid())
	r.Metadata.Id = id
	e = newEntry(id, s.store, s.changed, s.log)
	s.register(e, r)
	return e, r, true, nil
}

// class finds a class. s.mu is held.
func (s *Server) class(name string) (Class, error) {
	for _, c := range s.classes {
		if c.Name == name {
			return c, nil
		}
	}
	return Class{}, fmt.Errorf("%w: spec.class: this host has no class %q", fault.Invalid, name)
}

// commit makes the machine durable, shows it, and starts its reconciler.
func (s *Server) commit(e *entry, r *record) (*api.Machine, error) {
	defer close(e.durable)
	e.mu.Lock()
	err := s.makeRoom(e.id)
	if err == nil {
		err = s.store.save(r)
	}
	if err == nil {
		e.record = r
		e.show()
	}
	view := e.view.Load()
	e.mu.Unlock()
	if err != nil {
		s.unregister(e, r)
		return nil, fmt.Errorf("create machine: %w", errors.Join(err, s.store.remove(e.id)))
	}
	e.log.Info("machine created", "uid", r.uid(), "class", r.Spec.GetClass())
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.start != nil {
		s.start(e)
	}
	return view, nil
}

// makeRoom sets the corrupt record of a machine aside that is created again.
func (s *Server) makeRoom(id string) error {
	s.mu.Lock()
	_, corrupt := s.corrupt[id]
	delete(s.corrupt, id)
	s.mu.Unlock()
	if !corrupt {
		return nil
	}
	if err := s.store.setAside(id); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// validate reports what is wrong with the spec, by field.
func validate(spec *api.MachineSpec) error {
	var f fault.Fields
	if spec == nil {
		f.Add("machine.spec", "is required")
		return f.Err()
	}
	if spec.GetClass() == "" {
		f.Add("spec.class", "is required")
	}
	if _, ok := api.Power_name[int32(spec.GetPower())]; !ok {
		f.Add("spec.power", "%d is neither on nor off", spec.GetPower())
	}
	volumes := map[string]bool{}
	for i, v := range spec.GetVolumes() {
		path := fmt.Sprintf("spec.volumes[%d]", i)
		checkName(&f, path, v.GetName(), volumes)
		local := v.GetLocalDisk()
		switch {
		case v.GetConnection() != nil && local == nil:
			return fmt.Errorf("%w: %s.connection: this runtime attaches local disks only", fault.Unsupported, path)
		case local == nil:
			f.Add(path+".local_disk", "is required")
		case local.GetSizeBytes() < 0:
			f.Add(path+".local_disk.size_bytes", "%d is negative", local.GetSizeBytes())
		case local.GetSizeBytes() == 0 && local.GetImage().GetImage() == "":
			f.Add(path+".local_disk.size_bytes", "is required for a disk without an image")
		case local.GetSizeBytes()%512 != 0:
			f.Add(path+".local_disk.size_bytes", "%d is not a multiple of 512", local.GetSizeBytes())
		}
	}
	if n := len(spec.GetVolumes()); n > 26 {
		f.Add("spec.volumes", "%d are too many, at most 26", n)
	}
	nics := map[string]bool{}
	for i, nic := range spec.GetNetworkInterfaces() {
		path := fmt.Sprintf("spec.network_interfaces[%d]", i)
		checkName(&f, path, nic.GetName(), nics)
		if nic.GetNetworkId() == "" {
			f.Add(path+".network_id", "is required")
		}
		for j, ip := range nic.GetIps() {
			if _, err := netip.ParseAddr(ip); err != nil {
				f.Add(fmt.Sprintf("%s.ips[%d]", path, j), "%q is not an IP address", ip)
			}
		}
	}
	return f.Err()
}

// checkName notes a name that is missing, too long or taken.
func checkName(f *fault.Fields, path, name string, taken map[string]bool) {
	switch {
	case name == "":
		f.Add(path+".name", "is required")
	case len(name) > maxName:
		f.Add(path+".name", "has %d bytes, at most %d", len(name), maxName)
	case taken[name]:
		f.Add(path+".name", "%q is used twice", name)
	}
	taken[name] = true
}
