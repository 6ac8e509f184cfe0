// Package view keeps the host in touch with the control plane: it holds a durable copy of the
// host's view, and sends up what the host reports. It decides nothing: that an object is missing
// from a view never removes a machine, only its explicit end does.
package view

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// Writer owns the objects of the local copy.
const Writer = "view"

// Finalizer keeps a local HostMachine until the machine is gone from this host.
const Finalizer = "poollet"

// OrphanAnnotation marks a HostMachine that the control plane no longer lists although this host
// never let go of it: a lost or restored database. Its machine keeps running.
const OrphanAnnotation = "ingot.dev/orphaned"

// uidAnnotation is the uid that a local object has in the server's store: a deletion that is told
// twice does not end what was made anew in between.
const uidAnnotation = "ingot.dev/server-uid"

// errStillEnds says that an object cannot be made anew yet.
var errStillEnds = fmt.Errorf("its predecessor still ends: %w", fault.Conflict)

// Schema is that of the local store: what a host is told.
func Schema() *resource.Schema {
	var defs []resource.Definition
	for _, kind := range []resource.Kind{api.HostMachine, api.HostInterface, api.MachineClass} {
		info, _ := api.Lookup(kind)
		defs = append(defs, info.Definition)
	}
	return resource.NewSchema(defs...)
}

// Config configures a Client. All fields are required but Log.
type Config struct {
	// Hosts opens streams; it may be replaced while the client runs (see Client.Use).
	Hosts      v1alpha1.HostServiceClient
	Store      store.Store
	Version    string
	ProviderID string
	Log        *slog.Logger
}

// A Client follows one control plane for one host.
type Client struct {
	cfg Config
	log *slog.Logger
	out outbox

	mu     sync.Mutex // guards what follows
	hosts  v1alpha1.HostServiceClient
	status Status
}

// Status tells how the connection is.
type Status struct {
	Connected bool
	Since     time.Time
	// LastError is why the last stream ended.
	LastError string
	Revision  uint64
	// Pending counts reports that are not acknowledged.
	Pending int
}

// New returns a client that does nothing until Run.
func New(cfg Config) *Client {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Client{cfg: cfg, log: cfg.Log.With("component", "view"), hosts: cfg.Hosts, out: newOutbox(),
		status: Status{Since: time.Now()}}
}

// Use makes later streams go through another connection: after the certificate was renewed.
func (c *Client) Use(hosts v1alpha1.HostServiceClient) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hosts = hosts
}

// Status is a snapshot.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Pending = c.out.pending()
	return s
}

// Orphans counts the machines that the control plane no longer lists and that were left running.
func (c *Client) Orphans(ctx context.Context) (int, error) {
	page, err := c.cfg.Store.List(ctx, store.Query{Kind: api.HostMachine})
	n := 0
	for _, r := range page.Items {
		if r.Annotations[OrphanAnnotation] != "" {
			n++
		}
	}
	return n, err
}

const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Run keeps a stream open until ctx ends. Nothing depends on it: without a control plane the host
// goes on with the copy that it has.
func (c *Client) Run(ctx context.Context) error {
	// The first stream of a process asks for everything: what it missed to report of machines that
	// end is found again in a complete view only.
	cursor := &cursor{}
	pause := firstRetry
	told := "" // the reason that was logged last
	for {
		connected, err := c.session(ctx, cursor)
		if ctx.Err() != nil {
			return nil
		}
		if connected {
			pause = firstRetry
		}
		c.ended(err)
		level := slog.LevelDebug
		if reason := err.Error(); reason != told {
			level, told = slog.LevelWarn, reason
		}
		c.log.Log(ctx, level, "control plane away", "error", err, "retry", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, lastRetry)
	}
}

func (c *Client) ended(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status.Connected {
		c.status.Since = time.Now()
	}
	c.status.Connected = false
	c.status.LastError = fmt.Sprint(err)
}

func (c *Client) began(revision uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.status.Connected {
		c.status.Connected, c.status.Since, c.status.LastError = true, time.Now(), ""
		c.log.Info("control plane connected")
	}
	if revision != 0 {
		c.status.Revision = revision
	}
}

// A cursor is where the copy stands.
type cursor struct {
	revision uint64
	epoch    string
	// seen collects a view that comes in several messages.
	seen map[resource.Key]bool
}

// session runs one stream. connected tells whether the server answered on it.
func (c *Client) session(ctx context.Context, cur *cursor) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	hosts := c.hosts
	c.mu.Unlock()
	stream, err := hosts.Sync(ctx)
	if err != nil {
		return false, err
	}
	cur.seen = nil
	c.out.reconnect()
	hello := &v1alpha1.HostHello{Revision: cur.revision, Epoch: cur.epoch,
		AgentVersion: c.cfg.Version, ProviderId: c.cfg.ProviderID}
	if err := stream.Send(&v1alpha1.HostReport{Hello: hello}); err != nil {
		_, err = stream.Recv() // the reason is on this side
		return false, err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		defer cancel()
		c.send(ctx, stream)
	}()
	defer func() {
		cancel()
		<-sent
	}()
	for {
		v, err := stream.Recv()
		if err != nil {
			return connected, err
		}
		connected = true
		c.out.acknowledge(v.Acknowledged)
		for _, r := range v.Rejected {
			c.log.Warn("report rejected", "machine", r.Namespace+"/"+r.Name, "uid", r.Uid, "reason", r.Message)
			c.out.forget(r.Uid)
		}
		if err := c.take(ctx, cur, v); err != nil {
			return connected, fmt.Errorf("store view: %w", err)
		}
		c.began(v.Revision)
	}
}

