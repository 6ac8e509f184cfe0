package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// ignition is the part of an Ignition v3 configuration that the guest applies.
type ignition struct {
	Storage struct {
		Files []ignitionFile `json:"files"`
	} `json:"storage"`
}

type ignitionFile struct {
	Path     string       `json:"path"`
	Mode     *fs.FileMode `json:"mode"`
	Contents struct {
		Source      string `json:"source"`
		Compression string `json:"compression"`
	} `json:"contents"`
}

// applyIgnition writes the files of the configuration that the emulator serves at path. No
// configuration is none to apply.
func applyIgnition(path string) error {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) || len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	var config ignition
	if err := json.Unmarshal(data, &config); err != nil {
		return fmt.Errorf("parse configuration: %w", err)
	}
	for _, file := range config.Storage.Files {
		if err := file.write(); err != nil {
			return fmt.Errorf("write %s: %w", file.Path, err)
		}
	}
	return nil
}

func (f ignitionFile) write() error {
	data, err := decodeDataURL(f.Contents.Source)
	if err != nil {
		return err
	}
	if f.Contents.Compression == "gzip" {
		if data, err = gunzip(data); err != nil {
			return err
		}
	}
	mode := fs.FileMode(0o644)
	if f.Mode != nil {
		mode = *f.Mode
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(f.Path, data, mode); err != nil {
		return err
	}
	return os.Chmod(f.Path, mode) // the file may have been there with another mode
}

// decodeDataURL decodes an RFC 2397 URL.
func decodeDataURL(source string) ([]byte, error) {
	rest, ok := strings.CutPrefix(source, "data:")
	if !ok && source != "" {
		return nil, fmt.Errorf("source %q: only data URLs are supported", source)
	}
	kind, payload, _ := strings.Cut(rest, ",")
	if strings.HasSuffix(kind, ";base64") {
		unescaped, err := url.PathUnescape(payload)
		if err != nil {
			return nil, err
		}
		return base64.StdEncoding.DecodeString(unescaped)
	}
	text, err := url.PathUnescape(payload)
	return []byte(text), err
}

func gunzip(data []byte) ([]byte, error) {
	reader, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(reader)
}
