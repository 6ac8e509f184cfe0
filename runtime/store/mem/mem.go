// Package mem is a store that lives in memory only: for tests, and for state that is rebuilt at
// every start. It never touches a disk and starts no goroutine.
package mem

import (
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/internal/state"
)

// Config bounds a store; its zero value is the default.
type Config struct {
	// History is how many changes are kept for watches to resume from; 0: 8192.
	History int
}

// New returns an empty store of the kinds in schema.
func New(schema *resource.Schema, cfg Config) store.Store {
	s, err := state.New(schema, state.Config{History: cfg.History})
	if err != nil {
		panic(err) // nothing is loaded, so nothing can be wrong with it
	}
	return s
}
