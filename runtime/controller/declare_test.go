package controller

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
	"ingot/runtime/store/storetest"
)

func newEngine() *Engine {
	return New(mem.New(storetest.Schema(), mem.Config{}), slog.New(slog.DiscardHandler), Config{})
}

func each(name string, change func(c *Each)) Each {
	c := Each{
		Name: name, Primary: storetest.Server,
		Reconcile: func(context.Context, *ReadWriter, resource.Key) (Result, error) { return Result{}, nil },
	}
	if change != nil {
		change(&c)
	}
	return c
}

func TestWrongDeclarationsAreInvalid(t *testing.T) {
	writes := func(mode Mode) func(c *Each) {
		return func(c *Each) { c.Outputs = []Output{{Kind: storetest.Token, Mode: mode}} }
	}
	for _, tt := range []struct {
		name, want  string
		controllers []Controller
	}{
		{"no name", "has no name", []Controller{each("", nil)}},
		{"no primary", "has no Primary", []Controller{each("a", func(c *Each) { c.Primary = "" })}},
		{"no function", "no Reconcile", []Controller{Sync{Name: "a"}}},
		{"a name twice", "is there twice", []Controller{each("a", nil), each("a", nil)}},
		{"an input without a map", "does not map input Zone", []Controller{each("a", func(c *Each) { c.Inputs = []Input{{Kind: storetest.Zone}} })}},
		{"a Sync with a map", "maps input Server", []Controller{Sync{
			Name: "a", Inputs: []Input{{Kind: storetest.Server, Map: byHost}}, Reconcile: func(context.Context, *ReadWriter) error { return nil },
		}}},
		{"an output twice", "declares output Token twice", []Controller{each("a", func(c *Each) {
			c.Outputs = []Output{{Kind: storetest.Token}, {Kind: storetest.Token, Mode: Shared}}
		})}},
		{"an exclusive output of two", "writes Token, as a does", []Controller{each("a", writes(Shared)), each("b", writes(Exclusive))}},
		{"an unknown kind", "kind \"Nothing\"", []Controller{each("a", func(c *Each) { c.Primary = "Nothing" })}},
		{"an unknown index", "index \"none\"", []Controller{each("a", func(c *Each) {
			c.Inputs = []Input{{Kind: storetest.Server, Where: store.Query{Index: "none"}}}
		})}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := newEngine().Add(tt.controllers...)
			if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("add: %v, want %q", err, tt.want)
			}
		})
	}
	shared := newEngine()
	if err := shared.Add(each("a", writes(Shared)), each("b", writes(Shared))); err != nil {
		t.Errorf("add two that share: %v", err)
	}
}

func TestGraphIsSortedText(t *testing.T) {
	e := newEngine()
	census := Sync{
		Name: "census", Outputs: []Output{{Kind: storetest.Zone, Mode: Shared}},
		Inputs:    []Input{{Kind: storetest.Server, Where: store.Query{Project: "p", Index: "host", Value: "h1", Labels: map[string]string{"b": "2", "a": "1"}}}},
		Reconcile: func(context.Context, *ReadWriter) error { return nil },
	}
	if err := e.Add(issuer(), census, each("mapper", func(c *Each) {
		c.Primary = storetest.Zone
		c.Inputs = []Input{{Kind: storetest.Server, Map: byHost, Strong: true}}
	})); err != nil {
		t.Fatal(err)
	}
	want := `census -> Zone (shared)
census <- Server{host=h1, label a=1, label b=2, project=p} (weak)
issuer -> Token (exclusive)
issuer <- Server (primary, strong)
mapper <- Server (strong)
mapper <- Zone (primary, weak)
`
	if diff := cmp.Diff(want, e.Graph()); diff != "" {
		t.Errorf("graph (-want +got):\n%s", diff)
	}
}

func TestAddAndRunOnlyBeforeRun(t *testing.T) {
	e := newEngine()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Run(ctx); err != nil {
		t.Errorf("run: %v", err)
	}
	if err := e.Run(ctx); !errors.Is(err, fault.Invalid) {
		t.Errorf("second run: %v", err)
	}
	if err := e.Add(each("late", nil)); !errors.Is(err, fault.Invalid) {
		t.Errorf("add after run: %v", err)
	}
}
