package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ingot/runtime/durable"
)

const (
	recordName = "record.json"
	eventsName = "events.json"
)

// store keeps one directory per machine, readable by root alone, with its record and its events.
type store struct {
	dir string
}

func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	return &store{dir: dir}, nil
}

// stored is a machine read back.
type stored struct {
	record *record
	events []event
}

// load reads all machines. A record that cannot be read costs its own machine only: it is named in
// corrupt, by id, and its files and its domain are left alone.
func (s *store) load() (machines []stored, corrupt map[string]error, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read records: %w", err)
	}
	corrupt = map[string]error{}
	for _, entry := range entries {
		id := entry.Name()
		data, err := os.ReadFile(filepath.Join(s.dir, id, recordName))
		if errors.Is(err, fs.ErrNotExist) {
			// A creation that was cut off before it answered, or a removal before its last step.
			if err := os.RemoveAll(filepath.Join(s.dir, id)); err != nil {
				return nil, nil, fmt.Errorf("remove unfinished record: %w", err)
			}
			continue
		}
		if err != nil {
			corrupt[id] = err
			continue
		}
		r, err := decodeRecord(id, data)
		if err != nil {
			corrupt[id] = err
			continue
		}
		machines = append(machines, stored{record: r, events: s.loadEvents(id)})
	}
	return machines, corrupt, nil
}

// save makes the record durable.
func (s *store) save(r *record) error {
	data, err := r.encode()
	if err != nil {
		return err
	}
	dir := filepath.Join(s.dir, r.id())
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		if err := durable.SyncDir(s.dir); err != nil {
			return fmt.Errorf("save record: %w", err)
		}
	case !errors.Is(err, fs.ErrExist):
		return fmt.Errorf("save record: %w", err)
	}
	if err := replace(filepath.Join(dir, recordName), data, true); err != nil {
		return fmt.Errorf("save record: %w", err)
	}
	if err := durable.SyncDir(dir); err != nil {
		return fmt.Errorf("save record: %w", err)
	}
	return nil
}

// remove forgets the machine. The record goes first: a directory without one is an unfinished removal.
func (s *store) remove(id string) error {
	dir := filepath.Join(s.dir, id)
	if err := os.Remove(filepath.Join(dir, recordName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove record: %w", err)
	}
	return nil
}

// setAside keeps a corrupt record for a person and makes room for a new one.
func (s *store) setAside(id string) error {
	path := filepath.Join(s.dir, id, recordName)
	if err := os.Rename(path, path+".corrupt"); err != nil {
		return fmt.Errorf("set corrupt record aside: %w", err)
	}
	return nil
}

// saveEvents survives a crash of the server; a crash of the host may cost the newest events.
func (s *store) saveEvents(id string, events []event) error {
	data, err := json.Marshal(events)
	if err != nil {
		return fmt.Errorf("encode events: %w", err)
	}
	if err := replace(filepath.Join(s.dir, id, eventsName), data, false); err != nil {
		return fmt.Errorf("save events: %w", err)
	}
	return nil
}

// loadEvents reads what can be read: events are told, not obeyed.
func (s *store) loadEvents(id string) []event {
	data, err := os.ReadFile(filepath.Join(s.dir, id, eventsName))
	if err != nil {
		return nil
	}
	var events []event
	if json.Unmarshal(data, &events) != nil {
		return nil
	}
	return events
}

// replace writes the file aside and moves it into place.
func replace(path string, data []byte, sync bool) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}
