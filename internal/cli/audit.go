package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"palisade/internal/controlclient"
	"palisade/internal/node/control"
)

func newAuditCommand() *cobra.Command {
	var choice nodeChoice
	var account, action, since string
	var cloudTrail bool
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "List who changed what, and what was refused",
		Long: `List who changed what, and which calls were refused, oldest first. The cluster keeps the newest
10,000 changes of each account and of the operators (settings.audit_records). A call that is refused
changes nothing: the node that refused it keeps it, up to 1,000 of each account. Reads and dry runs
are not recorded; calls with a wrong signature are only counted.`,
		Example: `  palisade audit --since 1h
  palisade audit --account mary --action AuthorizeSecurityGroupIngress
  palisade audit --cloudtrail > events.json
  palisade audit export > audit.jsonl
  palisade audit verify audit.jsonl`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := url.Values{"account": {account}, "action": {action}}
			if since != "" {
				from, err := parseSince(since, time.Now())
				if err != nil {
					return usageError{err}
				}
				ask.Set("since", from.Format(time.RFC3339))
			}
			if cloudTrail {
				ask.Set("form", "cloudtrail")
			}
			var answer json.RawMessage
			err := choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Get(cmd.Context(), socket, "/v1/audit?"+ask.Encode(), &answer)
			})
			if err != nil {
				return err
			}
			return printAuditAnswer(cmd, answer, choice.json, cloudTrail)
		},
	}
	choice.flags(cmd)
	cmd.Flags().StringVar(&account, "account", "", "only requests of this `ACCOUNT`, by name or id")
	cmd.Flags().StringVar(&action, "action", "", "only requests for this `ACTION`")
	cmd.Flags().StringVar(&since, "since", "", "only requests since this `TIME`: 2026-01-02T03:04:05Z, 2026-01-02, or how long ago, such as 90m")
	cmd.Flags().BoolVar(&cloudTrail, "cloudtrail", false, "print JSON in the form of AWS CloudTrail's events")
	cmd.AddCommand(newAuditExportCommand(), newAuditVerifyCommand())
	return cmd
}

// printAuditAnswer prints the answer of a node, and warns of what it lacks.
func printAuditAnswer(cmd *cobra.Command, answer json.RawMessage, asJSON, cloudTrail bool) error {
	var log control.AuditLog
	var trail struct {
		Records json.RawMessage
		Missing []control.Unasked `json:"missing"`
	}
	into := any(&log)
	if cloudTrail {
		into = &trail
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return err
	}
	for _, m := range append(trail.Missing, log.Missing...) {
		fmt.Fprintf(cmd.ErrOrStderr(), "calls that %s refused are missing: %s\n", m.Node, m.Why)
	}
	switch {
	case cloudTrail:
		return printJSON(cmd.OutOrStdout(), map[string]any{"Records": trail.Records})
	case asJSON:
		return printJSON(cmd.OutOrStdout(), answer)
	}
	return printAudit(cmd.OutOrStdout(), log.Records)
}

func parseSince(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil {
		return now.Add(-ago), nil
	}
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--since %s: must be a time such as 2026-01-02T03:04:05Z or 2026-01-02, or how long ago, such as 90m", text)
}

func printAudit(out io.Writer, entries []control.AuditEntry) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tWHO\tFROM\tACTION\tRESULT\tPARAMETERS")
	for _, e := range entries {
		who := e.Name
		switch {
		case e.Account == "":
			who = "operator"
		case who == "":
			who = string(e.Account)
		}
		result := "done"
		if e.Error != "" {
			result = e.Error
		}
		if e.RefusedBy != "" {
			result += " (" + string(e.RefusedBy) + ")"
		}
		var parameters []string
		for _, name := range slices.Sorted(maps.Keys(e.Parameters)) {
			parameters = append(parameters, name+"="+e.Parameters[name])
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Time.Format(time.RFC3339), who, e.Source, e.Action, result, oneLine(strings.Join(parameters, " ")))
	}
	return w.Flush()
}

// oneLine quotes control characters, so that a caller's text cannot look like a line of
// this output.
func oneLine(text string) string {
	quoted := fmt.Sprintf("%q", text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
