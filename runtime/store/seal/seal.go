// Package seal owns the encryption of resources at rest: AES-256-GCM under a key from a file that
// only its owner may read. It never logs or returns the key.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"ingot/runtime/durable"
	"ingot/runtime/fault"
)

// A Sealer encrypts and authenticates. What was sealed opens only with the same associated data.
type Sealer interface {
	Seal(plain, associated []byte) ([]byte, error)
	// Open returns the plain text; fault.Invalid when the key, the associated data or the text is another.
	Open(sealed, associated []byte) ([]byte, error)
}

const keyBytes = 32

// gcm is AES-256-GCM with random 96-bit nonces: good for 2^32 sealings under one key (NIST SP 800-38D, 8.3).
type gcm struct{ aead cipher.AEAD }

// New returns a sealer with a key of 32 bytes.
func New(key []byte) (Sealer, error) {
	if len(key) != keyBytes {
		return nil, fmt.Errorf("sealing key of %d bytes, want %d: %w", len(key), keyBytes, fault.Invalid)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make sealer: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make sealer: %w", err)
	}
	return gcm{aead}, nil
}

// Seal implements Sealer.
func (g gcm) Seal(plain, associated []byte) ([]byte, error) {
	return g.aead.Seal(nil, nil, plain, associated), nil
}

// Open implements Sealer.
func (g gcm) Open(sealed, associated []byte) ([]byte, error) {
	plain, err := g.aead.Open(nil, nil, sealed, associated)
	if err != nil {
		return nil, fmt.Errorf("open sealed text: it was changed, or sealed with another key: %w", fault.Invalid)
	}
	return plain, nil
}

// FromFile returns a sealer with the key in the file at path: 64 hex digits. When there is no file
// it makes one with a new key. A file that others than its owner may touch is refused.
func FromFile(path string) (Sealer, error) {
	text, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("sealing key %s: %w", path, err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("sealing key %s: not in hex digits: %w", path, fault.Invalid)
	}
	s, err := New(key)
	if err != nil {
		return nil, fmt.Errorf("sealing key %s: %w", path, err)
	}
	return s, nil
}

func readKey(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("mode is %04o, others than its owner may use it; chmod 0600: %w", mode, fault.Precondition)
	}
	text := make([]byte, 2*keyBytes+1)
	n, err := io.ReadFull(f, text)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	return string(text[:n]), nil
}

func makeKey(path string) (string, error) {
	key := make([]byte, keyBytes)
	rand.Read(key) // never fails, see crypto/rand
	text := hex.EncodeToString(key) + "\n"
	return text, durable.Create(path, []byte(text))
}
