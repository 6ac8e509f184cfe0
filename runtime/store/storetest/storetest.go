// Package storetest owns the conformance suite that every store backend passes. Suite is the entry;
// Model and Crash go further for backends in general and for durable ones.
package storetest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"ingot/runtime/resource"
	"ingot/runtime/store"
)

// The kinds of Schema.
const (
	Server resource.Kind = "Server" // in a project, indexed by host and by tags
	Zone   resource.Kind = "Zone"   // global
	Token  resource.Kind = "Token"  // in a project, sealed
)

// Schema has kinds of each sort. A spec is a structpb.Struct; host (a string) and tags (a list)
// are what Server is indexed by.
func Schema() *resource.Schema {
	spec := func() proto.Message { return &structpb.Struct{} }
	return resource.NewSchema(
		resource.Definition{Kind: Server, New: spec, Indexes: map[string]func(*resource.Resource) []string{
			"host": func(r *resource.Resource) []string {
				if host := Field(r, "host"); host != "" {
					return []string{host}
				}
				return nil
			},
			"tag": func(r *resource.Resource) []string { return strings.Fields(Field(r, "tags")) },
		}},
		resource.Definition{Kind: Zone, New: spec, Global: true},
		resource.Definition{Kind: Token, New: spec, Sealed: true},
	)
}

// Field is a field of r's spec, "" when it has none.
func Field(r *resource.Resource, name string) string {
	return resource.Spec[*structpb.Struct](r).GetFields()[name].GetStringValue()
}

// New is a resource of Schema, with pairs of name and value as spec.
func New(kind resource.Kind, project, name string, fields ...string) *resource.Resource {
	spec := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for i := 0; i+1 < len(fields); i += 2 {
		spec.Fields[fields[i]] = structpb.NewStringValue(fields[i+1])
	}
	return &resource.Resource{
		Meta: resource.Meta{Key: resource.Key{Kind: kind, Project: project, Name: name}},
		Spec: spec,
	}
}

// A bench is a store under test with helpers that fail the test.
type bench struct {
	*testing.T
	store.Store
}

func (b bench) txn(writer string, ops ...store.Op) store.Result {
	b.Helper()
	result, err := b.Txn(b.Context(), store.Txn{Writer: writer, Ops: ops})
	if err != nil {
		b.Fatalf("transaction of %q: %v", writer, err)
	}
	return result
}

func (b bench) refused(class error, tx store.Txn) {
	b.Helper()
	before := b.Revision()
	_, err := b.Txn(b.Context(), tx)
	if !errors.Is(err, class) {
		b.Errorf("transaction: %v, want class %v", err, class)
	}
	if b.Revision() != before {
		b.Errorf("refused transaction moved the revision from %d to %d", before, b.Revision())
	}
}

func (b bench) create(r *resource.Resource) *resource.Resource {
	b.Helper()
	return b.txn(r.Owner, store.Op{Type: store.Create, Resource: r}).Resources[0]
}

func (b bench) update(r *resource.Resource) *resource.Resource {
	b.Helper()
	return b.txn(r.Owner, store.Op{Type: store.Update, Resource: r}).Resources[0]
}

func (b bench) delete(r *resource.Resource) *resource.Resource {
	b.Helper()
	return b.txn(r.Owner, store.Op{Type: store.Delete, Resource: r}).Resources[0]
}

func (b bench) names(q store.Query) string {
	b.Helper()
	page, err := b.List(b.Context(), q)
	if err != nil {
		b.Fatalf("list %+v: %v", q, err)
	}
	return names(page)
}

func names(page store.Page) string {
	var all []string
	for _, r := range page.Items {
		all = append(all, strings.TrimPrefix(r.Key.String(), string(r.Kind)+"/"))
	}
	return strings.Join(all, " ")
}

func (b bench) watch(from uint64, queries ...store.Query) store.Watcher {
	b.Helper()
	w, err := b.Watch(b.Context(), from, queries...)
	if err != nil {
		b.Fatalf("watch: %v", err)
	}
	b.Cleanup(w.Close)
	return w
}

// next is a batch as text: "reset" and then +name or -name, with the spec's "v".
func (b bench) next(w store.Watcher) string {
	b.Helper()
	batch, err := w.Next(b.Context())
	if err != nil {
		b.Fatalf("next batch: %v", err)
	}
	var words []string
	if batch.Reset {
		words = append(words, "reset")
	}
	for _, e := range batch.Events {
		sign := "+"
		if e.Deleted {
			sign = "-"
		}
		word := sign + e.Resource.Name
		if v := Field(e.Resource, "v"); v != "" {
			word += "=" + v
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func (b bench) silent(w store.Watcher) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	if batch, err := w.Next(ctx); err == nil {
		b.Errorf("watcher has %v, want nothing", batch)
	}
}
