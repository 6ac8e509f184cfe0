package agent

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"ingot/controlplane/api/client"
	"ingot/controlplane/pki"
	"ingot/runtime/durable"
	"ingot/runtime/fault"
)

// Join gives the host its certificate. A host that has one already keeps it, unless again is set.
// The key is kept before the server is asked, so that an answer that got lost can be asked for
// again with the same token.
func Join(ctx context.Context, cfg Config, server, token string, again bool) (host string, err error) {
	if have, err := client.LoadContext(cfg.contextFile()); err == nil && !again {
		return "", fmt.Errorf("this host has joined %s as %s already (--again joins anew): %w", have.Server, have.Name, fault.Exists)
	}
	if err := os.MkdirAll(cfg.StateDir, 0o711); err != nil {
		return "", fmt.Errorf("make state directory: %w", err)
	}
	keyFile := filepath.Join(cfg.StateDir, "join.key")
	key, err := joinKey(keyFile)
	if err != nil {
		return "", err
	}
	c, err := client.Join(ctx, server, token, key)
	if err != nil {
		return "", err
	}
	if c.Name != cfg.Host {
		return "", fmt.Errorf("the token is for host %q, the configuration says %q: %w", c.Name, cfg.Host, fault.Invalid)
	}
	if err := c.Save(cfg.contextFile()); err != nil {
		return "", err
	}
	return c.Name, os.Remove(keyFile)
}

func joinKey(path string) (crypto.Signer, error) {
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		return pki.ParseKey(raw)
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("read key: %w", err)
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	if raw, err = pki.EncodeKey(key); err != nil {
		return nil, err
	}
	if err := durable.Create(path, raw); err != nil {
		return nil, fmt.Errorf("write key: %w", err)
	}
	return key, nil
}
