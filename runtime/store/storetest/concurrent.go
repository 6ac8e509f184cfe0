package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"ingot/runtime/fault"
	"ingot/runtime/store"
)

// registers is how many resources the concurrent test uses.
const registers = 3

// A call is one operation on the registers: read all; or write a value to those of mask; or, with
// swap, move register mask from one value to another.
type call struct {
	read, swap bool
	mask       int
	from, to   int
}

// A registersState is the values of the registers.
type registersState [registers]int

var linearizable = porcupine.Model{
	Init: func() any { return registersState{} },
	Step: func(state, input, output any) (bool, any) {
		s, c := state.(registersState), input.(call)
		switch {
		case c.read:
			return s == output.(registersState), s
		case c.swap && !output.(bool): // lost against another: nothing was done
			return true, s
		case c.swap && s[c.mask] != c.from:
			return false, s
		case c.swap:
			s[c.mask] = c.to
			return true, s
		}
		for i := range s {
			if c.mask&(1<<i) != 0 {
				s[i] = c.to
			}
		}
		return true, s
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %v", input, output) },
}

// Linearizable lets clients read all, write several and compare-and-swap one of a few resources at
// once, and checks that there is an order of their calls that explains what each of them saw.
func Linearizable(t *testing.T, open func(t *testing.T) store.Store) {
	for range 10 {
		linearizableOnce(t, open(t))
	}
}

func linearizableOnce(t *testing.T, s store.Store) {
	const clients, calls = 6, 60
	defer s.Close()
	b := bench{t, s}
	for i := range registers {
		b.create(New(Zone, "", strconv.Itoa(i), "v", "0"))
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var mu sync.Mutex // guards history
	var history []porcupine.Operation
	var group sync.WaitGroup
	start := time.Now()
	for client := range clients {
		group.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(client)))
			for range calls {
				op := porcupine.Operation{ClientId: client, Call: int64(time.Since(start))}
				op.Input, op.Output = b.call(random)
				op.Return = int64(time.Since(start))
				mu.Lock()
				history = append(history, op)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if result := porcupine.CheckOperationsTimeout(linearizable, history, time.Minute); result != porcupine.Ok {
		t.Errorf("%d calls: %s", len(history), result)
	}
}

// call makes a random call.
func (b bench) call(random *rand.Rand) (input call, output any) {
	switch random.IntN(3) {
	case 0:
		return call{read: true}, b.readRegisters()
	case 1:
		c := call{mask: 1 + random.IntN(1<<registers-1), to: random.IntN(1000)}
		var ops []store.Op
		for i := range registers {
			if c.mask&(1<<i) != 0 {
				ops = append(ops, store.Op{Type: store.Update, Resource: New(Zone, "", strconv.Itoa(i), "v", strconv.Itoa(c.to))})
			}
		}
		if _, err := b.Txn(context.Background(), store.Txn{Ops: ops}); err != nil {
			b.Errorf("write: %v", err)
		}
		return c, true
	}
	c := call{swap: true, mask: random.IntN(registers), to: random.IntN(1000)}
	present, err := b.Get(context.Background(), New(Zone, "", strconv.Itoa(c.mask)).Key)
	if err != nil {
		b.Error(err)
		return c, false
	}
	c.from, _ = strconv.Atoi(Field(present, "v"))
	next := New(Zone, "", present.Name, "v", strconv.Itoa(c.to))
	next.Revision = present.Revision
	_, err = b.Txn(context.Background(), store.Txn{Ops: []store.Op{{Type: store.Update, Resource: next}}})
	if err != nil && !errors.Is(err, fault.Conflict) {
		b.Errorf("swap: %v", err)
	}
	return c, err == nil
}

func (b bench) readRegisters() registersState {
	var s registersState
	page, err := b.List(context.Background(), store.Query{Kind: Zone})
	if err != nil || len(page.Items) != registers {
		b.Errorf("read %d registers: %v", len(page.Items), err)
		return s
	}
	for i, r := range page.Items {
		s[i], _ = strconv.Atoi(Field(r, "v"))
	}
	return s
}
