// Package durable owns the order of system calls after which a file survives a crash.
package durable

import (
	"os"
	"path/filepath"
)

// SyncDir makes the names in a directory durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Create makes a file with mode 0600. A crash leaves all of it or nothing; a file that is there
// already is fs.ErrExist and stays.
func Create(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // a rename would replace what is there
		return err
	}
	return SyncDir(dir)
}
