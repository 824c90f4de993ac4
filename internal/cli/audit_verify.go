package cli

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"palisade/internal/auditfile"
	"palisade/internal/controlclient"
)

func newAuditExportCommand() *cobra.Command {
	var choice nodeChoice
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the log of changes, as hash-chained JSON lines",
		Long: `Write the log of changes of all accounts as JSON lines. Each line has the hash of the line before it of the
same account, and the cluster keeps the last hash of each account, so that palisade audit verify finds
what was changed later. The cluster keeps the newest records only: export often enough, and keep all exports.`,
		Example: `  palisade audit export > audit-2026-11.jsonl`,
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Download(cmd.Context(), socket, "/v1/audit/export", cmd.OutOrStdout())
			})
		},
	}
	choice.nodeFlags(cmd)
	return cmd
}

func newAuditVerifyCommand() *cobra.Command {
	var choice nodeChoice
	var older bool
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Find what was changed in exports of the log of changes",
		Long: `Compare exports, given in the order in which they were made, with the hashes that the cluster keeps. A record
that was changed, removed, inserted or moved is reported with its line. A file that ends before the
cluster's newest record is refused, because its end may be cut off: make another export and verify both, or
say --older, which accepts that the end is missing but still checks all that is there.`,
		Example: `  palisade audit verify audit-2026-10.jsonl audit-2026-11.jsonl`,
		Args:    usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			var files []auditfile.Export
			for _, name := range names {
				f, err := os.Open(name)
				if err != nil {
					return err
				}
				defer f.Close()
				files = append(files, auditfile.Export{Name: name, Content: f})
			}
			var chain auditfile.Chain
			err := choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Get(cmd.Context(), socket, "/v1/audit/chain", &chain)
			})
			if err != nil {
				return err
			}
			summary, err := auditfile.Verify(files, chain, older)
			if finding, ok := errors.AsType[*auditfile.Finding](err); ok {
				return fmt.Errorf("the log is not as the cluster recorded it: %w", finding)
			}
			if err != nil {
				return err
			}
			return printVerified(cmd, summary)
		},
	}
	choice.nodeFlags(cmd)
	cmd.Flags().BoolVar(&older, "older", false, "accept files that end before the cluster's newest record")
	return cmd
}

func printVerified(cmd *cobra.Command, s auditfile.Summary) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ACCOUNT\tRECORDS\tNEWER IN THE CLUSTER")
	for _, r := range s.Rings {
		account := string(r.Account)
		if account == "" {
			account = "operators"
		}
		fmt.Fprintf(w, "%s\t%d to %d\t%d\n", account, r.First, r.Last, r.Newer)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d records, all as the cluster recorded them\n", s.Records)
	return nil
}
