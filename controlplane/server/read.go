package server

import (
	"context"
	"encoding/base64"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/labels"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// resources is ResourceService.
type resources struct {
	v1alpha1.UnimplementedResourceServiceServer
	*Server
}

// Version implements ResourceService.
func (s resources) Version(context.Context, *v1alpha1.VersionRequest) (*v1alpha1.VersionResponse, error) {
	return &v1alpha1.VersionResponse{Version: s.cfg.Version, GoVersion: runtime.Version()}, nil
}

// Get implements ResourceService.
func (s resources) Get(ctx context.Context, req *v1alpha1.GetRequest) (*v1alpha1.Object, error) {
	info, err := s.readable(ctx, req.Kind, req.Namespace, req.Name)
	if err != nil {
		return nil, err
	}
	r, err := s.find(ctx, info, req.Namespace, req.Name)
	if err != nil {
		return nil, err
	}
	return s.object(ctx, info, r)
}

// readable is authorize for reading; a member may also read the own Project.
func (s resources) readable(ctx context.Context, kind, project, name string) (api.Info, error) {
	if id := caller(ctx); kind == string(api.Project) && id.Project != "" && name == id.Project && project == "" {
		info, _ := api.Lookup(api.Project)
		return info, nil
	}
	return authorize(ctx, read, kind, project)
}

// find reads one object; the error names it as users do.
func (s *Server) find(ctx context.Context, info api.Info, project, name string) (*resource.Resource, error) {
	if !info.Global && project == "" {
		return nil, fault.Fields{{Path: "namespace", Detail: fmt.Sprintf("%s objects are in projects; name one", info.Kind)}}
	}
	if name == "" {
		return nil, fault.Fields{{Path: "name", Detail: "required"}}
	}
	return s.store.Get(ctx, resource.Key{Kind: info.Kind, Project: project, Name: name})
}

const (
	defaultPage = 500
	maxPage     = 5000
	// pageLife is how long the rest of a list is kept for its reader, and pageCount for how many.
	pageLife  = 5 * time.Minute
	pageCount = 128
)

// List implements ResourceService. All pages of a list show the specs of one revision; statuses are
// those of the time of the page.
func (s resources) List(ctx context.Context, req *v1alpha1.ListRequest) (*v1alpha1.ListResponse, error) {
	info, err := authorize(ctx, read, req.Kind, req.Namespace)
	if err != nil {
		return nil, err
	}
	limit := int(min(req.Limit, maxPage))
	if limit == 0 {
		limit = defaultPage
	}
	var rest rest
	if req.Continue != "" {
		// The selection is the first page's, and so is the right to see it.
		if rest, err = s.pages.take(req.Continue, caller(ctx).String(), info.Kind, req.Namespace); err != nil {
			return nil, err
		}
	} else {
		if err := checkSelector("labelSelector", req.LabelSelector); err != nil {
			return nil, err
		}
		page, err := s.store.List(ctx, store.Query{Kind: info.Kind, Project: req.Namespace, Labels: req.LabelSelector.GetMatchLabels()})
		if err != nil {
			return nil, err
		}
		rest.revision, rest.items = page.Revision, selected(page.Items, req.LabelSelector)
	}
	n := min(limit, len(rest.items))
	resp := &v1alpha1.ListResponse{Revision: rest.revision, Items: make([]*v1alpha1.Object, n)}
	for i, r := range rest.items[:n] {
		if resp.Items[i], err = s.redacted(ctx, info, r); err != nil {
			return nil, err
		}
	}
	if n < len(rest.items) {
		rest.items = rest.items[n:]
		rest.owner, rest.kind, rest.project = caller(ctx).String(), info.Kind, req.Namespace
		resp.Continue = s.pages.keep(rest)
	}
	return resp, nil
}

func selected(items []*resource.Resource, sel *v1alpha1.LabelSelector) []*resource.Resource {
	if len(sel.GetMatchExpressions()) == 0 {
		return items
	}
	var out []*resource.Resource
	for _, r := range items {
		if labels.Matches(sel, r.Labels) {
			out = append(out, r)
		}
	}
	return out
}

func checkSelector(path string, sel *v1alpha1.LabelSelector) error {
	if err := labels.Validate(sel); err != nil {
		return fault.Fields{{Path: path + ".matchExpressions", Detail: err.Error()}}
	}
	return nil
}

// rest is what remains of a list.
type rest struct {
	revision uint64
	items    []*resource.Resource
	owner    string
	kind     resource.Kind
	project  string
	until    time.Time
}

// pages keeps the rests of lists; it holds no copies, for resources are frozen. The zero value is
// empty.
type pages struct {
	mu    sync.Mutex // guards all below
	next  uint64
	rests map[uint64]rest
}

// keep stores a rest and returns its token. The oldest one goes when there are too many.
func (p *pages) keep(r rest) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rests == nil {
		p.rests = map[uint64]rest{}
	}
	now := time.Now()
	for n, old := range p.rests {
		if now.After(old.until) || n+pageCount <= p.next {
			delete(p.rests, n)
		}
	}
	p.next++
	r.until = now.Add(pageLife)
	p.rests[p.next] = r
	return base64.RawURLEncoding.EncodeToString([]byte(fmt.Sprintf("%d.%d", p.next, r.revision)))
}

// take returns the rest of a token, which stays good: a page may be asked for again.
func (p *pages) take(token, owner string, kind resource.Kind, project string) (rest, error) {
	raw, _ := base64.RawURLEncoding.DecodeString(token)
	number, revision, _ := strings.Cut(string(raw), ".")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return rest{}, fault.Fields{{Path: "continue", Detail: "not a token of this server"}}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.rests[n]
	if !ok || strconv.FormatUint(r.revision, 10) != revision || time.Now().After(r.until) {
		return rest{}, because("Expired", "the list of revision %s is no longer kept; list again: %w", revision, fault.Conflict)
	}
	if r.owner != owner || r.kind != kind || r.project != project {
		return rest{}, fault.Fields{{Path: "continue", Detail: "belongs to another list"}}
	}
	return r, nil
}
