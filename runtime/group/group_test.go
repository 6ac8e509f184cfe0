package group

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestTheFirstFailureEndsAll(t *testing.T) {
	g := New(t.Context())
	failed := errors.New("no luck")
	g.Go("waiting", func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	g.Go("failing", func(context.Context) error { return failed })
	if err := g.Wait(); !errors.Is(err, failed) || err.Error() != "failing: no luck" {
		t.Errorf("wait: %v", err)
	}
}

func TestAPanicIsAnErrorWithNameAndStack(t *testing.T) {
	g := New(t.Context())
	g.Go("bad", func(context.Context) error { panic("oh") })
	err := g.Wait()
	var p *Panic
	if !errors.As(err, &p) || p.Value != "oh" || !strings.HasPrefix(err.Error(), "bad: panic: oh") {
		t.Errorf("wait: %v", err)
	}
	if !strings.Contains(string(p.Stack), "TestAPanicIsAnErrorWithNameAndStack") {
		t.Errorf("stack does not say where:\n%s", p.Stack)
	}
}

func TestWaitWithoutFailureIsNil(t *testing.T) {
	g := New(t.Context())
	g.Go("fine", func(context.Context) error { return nil })
	if err := g.Wait(); err != nil {
		t.Errorf("wait: %v", err)
	}
}
