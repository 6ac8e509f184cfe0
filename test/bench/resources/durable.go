package resources

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api"
	"ingot/runtime/store"
	"ingot/runtime/store/bolt"
	"ingot/runtime/store/seal"
	"ingot/test/bench/result"
)

const (
	durableRounds  = 5
	durableWriters = 16
	durableEach    = 500
)

// durableCreates compares the store with bbolt's own group commit on the same disk. bbolt waits 10 ms
// for company by default; with 1 ms it does best here, so that is what it gets.
func durableCreates(ctx context.Context) ([]result.Result, error) {
	var ours, raw []float64
	for round := -1; round < durableRounds; round++ {
		o, err := inTemp(func(dir string) (float64, error) { return storeCreates(ctx, dir) })
		if err != nil {
			return nil, err
		}
		r, err := inTemp(rawCreates)
		if err != nil {
			return nil, err
		}
		if round >= 0 { // the first one warms up
			ours, raw = append(ours, o), append(raw, r)
		}
	}
	return []result.Result{
		result.New("runtime/durable_creates_16", "creates/s", result.RatioAtLeast(0.8), ours...).
			Against("raw bbolt Batch, same payload, 1 ms delay", raw...),
	}, nil
}

func inTemp(measure func(dir string) (float64, error)) (float64, error) {
	dir, err := os.MkdirTemp("", "ingot-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	return measure(dir)
}

func storeCreates(ctx context.Context, dir string) (rate float64, err error) {
	sealer, err := seal.FromFile(filepath.Join(dir, "key"))
	if err != nil {
		return 0, err
	}
	s, err := bolt.Open(api.Schema(), bolt.Config{Path: filepath.Join(dir, "store"), Sealer: sealer})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return creates(durableWriters, durableEach, func(i int) error {
		_, err := s.Txn(ctx, store.Txn{Ops: []store.Op{{Type: store.Create, Resource: hostInterface(i, 0)}}})
		return err
	})
}

// rawCreates puts the encoded spec at the same kind of key.
func rawCreates(dir string) (rate float64, err error) {
	db, err := bbolt.Open(filepath.Join(dir, "raw"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.MaxBatchDelay = time.Millisecond
	bucket := []byte("bucket")
	if err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(bucket)
		return err
	}); err != nil {
		return 0, err
	}
	return creates(durableWriters, durableEach, func(i int) error {
		r := hostInterface(i, 0)
		data, err := proto.Marshal(r.Spec)
		if err != nil {
			return err
		}
		return db.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put([]byte(r.Key.String()), data) })
	})
}
