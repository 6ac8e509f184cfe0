package dataplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// A record is what survives of a port on disk: enough to build it again without anybody.
type record struct {
	Slot   uint32
	Device string
	Spec   PortSpec
}

const recordSuffix = ".json"

// records is the directory of port files.
type records struct{ dir string }

func (r records) path(id string) string {
	return filepath.Join(r.dir, url.PathEscape(id)+recordSuffix)
}

// load reads all records; a file that does not parse is an error that names it.
func (r records) load() ([]record, error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("read state directory: %w", err)
	}
	var all []record
	for _, e := range entries {
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
	f, err := os.CreateTemp(r.dir, ".new-*") // mode 0600
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
	d, err := os.Open(r.dir)
	if err != nil {
		return fmt.Errorf("open state directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync state directory: %w", err)
	}
	return nil
}
