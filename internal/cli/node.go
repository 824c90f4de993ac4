package cli

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"palisade/internal/node"
)

func newNodeCommand() *cobra.Command {
	var path string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "node --config FILE",
		Short: "Run a node's daemon, in the foreground",
		Long: `Run a node's daemon: the switch, the firewall, the cluster member and the API.
It ends on SIGTERM; its instances, their devices and their connections live on and are
taken over by the next daemon with the same configuration.`,
		Example: "  palisade node --config /etc/palisade/node1.toml",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return usageError{fmt.Errorf("node wants --config FILE")}
			}
			config, err := node.ReadConfig(path)
			if err != nil {
				return err
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			n, err := node.New(config, log)
			if err != nil {
				return err
			}
			return n.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "the configuration `FILE`")
	cmd.Flags().BoolVar(&verbose, "verbose", false, "log in detail")
	return cmd
}
