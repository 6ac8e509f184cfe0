package controllertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"ingot/runtime/fault"
	"ingot/runtime/store"
)

// strikes is how often the breaker strikes after one step, at most.
const strikes = 4

// A Breaker kills the engine between two actions.
type Breaker struct {
	mu      sync.Mutex // guards all below
	random  *rand.Rand
	left    int // strikes to come
	actions int // until the next strike; negative: none comes
	dead    bool
	cancel  context.CancelFunc
	life    context.Context
	strike  context.CancelFunc // ends life
}

// ErrKilled is what an action gets that comes after the end of its process.
var ErrKilled = fmt.Errorf("killed by the test: %w", fault.Unavailable)

// Act is asked before each action outside of the store; with an error the action must not be done.
func (b *Breaker) Act() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return ErrKilled
	}
	if b.actions < 0 {
		return nil
	}
	b.actions--
	if b.actions >= 0 {
		return nil
	}
	b.left--
	b.dead = true
	b.strike()
	b.cancel()
	return ErrKilled
}

// arm has the breaker strike some actions from now.
func (b *Breaker) arm() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = b.random.IntN(strikes + 1)
	b.aim()
}

func (b *Breaker) aim() {
	b.actions = -1
	if b.left > 0 {
		b.actions = b.random.IntN(6)
	}
}

// live starts a new life, which cancel ends.
func (b *Breaker) live(cancel context.CancelFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = false
	b.cancel = cancel
	b.life, b.strike = context.WithCancel(context.Background())
	b.aim()
}

func (b *Breaker) context() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.life
}

func (b *Breaker) struck() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dead
}

// brittle is the store as the engine sees it: a process may die before a write, and after it
// without the answer.
type brittle struct {
	store.Store
	breaker *Breaker
}

// Txn implements store.Store.
func (s *brittle) Txn(ctx context.Context, tx store.Txn) (store.Result, error) {
	if err := s.breaker.Act(); err != nil {
		return store.Result{}, err
	}
	result, err := s.Store.Txn(ctx, tx)
	if gone := s.breaker.Act(); gone != nil {
		return store.Result{}, gone
	}
	return result, err
}
