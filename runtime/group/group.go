// Package group owns how goroutines are started: in groups that name each of them, turn a panic
// into an error, and end together.
package group

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// A Group is a set of goroutines with one context: the first that returns an error cancels it.
type Group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wait   sync.WaitGroup
	once   sync.Once
	err    error // of the first that failed; read after wait
}

// New returns a group whose goroutines run until ctx ends or one of them fails.
func New(ctx context.Context) *Group {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Group{ctx: ctx, cancel: cancel}
}

// Go runs fn as a goroutine of the group. Its error, or panic with the stack, is told with name.
func (g *Group) Go(name string, fn func(ctx context.Context) error) {
	g.wait.Go(func() {
		if err := Call(func() error { return fn(g.ctx) }); err != nil {
			g.once.Do(func() {
				g.err = fmt.Errorf("%s: %w", name, err)
				g.cancel(g.err)
			})
		}
	})
}

// Wait returns when all goroutines have, with the error of the first that failed.
func (g *Group) Wait() error {
	g.wait.Wait()
	g.cancel(nil)
	return g.err
}

// A Panic is what Call turns a panic into.
type Panic struct {
	Value any
	Stack []byte
}

func (p *Panic) Error() string { return fmt.Sprintf("panic: %v\n%s", p.Value, p.Stack) }

// Call runs fn and returns a panic as a *Panic.
func Call(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &Panic{Value: v, Stack: debug.Stack()}
		}
	}()
	return fn()
}
