package network

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"ingot/dataplane"
	"ingot/routing"
)

// retryRoutes is how long to wait before what the dataplane or the speaker refused is tried again.
const retryRoutes = time.Second

// A routeTable carries routes from the speaker to the dataplane.
type routeTable struct {
	dataplane Dataplane
	log       *slog.Logger
	timer     *time.Timer

	mu sync.Mutex // guards what follows, and orders what the dataplane is told
	// told is everything learned since the start, until the table is known to be complete.
	told map[routing.RouteKey]dataplane.Route
	// failed is what the dataplane did not take.
	failed map[routing.RouteKey]dataplane.Route
	hosted []uint32
	// left are networks without ports here whose routes the dataplane could not remove.
	left map[uint32]bool
	// unsettled says that the table is complete and the dataplane could not be told so.
	unsettled bool
}

func newRouteTable(dp Dataplane, log *slog.Logger) routeTable {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return routeTable{dataplane: dp, log: log, timer: timer,
		told: map[routing.RouteKey]dataplane.Route{}, failed: map[routing.RouteKey]dataplane.Route{}, left: map[uint32]bool{}}
}

func (t *routeTable) learn(ctx context.Context, updates []routing.RouteUpdate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	routes := make([]dataplane.Route, len(updates))
	for i, u := range updates {
		routes[i] = dataplane.Route{Key: dataplane.RouteKey{VNI: u.Key.VNI, Prefix: u.Key.Prefix}}
		for _, hop := range u.NextHops {
			routes[i].NextHops = append(routes[i].NextHops, dataplane.NextHop{Address: hop})
		}
		if t.told != nil {
			t.told[u.Key] = routes[i]
		}
		delete(t.failed, u.Key)
	}
	t.apply(ctx, routes)
}

// apply tells the dataplane; t.mu is held.
func (t *routeTable) apply(ctx context.Context, routes []dataplane.Route) {
	err := t.dataplane.ApplyRoutes(ctx, routes)
	if err == nil {
		return
	}
	t.log.Error("program routes", "routes", len(routes), "error", err)
	for _, r := range routes {
		t.failed[routing.RouteKey(r.Key)] = r
	}
	t.timer.Reset(retryRoutes)
}

func (t *routeTable) retry() <-chan time.Time { return t.timer.C }

// again tries what failed.
func (t *routeTable) again(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	routes := make([]dataplane.Route, 0, len(t.failed))
	for _, r := range t.failed {
		routes = append(routes, r)
	}
	clear(t.failed)
	if len(routes) > 0 {
		t.apply(ctx, routes)
	}
	for vni := range t.left {
		t.leave(ctx, vni)
	}
	if t.unsettled {
		t.settleLocked(ctx)
	}
}

// host notes which networks have ports here; the routes of one that has none any more go.
func (t *routeTable) host(ctx context.Context, vnis []uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, vni := range t.hosted {
		if slices.Contains(vnis, vni) {
			continue
		}
		of := func(key routing.RouteKey, _ dataplane.Route) bool { return key.VNI == vni }
		maps.DeleteFunc(t.told, of)
		maps.DeleteFunc(t.failed, of)
		t.leave(ctx, vni)
	}
	for _, vni := range vnis {
		if t.left[vni] { // the last chance: its new routes are told after this
			t.leave(ctx, vni)
			delete(t.left, vni)
		}
	}
	t.hosted = vnis
}

// leave removes the routes of a network without ports here; t.mu is held.
func (t *routeTable) leave(ctx context.Context, vni uint32) {
	if err := t.dataplane.SyncRoutes(ctx, vni, nil); err != nil {
		t.log.Error("remove routes", "vni", vni, "error", err)
		t.left[vni] = true
		t.timer.Reset(retryRoutes)
		return
	}
	delete(t.left, vni)
}

// settle removes routes from before the start that nobody has told again: the table is complete now.
func (t *routeTable) settle(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settleLocked(ctx)
}

func (t *routeTable) settleLocked(ctx context.Context) {
	byVNI := map[uint32][]dataplane.Route{}
	for key, r := range t.told {
		if len(r.NextHops) > 0 {
			byVNI[key.VNI] = append(byVNI[key.VNI], r)
		}
	}
	for _, vni := range t.hosted {
		if err := t.dataplane.SyncRoutes(ctx, vni, byVNI[vni]); err != nil {
			t.log.Error("settle routes", "vni", vni, "error", err)
			t.unsettled = true
			t.timer.Reset(retryRoutes)
			return
		}
	}
	t.told, t.unsettled = nil, false
	t.log.Info("routes complete", "networks", len(t.hosted))
}
