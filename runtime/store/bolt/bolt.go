// Package bolt is the embedded store: the state in memory that all backends share, kept by a bbolt
// file. A transaction is visible and answered once it is on disk. It must never write to the file
// outside its journal.
package bolt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"ingot/runtime/durable"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/internal/record"
	"ingot/runtime/store/internal/state"
	"ingot/runtime/store/seal"
)

// ErrCorrupt says that a record is not what was written; the error names its key.
var ErrCorrupt = record.ErrCorrupt

// Config says how to open a store.
type Config struct {
	// Path is the file; it is made, with mode 0600, when there is none.
	Path string
	// Sealer encrypts the kinds that the schema calls sealed; required when there are such.
	Sealer seal.Sealer
	// LockTimeout is how long to wait for another process to let go of the file; 0: 1 s.
	LockTimeout time.Duration
	// History is how many changes are kept for watches to resume from; 0: 8192.
	History int
	// Linger is how long a batch waits for as many writers as the one before it had; 0: 100 µs.
	Linger time.Duration
}

// Open opens the store at cfg.Path with the kinds in schema. Errors: fault.Unavailable when another
// process has it open; ErrCorrupt; fault.Precondition for sealed kinds without a sealer.
func Open(schema *resource.Schema, cfg Config) (store.Store, error) {
	s, err := open(schema, cfg)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", cfg.Path, err)
	}
	return s, nil
}

func open(schema *resource.Schema, cfg Config) (store.Store, error) {
	for _, kind := range schema.Kinds() {
		if def, _ := schema.Get(kind); def.Sealed && cfg.Sealer == nil {
			return nil, fmt.Errorf("kind %s is sealed, and there is no sealer: %w", kind, fault.Precondition)
		}
	}
	j, err := openJournal(schema, cfg)
	if err != nil {
		return nil, err
	}
	revision, resources, err := j.load()
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	linger := cfg.Linger
	if linger == 0 {
		linger = 100 * time.Microsecond
	}
	s, err := state.New(schema, state.Config{
		Journal: j, Revision: revision, Resources: resources, History: cfg.History, Linger: linger,
	})
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return s, nil
}

// openJournal takes the lock on the file and makes what is missing in it.
func openJournal(schema *resource.Schema, cfg Config) (*journal, error) {
	if err := create(cfg.Path); err != nil {
		return nil, err
	}
	timeout := cfg.LockTimeout
	if timeout == 0 {
		timeout = time.Second
	}
	var db *bbolt.DB
	err := guard(func() (err error) {
		// NoFreelistSync would save a page per batch, but then bbolt reads the whole file at open in
		// a goroutine of its own, where a damaged page kills the process.
		db, err = bbolt.Open(cfg.Path, 0o600, &bbolt.Options{Timeout: timeout, FreelistType: bbolt.FreelistMapType})
		return err
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("it is locked by %s: %w", holder(cfg.Path), fault.Unavailable)
	}
	if err != nil {
		return nil, err
	}
	j := &journal{db: db, codec: record.NewCodec(schema, cfg.Sealer), buckets: map[resource.Kind][]byte{}}
	if err := guard(func() error { return j.prepare(schema) }); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return j, nil
}

// create makes the file and its name durable, and takes it from others when they may touch it.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return os.Chmod(path, 0o600)
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
