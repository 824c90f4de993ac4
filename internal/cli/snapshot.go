package cli

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"palisade/cluster"
	"palisade/internal/atomicfile"
	"palisade/internal/controlclient"
	"palisade/internal/node"
)

func newClusterSnapshot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save the cluster's state to a file, inspect it, restore it",
		RunE:  helpOrUnknown,
	}
	cmd.AddCommand(newSnapshotSave(), newSnapshotInspect(), newSnapshotRestore())
	return cmd
}

func newSnapshotSave() *cobra.Command {
	var choice nodeChoice
	cmd := &cobra.Command{
		Use:   "save FILE",
		Short: "Write the cluster's state to a file",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			partial := args[0] + ".partial"
			f, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			defer os.Remove(partial)
			err = choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Download(cmd.Context(), socket, "/v1/cluster/snapshot", f)
			})
			if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
				return err
			}
			manifest, err := inspectBackup(partial)
			if err != nil {
				return fmt.Errorf("the saved file cannot be read back: %w", err)
			}
			if err := atomicfile.Rename(partial, args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Saved to %s. Only you can read it, because it holds the gossip key.\n", args[0])
			return printManifest(cmd, manifest, choice.json)
		},
	}
	choice.flags(cmd)
	return cmd
}

func newSnapshotInspect() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what a saved state contains, and check that it is complete",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			manifest, err := inspectBackup(args[0])
			if err != nil {
				return err
			}
			return printManifest(cmd, manifest, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func inspectBackup(path string) (cluster.Manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return cluster.Manifest{}, err
	}
	defer f.Close()
	return cluster.Inspect(f)
}

func printManifest(cmd *cobra.Command, m cluster.Manifest, asJSON bool) error {
	out := cmd.OutOrStdout()
	if asJSON {
		return printJSON(out, m)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "cluster\t%s\n", m.Cluster)
	fmt.Fprintf(w, "state\tindex %d, of %s\n", m.Index, m.Time.Format(time.RFC3339))
	c := m.Counts
	fmt.Fprintf(w, "holds\t%d nodes, %d accounts, %d groups with %d rules, %d instances\n", c.Nodes, c.Accounts, c.Groups, c.Rules, c.Instances)
	if m.SealKey != "" {
		fmt.Fprintf(w, "secrets\tsealed under cluster key %s, which is not in this file: a restore needs cluster.key from any node's data directory; keep a copy of it in another place\n", m.SealKey)
	}
	if m.PlainSecrets > 0 {
		fmt.Fprintf(w, "secrets\t%d in plain text, from an earlier release: they are sealed once every node can be reached\n", m.PlainSecrets)
	}
	fmt.Fprintf(w, "whole\t%d bytes, SHA-256 %s\n", m.Bytes, m.SHA256)
	return w.Flush()
}

func newSnapshotRestore() *cobra.Command {
	var config string
	var restoration node.Restoration
	var yes bool
	cmd := &cobra.Command{
		Use:   "restore FILE --config FILE",
		Short: "Start the cluster again from a saved state, with this node as its only member",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if config == "" {
				return usageError{errors.New("snapshot restore needs --config FILE, of the first node")}
			}
			c, err := node.ReadConfig(config)
			if err != nil {
				return err
			}
			manifest, err := inspectBackup(args[0])
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if !yes {
				if err := printManifest(cmd, manifest, false); err != nil {
					return err
				}
				fmt.Fprintf(out, restorePlan, c.Name, manifest.Time.Format(time.RFC3339))
				if restoration.WithoutSecrets {
					fmt.Fprint(out, restoreWithout)
				}
				fmt.Fprint(out, "\nTo do it, repeat the command with --yes.\n")
				return exitError(1)
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			restoration.Backup = f
			if manifest, err = node.RestoreCluster(c, restoration); err != nil {
				return err
			}
			fmt.Fprintf(out, "Restored to %s. Next: palisade node --config %s, then palisade cluster token for each further node.\n", c.DataDir, config)
			return printManifest(cmd, manifest, false)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "the configuration `FILE` of the first node")
	cmd.Flags().StringVar(&restoration.ClusterKey, "cluster-key", "", "the `FILE` with the key that seals the secrets (default: cluster.key in the node's data directory)")
	cmd.Flags().BoolVar(&restoration.WithoutSecrets, "without-secrets", false, "restore without that key: accounts are kept, their access keys are not")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it; without --yes, only show what would be done")
	cmd.MarkFlagsMutuallyExclusive("cluster-key", "without-secrets")
	return cmd
}

const restoreWithout = `  - the access keys of the backup are lost: palisade account keys add ACCOUNT creates new ones
`

const restorePlan = `
Restoring starts a cluster with %s as its only node. Its daemon must be down and its log must be empty.
  - groups, rules and accounts are those of %s: rules that were revoked since then are back,
    rules that were added are gone. Check them before other nodes join.
  - the other nodes are fenced; to join again, each needs a new token and an empty data directory
  - instances are stopped; they can be started again, with new addresses
`
