package scheduler

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ingot/controlplane/api/v1alpha1"
)

const gi = 1 << 30

func pool(name string, change func(*Pool)) *Pool {
	p := &Pool{Name: name, Classes: map[string]bool{"small": true},
		Capacity: Resources{cpu: 8000, memory: 16 * gi, disk: 100 * gi, machines: 10}, Used: Resources{}}
	if change != nil {
		change(p)
	}
	return p
}

func small(change func(*Request)) Request {
	r := Request{Class: "small", Resources: Resources{cpu: 1000, memory: 4 * gi, machines: 1}}
	if change != nil {
		change(&r)
	}
	return r
}

func TestPlan(t *testing.T) {
	gpu := &v1alpha1.Taint{Key: "gpu", Value: "true", Effect: "NoSchedule"}
	for _, tc := range []struct {
		name  string
		req   Request
		pools []*Pool
		want  Decision
	}{
		{"no pools", small(nil), nil, Decision{Reason: "NoPoolFits", Message: "0/0 pools fit"}},
		{"equal pools: the first by name", small(nil), []*Pool{pool("b", nil), pool("a", nil)},
			Decision{"a", "Scheduled", `placed on pool "a"`}},
		{"spread: the emptier pool", small(nil), []*Pool{pool("a", func(p *Pool) { p.Used = Resources{memory: gi} }), pool("b", nil)},
			Decision{"b", "Scheduled", `placed on pool "b"`}},
		{"reasons are counted, the commonest first", small(nil), []*Pool{
			pool("a", func(p *Pool) { p.Used = Resources{memory: 15 * gi} }),
			pool("b", func(p *Pool) { p.Used = Resources{memory: 14 * gi} }),
			pool("c", func(p *Pool) { p.Taints = []*v1alpha1.Taint{gpu} }),
		}, Decision{"", "NoPoolFits", "0/3 pools fit: 2 not enough memory (need 4Gi, free 1Gi, 2Gi), 1 taint gpu=true:NoSchedule"}},
		{"many amounts are cut to the largest", small(nil), []*Pool{
			pool("a", func(p *Pool) { p.Used = Resources{cpu: 7500} }), pool("b", func(p *Pool) { p.Used = Resources{cpu: 7600} }),
			pool("c", func(p *Pool) { p.Used = Resources{cpu: 7700} }), pool("d", func(p *Pool) { p.Used = Resources{cpu: 8000} }),
		}, Decision{"", "NoPoolFits", "0/4 pools fit: 4 not enough cpu (need 1, free at most 500m)"}},
		{"a toleration lets a machine onto a tainted pool", small(func(r *Request) {
			r.Tolerations = []*v1alpha1.Toleration{{Key: "gpu", Operator: "Exists"}}
		}), []*Pool{pool("a", func(p *Pool) { p.Taints = []*v1alpha1.Taint{gpu} })}, Decision{"a", "Scheduled", `placed on pool "a"`}},
		{"a toleration of another value does not", small(func(r *Request) {
			r.Tolerations = []*v1alpha1.Toleration{{Key: "gpu", Value: "false"}}
		}), []*Pool{pool("a", func(p *Pool) { p.Taints = []*v1alpha1.Taint{gpu} })},
			Decision{"", "NoPoolFits", "0/1 pools fit: 1 taint gpu=true:NoSchedule"}},
		{"the selector must match", small(func(r *Request) { r.Selector = map[string]string{"rack": "1"} }),
			[]*Pool{pool("a", nil), pool("b", func(p *Pool) { p.Labels = map[string]string{"rack": "1"} })},
			Decision{"b", "Scheduled", `placed on pool "b"`}},
		{"a pool given by the user wins over taints and labels", small(func(r *Request) {
			r.Pool, r.Selector = "a", map[string]string{"rack": "1"}
		}), []*Pool{pool("a", func(p *Pool) { p.Taints = []*v1alpha1.Taint{gpu} }), pool("b", nil)},
			Decision{"a", "Scheduled", `placed on pool "a"`}},
		{"but not over resources", small(func(r *Request) { r.Pool = "a" }),
			[]*Pool{pool("a", func(p *Pool) { p.Used = Resources{machines: 10} }), pool("b", nil)},
			Decision{"", "NoPoolFits", "0/1 pools fit: 1 not enough machines (need 1, free 0)"}},
		{"a pool given by the user must exist", small(func(r *Request) { r.Pool = "x" }), []*Pool{pool("a", nil)},
			Decision{"", "PoolNotFound", `machine pool "x" does not exist`}},
		{"pools that refused, are not ready or lack the class", small(func(r *Request) { r.Refused = map[string]string{"a": "no KVM"} }),
			[]*Pool{pool("a", nil), pool("b", func(p *Pool) { p.NotReady = "offline" }), pool("c", func(p *Pool) { p.Classes = nil })},
			Decision{"", "NoPoolFits", `0/3 pools fit: 1 class "small" not offered, 1 offline, 1 refused the machine: no KVM`}},
		{"a pool that takes any class needs not have heard of it", small(nil),
			[]*Pool{pool("a", func(p *Pool) { p.Classes = nil }), pool("b", func(p *Pool) { p.Classes, p.AnyClass = nil, true })},
			Decision{"b", "Scheduled", `placed on pool "b"`}},
		{"a resource the pool does not have", small(func(r *Request) { r.Resources["nvidia.com/gpu"] = 1 }), []*Pool{pool("a", nil)},
			Decision{"", "NoPoolFits", "0/1 pools fit: 1 not enough nvidia.com/gpu (need 1, free 0)"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Plan(tc.req, tc.pools)); diff != "" {
				t.Errorf("Plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPlanNeverOversubscribesAndPlacesWhileAnythingFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools := make([]*Pool, rapid.IntRange(1, 6).Draw(t, "pools"))
		for i := range pools {
			pools[i] = pool(fmt.Sprintf("p%d", i), func(p *Pool) {
				p.Capacity = Resources{cpu: int64(rapid.IntRange(0, 16).Draw(t, "cpu")) * 500, memory: int64(rapid.IntRange(0, 32).Draw(t, "memory")) * gi, disk: 10 * gi}
			})
		}
		for range rapid.IntRange(1, 40).Draw(t, "machines") {
			req := small(func(r *Request) {
				r.Resources = Resources{cpu: int64(rapid.IntRange(1, 8).Draw(t, "cpu")) * 500, memory: int64(rapid.IntRange(1, 8).Draw(t, "memory")) * gi, machines: 1}
			})
			d := Plan(req, pools)
			for _, p := range pools {
				fits := p.Capacity[cpu]-p.Used[cpu] >= req.Resources[cpu] && p.Capacity[memory]-p.Used[memory] >= req.Resources[memory]
				if fits && d.Pool == "" {
					t.Fatalf("%v fits %s (%v used of %v) but was not placed: %s", req.Resources, p.Name, p.Used, p.Capacity, d.Message)
				}
				if p.Name == d.Pool {
					if !fits {
						t.Fatalf("%v placed on %s (%v used of %v)", req.Resources, p.Name, p.Used, p.Capacity)
					}
					p.Used = p.Used.Plus(req.Resources)
				}
			}
		}
	})
}

func TestDemandAddsDisksAndReadsQuantities(t *testing.T) {
	class := &v1alpha1.MachineClassSpec{Capabilities: map[string]string{"cpu": "1500m", "memory": "512Mi", "nvidia.com/gpu": "2"}}
	m := &v1alpha1.MachineSpec{Image: "registry/image:1", Volumes: []*v1alpha1.MachineVolume{
		{Name: "data", LocalDisk: &v1alpha1.LocalDisk{SizeLimit: "1Gi"}}, {Name: "tmp", EmptyDisk: &v1alpha1.LocalDisk{SizeLimit: "2Gi"}}}}
	got, err := Demand(m, class)
	if err != nil {
		t.Fatal(err)
	}
	want := Resources{cpu: 1500, memory: gi / 2, "nvidia.com/gpu": 2, machines: 1, disk: 13 * gi}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Demand (-want +got):\n%s", diff)
	}
	again, err := ParseResources(got.Format())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("formatted and read again (-want +got):\n%s", diff)
	}
}
