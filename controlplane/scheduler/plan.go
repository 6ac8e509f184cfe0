package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/labels"
)

// A Request is a machine to be placed.
type Request struct {
	Class       string
	Resources   Resources
	Tolerations []*v1alpha1.Toleration
	// Selector are labels the pool must have.
	Selector map[string]string
	// Pool, when set, is the only one allowed; its taints and labels are the user's business then.
	Pool string
	// Refused are pools whose host refused the machine, with its reason.
	Refused map[string]string
}

// A Pool is a hypervisor as the scheduler sees it.
type Pool struct {
	Name   string
	Labels map[string]string
	Taints []*v1alpha1.Taint
	// NotReady says why the pool takes no machines now; empty when it does.
	NotReady string
	// Classes that the host offers; AnyClass: all.
	Classes  map[string]bool
	AnyClass bool
	Capacity Resources
	// Used is what placements take of Capacity, running or not yet.
	Used Resources
}

// free is what is left of a resource; a pool that does not count machines has room for any number.
func (p *Pool) free(name string) int64 {
	capacity, known := p.Capacity[name]
	if !known && name == machines {
		return 1<<63 - 1
	}
	return max(0, capacity-p.Used[name])
}

// A Decision is where a machine goes, or why nowhere.
type Decision struct {
	// Pool is empty when nothing fits.
	Pool string
	// Reason is one word, Message a sentence, for the condition Scheduled.
	Reason, Message string
}

// Plan chooses a pool: of those that fit, the one that is least full afterwards, then the one with
// the fewest machines, then the first by name.
func Plan(req Request, pools []*Pool) Decision {
	if req.Pool != "" {
		pools = slices.DeleteFunc(slices.Clone(pools), func(p *Pool) bool { return p.Name != req.Pool })
		if len(pools) == 0 {
			return Decision{Reason: "PoolNotFound", Message: fmt.Sprintf("machine pool %q does not exist", req.Pool)}
		}
	}
	var best *Pool
	var bestScore float64
	rejected := rejections{}
	order := req.Resources.names()
	for _, p := range pools {
		if why := filter(req, order, p); why.reason != "" {
			rejected.add(why)
			continue
		}
		s := score(req, p)
		if best == nil || cmp.Or(cmp.Compare(s, bestScore), cmp.Compare(p.Used[machines], best.Used[machines]), cmp.Compare(p.Name, best.Name)) < 0 {
			best, bestScore = p, s
		}
	}
	if best == nil {
		return Decision{Reason: "NoPoolFits", Message: fmt.Sprintf("0/%d pools fit%s", len(pools), rejected.String(req))}
	}
	return Decision{Pool: best.Name, Reason: "Scheduled", Message: fmt.Sprintf("placed on pool %q", best.Name)}
}

// A rejection is why a pool does not fit. Free is set when a resource is short.
type rejection struct {
	reason   string
	resource string
	free     int64
}

// filter looks at resources in the order given.
func filter(req Request, order []string, p *Pool) rejection {
	if p.NotReady != "" {
		return rejection{reason: p.NotReady}
	}
	if req.Pool == "" {
		if !labels.HasAll(p.Labels, req.Selector) {
			return rejection{reason: "labels do not match the selector"}
		}
		for _, t := range p.Taints {
			if !tolerated(t, req.Tolerations) {
				return rejection{reason: "taint " + taint(t)}
			}
		}
	}
	if why, ok := req.Refused[p.Name]; ok {
		return rejection{reason: "refused the machine: " + why}
	}
	if !p.AnyClass && !p.Classes[req.Class] {
		return rejection{reason: fmt.Sprintf("class %q not offered", req.Class)}
	}
	for _, name := range order {
		if free := p.free(name); free < req.Resources[name] {
			return rejection{reason: "not enough " + name, resource: name, free: free}
		}
	}
	return rejection{}
}

// score is the share in use, after placing, of the resource that is most used: 0 is empty, 1 full.
func score(req Request, p *Pool) float64 {
	var worst float64
	for name, need := range req.Resources {
		if capacity := p.Capacity[name]; capacity > 0 {
			worst = max(worst, float64(p.Used[name]+need)/float64(capacity))
		}
	}
	return worst
}

func tolerated(t *v1alpha1.Taint, tolerations []*v1alpha1.Toleration) bool {
	return slices.ContainsFunc(tolerations, func(o *v1alpha1.Toleration) bool {
		if o.GetEffect() != "" && o.GetEffect() != t.GetEffect() {
			return false
		}
		if o.GetOperator() == "Exists" {
			return o.GetKey() == "" || o.GetKey() == t.GetKey()
		}
		return o.GetKey() == t.GetKey() && o.GetValue() == t.GetValue()
	})
}

func taint(t *v1alpha1.Taint) string {
	if t.GetValue() == "" {
		return t.GetKey() + ":" + t.GetEffect()
	}
	return t.GetKey() + "=" + t.GetValue() + ":" + t.GetEffect()
}

// rejections counts pools by reason.
type rejections map[string]*tally

type tally struct {
	resource string
	pools    int
	free     []int64
}

func (r rejections) add(why rejection) {
	t := r[why.reason]
	if t == nil {
		t = &tally{resource: why.resource}
		r[why.reason] = t
	}
	t.pools++
	if why.resource != "" && !slices.Contains(t.free, why.free) {
		t.free = append(t.free, why.free)
	}
}

// shown bounds the amounts that a message lists; of more than that only the largest is told.
const shown = 3

// String is ": 2 not enough memory (need 4Gi, free 1Gi, 2Gi), 1 taint gpu=true:NoSchedule", most frequent first.
func (r rejections) String(req Request) string {
	reasons := slices.SortedFunc(maps.Keys(r), func(a, b string) int {
		return cmp.Or(cmp.Compare(r[b].pools, r[a].pools), strings.Compare(a, b))
	})
	parts := make([]string, len(reasons))
	for i, reason := range reasons {
		t := r[reason]
		parts[i] = fmt.Sprintf("%d %s", t.pools, reason)
		if t.resource == "" {
			continue
		}
		slices.Sort(t.free)
		amounts := make([]string, len(t.free))
		for j, v := range t.free {
			amounts[j] = format(t.resource, v)
		}
		free := strings.Join(amounts, ", ")
		if len(amounts) > shown {
			free = "at most " + amounts[len(amounts)-1]
		}
		parts[i] += fmt.Sprintf(" (need %s, free %s)", format(t.resource, req.Resources[t.resource]), free)
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, ", ")
}
