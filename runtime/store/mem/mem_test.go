package mem

import (
	"testing"

	"ingot/runtime/store"
	"ingot/runtime/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Suite(t, func(t *testing.T) store.Store {
		return New(storetest.Schema(), Config{History: 64})
	})
}

func TestModel(t *testing.T) {
	storetest.Model(t, func(*testing.T) store.Store { return New(storetest.Schema(), Config{History: 16}) }, nil)
}

func TestLinearizable(t *testing.T) {
	storetest.Linearizable(t, func(*testing.T) store.Store { return New(storetest.Schema(), Config{}) })
}
