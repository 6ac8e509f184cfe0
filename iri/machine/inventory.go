package machine

import (
	"context"
	"fmt"
)

// Capacity returns what machines may use in total, and what of it is free.
func (s *Server) Capacity() (total, free Resources) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.capacity, Resources{
		CPUs:        max(0, s.capacity.CPUs-s.used.CPUs),
		MemoryBytes: max(0, s.capacity.MemoryBytes-s.used.MemoryBytes),
	}
}

// Known returns the ids of all machines that have a record, readable or not, or a domain: whose
// ports, disks and taps are somebody's. fault.Unavailable while the hypervisor cannot be asked.
func (s *Server) Known(ctx context.Context) (map[string]bool, error) {
	domains, err := s.hypervisor.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	ids := map[string]bool{}
	for _, d := range domains {
		ids[d.ID] = true
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id := range s.entries {
		ids[id] = true
	}
	for id := range s.corrupt {
		ids[id] = true
	}
	return ids, nil
}
