package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"ingot/controlplane"
	"ingot/runtime/version"
)

// defaultDir holds keys and state.
const defaultDir = "/var/lib/ingot-control"

func dirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", defaultDir, "directory with keys and state")
}

func serveCommand(log *slog.Logger) *cobra.Command {
	var cfg controlplane.Config
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the API and run the controllers, until SIGTERM",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Server.Version = version.String()
			return controlplane.Run(cmd.Context(), log, cfg)
		},
	}
	dirFlag(cmd, &cfg.Dir)
	cmd.Flags().StringVar(&cfg.Listen, "listen", "[::]:7443", "address and port of the API")
	cmd.Flags().StringVar(&cfg.Metrics, "metrics", "127.0.0.1:7480", "address and port of /healthz and /metrics, unauthenticated; empty for none")
	return cmd
}