// send streams reports as they come.
func (c *Client) send(ctx context.Context, stream v1alpha1.HostService_SyncClient) {
	for {
		report, ok := c.out.next(ctx)
		if !ok || stream.Send(report) != nil {
			return
		}
	}
}

// take stores one message of the view.
func (c *Client) take(ctx context.Context, cur *cursor, v *v1alpha1.HostView) error {
	if v.Reset_ && cur.seen == nil {
		cur.seen = map[resource.Key]bool{}
	}
	var late []error
	// Deletions first: what is deleted and made anew under its name is among the upserts too.
	for _, ref := range v.Deletes {
		key := resource.Key{Kind: resource.Kind(ref.Kind), Project: ref.Namespace, Name: ref.Name}
		if err := c.delete(ctx, key, ref.Uid); err != nil {
			return fmt.Errorf("drop %s: %w", key, err)
		}
	}
	for _, o := range v.Upserts {
		r, err := api.FromHostObject(o)
		if err != nil {
			return err
		}
		if cur.seen != nil {
			cur.seen[r.Key] = true
		}
		switch err := c.upsert(ctx, r, o.GetMetadata().GetTerminating()); {
		case errors.Is(err, errStillEnds):
			late = append(late, err)
		case err != nil:
			return fmt.Errorf("keep %s: %w", r.Key, err)
		}
	}
	if len(late) > 0 {
		return errors.Join(late...) // the cursor stays: the next stream tells it again
	}
	if v.Revision == 0 {
		return nil
	}
	if cur.seen != nil {
		if err := c.sweep(ctx, cur.seen); err != nil {
			return err
		}
		cur.seen = nil
	}
	cur.revision, cur.epoch = v.Revision, v.Epoch
	return nil
}

func (c *Client) upsert(ctx context.Context, r *resource.Resource, terminating bool) error {
	annotations := map[string]string{uidAnnotation: r.UID}
	maps.Copy(annotations, r.Annotations)
	r.Annotations = annotations
	r.UID, r.Revision = "", 0 // those of the server's store mean nothing in this one
	if r.Kind == api.HostMachine {
		r.Finalizers = []string{Finalizer}
	}
	have, err := c.cfg.Store.Get(ctx, r.Key)
	op := store.Op{Type: store.Create, Resource: r}
	switch {
	case err == nil && have.Phase == resource.TearingDown && terminating:
		return nil
	case err == nil && have.Phase == resource.TearingDown:
		return fmt.Errorf("%s is wanted again: %w", r.Key, errStillEnds)
	case err == nil:
		op.Type = store.Update
	case !errors.Is(err, fault.NotFound):
		return err
	}
	ops := []store.Op{op}
	if terminating {
		ops = append(ops, store.Op{Type: store.Delete, Resource: r})
	}
	_, err = c.cfg.Store.Txn(ctx, store.Txn{Writer: Writer, Ops: ops})
	return err
}

// delete ends the local object; uid is the server's, "" for whichever it is.
func (c *Client) delete(ctx context.Context, key resource.Key, uid string) error {
	have, err := c.cfg.Store.Get(ctx, key)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if known := have.Annotations[uidAnnotation]; uid != "" && known != "" && known != uid {
		return nil
	}
	_, err = c.cfg.Store.Txn(ctx, store.Txn{Writer: Writer,
		Ops: []store.Op{{Type: store.Delete, Resource: &resource.Resource{Meta: resource.Meta{Key: key}}}}})
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// sweep handles what a whole view does not list. Machines are marked, not removed.
func (c *Client) sweep(ctx context.Context, listed map[resource.Key]bool) error {
	for _, kind := range Schema().Kinds() {
		page, err := c.cfg.Store.List(ctx, store.Query{Kind: kind})
		if err != nil {
			return err
		}
		for _, r := range page.Items {
			switch {
			case listed[r.Key]:
			case kind != api.HostMachine:
				err = c.delete(ctx, r.Key, "")
			case r.Phase == resource.Running && r.Annotations[OrphanAnnotation] == "":
				c.log.Error("machine unknown to the control plane keeps running", "machine", r.Key.String())
				orphan := r.Clone()
				orphan.Annotations = map[string]string{OrphanAnnotation: "true", uidAnnotation: r.Annotations[uidAnnotation]}
				_, err = c.cfg.Store.Txn(ctx, store.Txn{Writer: Writer, Ops: []store.Op{{Type: store.Update, Resource: orphan}}})
			}
			if err != nil {
				return fmt.Errorf("sweep %s: %w", r.Key, err)
			}
		}
	}
	return nil
}
