package cli

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"palisade/cluster"
	"palisade/internal/controlclient"
	"palisade/internal/node"
)

func newClusterSnapshot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save the cluster's state to a file, look into it, begin again from it",
		RunE:  helpOrUnknown,
	}
	cmd.AddCommand(newSnapshotSave(), newSnapshotInspect(), newSnapshotRestore())
	return cmd
}

func newSnapshotSave() *cobra.Command {
	var choice nodeChoice
	cmd := &cobra.Command{
		Use:   "save FILE",
		Short: "Write the state to a file",
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
				return fmt.Errorf("what was saved cannot be read back: %w", err)
			}
			if err := os.Rename(partial, args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Saved to %s, readable by you alone: it holds the gossip key.\n", args[0])
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
		Short: "Say what a saved state holds, and whether it is whole",
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
		fmt.Fprintf(w, "secrets\tsealed under cluster key %s, which is not in it: a restore wants cluster.key of any node's data directory; keep a copy of that elsewhere\n", m.SealKey)
	}
	if m.PlainSecrets > 0 {
		fmt.Fprintf(w, "secrets\t%d in plain text, of an earlier release: they are sealed when every node can be reached\n", m.PlainSecrets)
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
		Short: "Begin a cluster again from a saved state, with this node alone",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if config == "" {
				return usageError{errors.New("snapshot restore wants --config FILE, of the node that begins")}
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
				fmt.Fprint(out, "\nTo do it, say it again with --yes.\n")
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
	cmd.Flags().StringVar(&config, "config", "", "the configuration `FILE` of the node that begins")
	cmd.Flags().StringVar(&restoration.ClusterKey, "cluster-key", "", "the `FILE` with the key that the secrets are sealed under (default: cluster.key in the node's data directory)")
	cmd.Flags().BoolVar(&restoration.WithoutSecrets, "without-secrets", false, "begin without that key: accounts stay, their access keys do not")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it; without this, say what would be done")
	cmd.MarkFlagsMutuallyExclusive("cluster-key", "without-secrets")
	return cmd
}

const restoreWithout = `  - no access key of the backup signs any more: palisade account keys add ACCOUNT makes new ones
`

const restorePlan = `
Restoring begins a cluster with %s as its only node, whose daemon must be down and whose log must be empty:
  - groups, rules and accounts are those of %s: what was revoked since then is back, what was
    added is gone. Compare before you let others in.
  - the other nodes are fenced; each joins again with a new token, its data directory emptied
  - instances are stopped, and can be started with new addresses
`
