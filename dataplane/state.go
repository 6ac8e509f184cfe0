package dataplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ingot/runtime/durable"
	"ingot/runtime/fault"
)

// A record is what survives of a port on disk: enough to build it again without anybody.
type record struct {
	Slot   uint32
	Device string
	Spec   PortSpec
}

const (
	recordSuffix = ".json"
	unfinished   = ".new-"
)

// records is the directory of port files. It belongs to one process at a time.
type records struct {
	dir  string
	lock *os.File // the directory, locked; the kernel lets go of it with the process
}

// open makes the directory and takes hold of it. A second holder is refused with fault.Exists.
func (r *records) open() (err error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if r.lock, err = os.Open(r.dir); err != nil {
		return fmt.Errorf("open state directory: %w", err)
	}
	if err := unix.Flock(int(r.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%w: another process holds the dataplane in %s: %w", fault.Exists, r.dir, err)
	}
	return nil
}

func (r *records) close() error {
	if r.lock == nil {
		return nil
	}
	return r.lock.Close()
}

func (r records) path(id string) string {
	return filepath.Join(r.dir, url.PathEscape(id)+recordSuffix)
}

// load reads all records; a file that does not parse is an error that names it.
func (r records) load() ([]record, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("read state directory: %w", err)
	}
	var all []record
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), unfinished) { // a process died writing it
			if err := os.Remove(filepath.Join(r.dir, e.Name())); err != nil {
				return nil, fmt.Errorf("remove unfinished port file: %w", err)
			}
		}
		if !strings.HasSuffix(e.Name(), recordSuffix) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(r.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read port file: %w", err)
		}
		var rec record
		if err := json.Unmarshal(data, &rec); err != nil {
			return nil, fmt.Errorf("read port file %s: %w", e.Name(), err)
		}
		all = append(all, rec)
	}
	return all, nil
}

// save writes the record durably: a reader sees the old one or the new one, also after a crash.
func (r records) save(rec record) error {
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode port %s: %w", rec.Spec.ID, err)
	}
	f, err := os.CreateTemp(r.dir, unfinished+"*") // mode 0600
	if err != nil {
		return fmt.Errorf("write port file: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(data, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), r.path(rec.Spec.ID))
	}
	if err != nil {
		return fmt.Errorf("write port file of %s: %w", rec.Spec.ID, err)
	}
	return r.sync()
}

// remove deletes the record durably; a missing one is a success.
func (r records) remove(id string) error {
	if err := os.Remove(r.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove port file of %s: %w", id, err)
	}
	return r.sync()
}

func (r records) sync() error {
	if err := durable.SyncDir(r.dir); err != nil {
		return fmt.Errorf("sync state directory: %w", err)
	}
	return nil
}
