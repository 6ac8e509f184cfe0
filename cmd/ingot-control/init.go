package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"ingot/controlplane/api/client"
	"ingot/controlplane/pki"
)

// adminContext is the context file of the first user.
const adminContext = "admin.context"

// defaultPort is that of the API.
const defaultPort = 7443

func initCommand() *cobra.Command {
	var dir, server string
	var names []string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make what is missing of a control plane's directory: authority, certificates, keys, admin context",
		Long: `Make what is missing of a control plane's directory: authority, certificates, keys, admin context.

What is there is kept, so it can be run again: after it was interrupted, to give the server's
certificate another name, or to renew the admin's when it nears its end. A server that runs uses
a new certificate when it is started again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, wrote, err := pki.Init(dir, append([]string{"localhost", "127.0.0.1", "::1"}, names...))
			if err != nil {
				return err
			}
			if server == "" {
				server = net.JoinHostPort(append(names, "127.0.0.1")[0], strconv.Itoa(defaultPort))
			}
			written, err := writeAdmin(keys, server, cmd.Flags().Changed("server"))
			if err != nil {
				return err
			}
			if written {
				wrote = append(wrote, adminContext)
			}
			out := cmd.OutOrStdout()
			if len(wrote) == 0 {
				fmt.Fprintf(out, "%s is complete; nothing changed\n", dir)
				return nil
			}
			for _, name := range wrote {
				fmt.Fprintf(out, "wrote %s\n", filepath.Join(dir, name))
			}
			return nil
		},
	}
	dirFlag(cmd, &dir)
	cmd.Flags().StringArrayVar(&names, "listen-name", nil, "DNS name or IP address by which clients reach the server; may be repeated")
	cmd.Flags().StringVar(&server, "server", "", "host:port for the admin context (default the first --listen-name, port 7443)")
	return cmd
}

// writeAdmin makes the admin context when it is missing, nears its end, or, when asked to, names
// another server.
func writeAdmin(keys *pki.Dir, server string, force bool) (bool, error) {
	path := filepath.Join(keys.Path, adminContext)
	have, err := client.LoadContext(path)
	switch {
	case err == nil && keys.Authority.Fresh([]byte(have.Certificate)):
		if !force || have.Server == server {
			return false, nil
		}
		have.Server = server
		return true, have.Save(path)
	case err == nil: // nears its end, or is of another authority
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("%w; remove the file to have it made anew", err)
	}
	c, err := newContext(keys, pki.Identity{Role: pki.Admin, Name: "admin"}, server, pki.UserLife)
	if err != nil {
		return false, err
	}
	return true, c.Save(path)
}

// newContext makes a key and a certificate for a user.
func newContext(keys *pki.Dir, id pki.Identity, server string, life time.Duration) (*client.Context, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	cert, err := keys.Authority.Issue(id, key.Public(), life)
	if err != nil {
		return nil, err
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	c := &client.Context{
		Name: id.Name, Server: server, Project: id.Project,
		CertificateAuthority: string(keys.Authority.PEM()), Certificate: string(cert), Key: string(keyPEM),
	}
	return c, c.Validate()
}

func userCreateCommand() *cobra.Command {
	var dir, name, project, out string
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a context file for a user: an admin, or a member of one project",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := pki.OpenDir(dir)
			if err != nil {
				return err
			}
			admin, err := client.LoadContext(filepath.Join(dir, adminContext))
			if err != nil {
				return err
			}
			id := pki.Identity{Role: pki.Admin, Name: name}
			if project != "" {
				id = pki.Identity{Role: pki.Member, Name: name, Project: project}
			}
			c, err := newContext(keys, id, admin.Server, life)
			if err != nil {
				return err
			}
			if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("write context: %s is there already", out)
			}
			if err := c.Save(out); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s for %s\n", out, id)
			return nil
		},
	}
	dirFlag(cmd, &dir)
	cmd.Flags().StringVar(&name, "name", "", "name of the user, a DNS label")
	cmd.Flags().StringVar(&project, "project", "", "make the user a member of this project instead of an admin")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write")
	cmd.Flags().DurationVar(&life, "ttl", pki.UserLife, "life of the certificate")
	for _, f := range []string{"name", "output"} {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err) // the flag was defined above
		}
	}
	return cmd
}
