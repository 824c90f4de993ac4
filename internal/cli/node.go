package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"palisade/internal/node"
)

func newNodeCommand() *cobra.Command {
	var path, token string
	var join []string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "node --config FILE",
		Short: "Run a node's daemon, in the foreground",
		Long: `Run a node's daemon: the switch, the firewall, the cluster member and the API.
It ends on SIGTERM. Its instances, their devices and their connections stay, and the next
daemon with the same configuration takes them over. Exit status 3 means that the cluster has
fenced or removed the node; starting it again does not help. docs/CONFIG.md describes FILE.`,
		Example: `  palisade node --config /etc/palisade/node1.toml
  palisade node --config node2.toml --join 192.0.2.11:7400 --token @token.txt`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return usageError{fmt.Errorf("node needs --config FILE")}
			}
			config, err := node.ReadConfig(path)
			if err != nil {
				return err
			}
			if err := joinFirst(cmd.Context(), config, join, token); err != nil {
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
	cmd.Flags().StringSliceVar(&join, "join", nil, "join the cluster of the node at `HOST:PORT`, unless this node is a member already")
	cmd.Flags().StringVar(&token, "token", "", "the one-time `TOKEN` to join with, or @FILE with the token in it")
	cmd.Flags().BoolVar(&verbose, "verbose", false, "log in detail")
	return cmd
}

// joinFirst makes the node a member of the cluster of contacts; without contacts it does
// nothing. The token @FILE is read from FILE, because every user of the machine can read the
// command line.
func joinFirst(ctx context.Context, c node.Config, contacts []string, token string) error {
	if (len(contacts) == 0) != (token == "") {
		return usageError{errors.New("--join and --token go together")}
	}
	if len(contacts) == 0 {
		return nil
	}
	if file, ok := strings.CutPrefix(token, "@"); ok {
		data, err := os.ReadFile(file)
		if err != nil && !node.Joined(c) { // a member needs no token
			return fmt.Errorf("read the token: %w", err)
		}
		token = strings.TrimSpace(string(data))
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	return node.JoinCluster(ctx, c, contacts, token)
}

// joinTimeout bounds a node's attempts to join. It is longer than an election.
const joinTimeout = 30 * time.Second
