package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot/agent"
	"ingot/runtime/version"
)

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "ingot-agent",
		Short:         "Run the machines of this hypervisor, and forward their packets",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var config string
	root.PersistentFlags().StringVar(&config, "config", "/etc/ingot/agent.yaml", "configuration file")
	root.AddCommand(runCommand(&config), joinCommand(&config), checkCommand(&config))
	return root
}

func runCommand(config *string) *cobra.Command {
	var debug bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run until told to stop; machines go on without",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := agent.LoadConfig(*config)
			if err != nil {
				return err
			}
			level := slog.LevelInfo
			if debug {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			slog.SetDefault(log)
			return run(cmd.Context(), cfg, log)
		},
	}
	cmd.Flags().BoolVar(&debug, "debug", false, "log every step")
	return cmd
}

func run(ctx context.Context, cfg agent.Config, log *slog.Logger) error {
	a, err := agent.New(ctx, cfg, log)
	if err != nil {
		return err
	}
	return errors.Join(a.Run(ctx), a.Close())
}

func joinCommand(config *string) *cobra.Command {
	var server, token, tokenFile string
	var again bool
	cmd := &cobra.Command{
		Use:   "join --server HOST:PORT --token-file FILE",
		Short: "Exchange a one-time token for this host's certificate",
		Long: "join proves to the control plane with a token of `ingot-control token create` that this host belongs to it. The\n" +
			"token names the authority that the server must have, and works once.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := agent.LoadConfig(*config)
			if err != nil {
				return err
			}
			if token, err = tokenText(token, tokenFile); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			host, err := agent.Join(ctx, cfg, server, token, again)
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "joined %s as %s\n", server, host)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&server, "server", "", "address of the control plane")
	f.StringVar(&tokenFile, "token-file", "", "file with the token; - reads standard input")
	f.StringVar(&token, "token", "", "the token itself; visible to every process of this host, so prefer --token-file")
	f.BoolVar(&again, "again", false, "join although this host has a certificate")
	_ = cmd.MarkFlagRequired("server")
	return cmd
}

func tokenText(token, file string) (string, error) {
	switch {
	case token != "" && file != "":
		return "", errors.New("--token and --token-file exclude each other")
	case token != "":
		return token, nil
	case file == "":
		return "", errors.New("a token is required: --token-file FILE")
	case file == "-":
		file = "/dev/stdin"
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

func checkCommand(config *string) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration file and change nothing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := agent.LoadConfig(*config)
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "configuration is valid")
			}
			return err
		},
	}
}
