// Command ingot-control is the control plane of an installation.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"ingot/runtime/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "ingot-control:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	var level slog.LevelVar
	cmd := &cobra.Command{
		Use:           "ingot-control",
		Short:         "The control plane of an Ingot installation",
		Version:       version.String(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.PersistentFlags().TextVar(&level, "log-level", &level, "DEBUG, INFO, WARN or ERROR")
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: &level}))
	token := &cobra.Command{Use: "token", Short: "Make join tokens for hosts"}
	token.AddCommand(tokenCreateCommand())
	user := &cobra.Command{Use: "user", Short: "Make contexts for users"}
	user.AddCommand(userCreateCommand())
	cmd.AddCommand(initCommand(), serveCommand(log), token, user)
	return cmd
}
