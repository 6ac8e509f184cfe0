package server

import (
	"context"
	"errors"
	"time"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

const (
	// tidyEvery is how often the server looks for what is of no more use.
	tidyEvery = 10 * time.Second
	// tokenLife is how long a join token is shown after it expired.
	tokenLife = 24 * time.Hour
	// offlineAfter is for how long a host may have no stream before it counts as offline. A server
	// that was just started gives hosts the same time.
	offlineAfter = 30 * time.Second
)

// tidy removes what nobody else would: events, requests and tokens whose time is over, and what
// hosts have said about objects that are gone. It also notes which hosts are heard of.
func (s *Server) tidy(ctx context.Context) error {
	heard := map[string]time.Time{}
	start := time.Now()
	for tick := time.NewTicker(tidyEvery); ; {
		if err := errors.Join(s.tidyOnce(ctx, time.Now()), s.notePresence(ctx, heard, start)); err != nil && ctx.Err() == nil {
			s.log.Warn("tidy up", "err", err)
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
		}
	}
}

// tidyOnce removes what is of no more use at the given time.
func (s *Server) tidyOnce(ctx context.Context, now time.Time) error {
	old := func(at time.Time, life time.Duration) bool { return now.Sub(at) > life }
	useless := map[resource.Kind]func(*resource.Resource) (bool, error){
		api.Event: func(r *resource.Resource) (bool, error) {
			return old(resource.Spec[*v1alpha1.EventSpec](r).LastTimestamp.AsTime(), eventLife), nil
		},
		api.Request: func(r *resource.Resource) (bool, error) { return old(r.Created, requestLife), nil },
		api.JoinToken: func(r *resource.Resource) (bool, error) {
			return old(resource.Spec[*v1alpha1.JoinTokenSpec](r).Expires.AsTime(), tokenLife), nil
		},
		api.JoinTokenStatus: func(r *resource.Resource) (bool, error) { return s.orphaned(ctx, r, api.JoinToken, "") },
		api.MachineStatus: func(r *resource.Resource) (bool, error) {
			return s.orphaned(ctx, r, api.Machine, resource.Spec[*v1alpha1.MachineStatus](r).MachineUid)
		},
		api.MachinePoolStatus:   func(r *resource.Resource) (bool, error) { return s.orphaned(ctx, r, api.MachinePool, "") },
		api.MachinePoolPresence: func(r *resource.Resource) (bool, error) { return s.orphaned(ctx, r, api.MachinePool, "") },
	}
	var errs []error
	for kind, is := range useless {
		page, err := s.store.List(ctx, store.Query{Kind: kind})
		if err != nil {
			return err
		}
		for _, r := range page.Items {
			gone, err := is(r)
			if err == nil && gone {
				err = s.remove(ctx, r)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// orphaned reports whether the object that r speaks of is gone, or another one than uid, if given.
func (s *Server) orphaned(ctx context.Context, r *resource.Resource, of resource.Kind, uid string) (bool, error) {
	about, err := s.store.Get(ctx, resource.Key{Kind: of, Project: r.Project, Name: r.Name})
	if errors.Is(err, fault.NotFound) {
		return true, nil
	}
	return err == nil && uid != "" && about.UID != uid, err
}

// notePresence notes which hosts are heard of; heard is when each was last seen with a stream.
func (s *Server) notePresence(ctx context.Context, heard map[string]time.Time, start time.Time) error {
	page, err := s.store.List(ctx, store.Query{Kind: api.MachinePool})
	if err != nil {
		return err
	}
	var errs []error
	for _, pool := range page.Items {
		since, ok := heard[pool.Name]
		if !ok {
			since = start
		}
		if s.hosts.connected(pool.Name) {
			heard[pool.Name] = time.Now()
			errs = append(errs, s.setPresence(ctx, pool.Name, "Online"))
		} else if time.Since(since) > offlineAfter {
			errs = append(errs, s.setPresence(ctx, pool.Name, "Offline"))
		}
	}
	return errors.Join(errs...)
}
