package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"

	"ingot/runtime/fault"
	"ingot/runtime/group"
	"ingot/runtime/resource"
	"ingot/runtime/store/internal/record"
	"ingot/runtime/store/internal/state"
)

// The file has a bucket meta, and one per kind: "kind/" and its name. Their keys are project, NUL, name.
const (
	metaBucket  = "meta"
	kindPrefix  = "kind/"
	formatKey   = "format"
	revisionKey = "revision" // 8 bytes, big endian
	format      = "ingot-store-1"
)

// A journal keeps the present state, not its history: a batch overwrites what it changed.
type journal struct {
	db      *bbolt.DB
	codec   *record.Codec
	buckets map[resource.Kind][]byte
}

// guard turns what bbolt does on a damaged file, a panic or a fault in its mapping, into ErrCorrupt.
func guard(fn func() error) error {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err := group.Call(fn)
	var p *group.Panic
	if errors.As(err, &p) {
		return fmt.Errorf("read pages: %w: %v", ErrCorrupt, p.Value)
	}
	return err
}

// prepare checks the format and makes the buckets.
func (j *journal) prepare(schema *resource.Schema) error {
	return j.db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists([]byte(metaBucket))
		if err != nil {
			return err
		}
		switch got := meta.Get([]byte(formatKey)); {
		case got == nil:
			err = meta.Put([]byte(formatKey), []byte(format))
		case string(got) != format:
			err = fmt.Errorf("format is %q, want %q: %w", got, format, fault.Unsupported)
		}
		if err != nil {
			return err
		}
		for _, kind := range schema.Kinds() {
			j.buckets[kind] = []byte(kindPrefix + string(kind))
			if _, err := tx.CreateBucketIfNotExists(j.buckets[kind]); err != nil {
				return err
			}
		}
		return nil
	})
}

// load reads everything; it names all records that are corrupt.
func (j *journal) load() (revision uint64, resources []*resource.Resource, err error) {
	err = guard(func() error {
		return j.db.View(func(tx *bbolt.Tx) error {
			if value := tx.Bucket([]byte(metaBucket)).Get([]byte(revisionKey)); len(value) == 8 {
				revision = binary.BigEndian.Uint64(value)
			}
			return tx.ForEach(func(bucket []byte, b *bbolt.Bucket) error {
				kind, ok := strings.CutPrefix(string(bucket), kindPrefix)
				if !ok {
					return nil
				}
				var faults []error
				err := b.ForEach(func(k, v []byte) error {
					r, err := j.read(resource.Kind(kind), k, v, revision)
					if err != nil {
						faults = append(faults, err)
					}
					resources = append(resources, r)
					return nil
				})
				return errors.Join(append(faults, err)...)
			})
		})
	})
	return revision, resources, err
}

func (j *journal) read(kind resource.Kind, place, value []byte, revision uint64) (*resource.Resource, error) {
	project, name, ok := bytes.Cut(place, []byte{0})
	key := resource.Key{Kind: kind, Project: string(project), Name: string(name)}
	if !ok {
		return nil, fmt.Errorf("%s at %q: %w", kind, place, ErrCorrupt)
	}
	r, err := j.codec.Decode(key, value)
	if err != nil {
		return nil, err
	}
	if r.Revision > revision {
		return nil, fmt.Errorf("%s has revision %d, behind the store's %d: %w", key, r.Revision, revision, ErrCorrupt)
	}
	return r, nil
}

// Encode implements state.Journal.
func (j *journal) Encode(r *resource.Resource) ([]byte, error) { return j.codec.Encode(r) }

// Write implements state.Journal.
func (j *journal) Write(revision uint64, changes []state.Change) error {
	err := j.db.Update(func(tx *bbolt.Tx) error {
		for _, c := range changes {
			b, place := tx.Bucket(j.buckets[c.Key.Kind]), place(c.Key)
			var err error
			if c.Record == nil {
				err = b.Delete(place)
			} else {
				err = b.Put(place, c.Record)
			}
			if err != nil {
				return state.Refusal{Err: fmt.Errorf("put %s: %w", c.Key, err)}
			}
		}
		return tx.Bucket([]byte(metaBucket)).Put([]byte(revisionKey), binary.BigEndian.AppendUint64(nil, revision))
	})
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		// bbolt has written new pages only, and has not pointed at them.
		return state.Refusal{Err: err}
	}
	return err
}

func place(key resource.Key) []byte {
	return slices.Concat([]byte(key.Project), []byte{0}, []byte(key.Name))
}

// Close implements state.Journal.
func (j *journal) Close() error { return j.db.Close() }
