package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ingot/controlplane/api"
	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/runtime/resource"
)

func tokenCreateCommand() *cobra.Command {
	var dir, file, host string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Print a token by which one host may join, once",
		Long: `Print a token by which one host may join, once.

The server must run. The token is printed and kept nowhere: the server knows its hash only.
It is a secret until it was used or has expired.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				file = filepath.Join(dir, adminContext)
			}
			text, err := createToken(cmd.Context(), file, host, ttl)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		},
	}
	dirFlag(cmd, &dir)
	cmd.Flags().StringVar(&file, "context", "", "context file of an admin (default the one in --dir)")
	cmd.Flags().StringVar(&host, "host", "", "name that the host gets, a DNS label")
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long the token is good")
	if err := cmd.MarkFlagRequired("host"); err != nil {
		panic(err) // the flag was defined above
	}
	return cmd
}

// createToken makes a token and tells the server its hash.
func createToken(ctx context.Context, contextFile, host string, ttl time.Duration) (string, error) {
	c, err := client.LoadContext(contextFile)
	if err != nil {
		return "", err
	}
	authority, err := pki.ParseCertificate([]byte(c.CertificateAuthority))
	if err != nil {
		return "", err
	}
	token, err := pki.NewToken(pki.Pin(authority))
	if err != nil {
		return "", err
	}
	object, err := api.ToObject(&resource.Resource{
		Meta: resource.Meta{Key: resource.Key{Kind: api.JoinToken, Name: token.ID}},
		Spec: &v1alpha1.JoinTokenSpec{Host: host, SecretHash: token.SecretHash(), Expires: timestamppb.New(time.Now().Add(ttl))},
	}, nil)
	if err != nil {
		return "", err
	}
	conn, err := client.Dial(c)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := conn.Create(ctx, &v1alpha1.CreateRequest{Object: object, RequestId: token.ID}); err != nil {
		return "", fmt.Errorf("create token: %w", err)
	}
	return token.Text(), nil
}
