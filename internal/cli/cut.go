package cli

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"palisade/ec2"
	"palisade/internal/controlclient"
	"palisade/internal/node/control"
)

func newCutCommand() *cobra.Command {
	var choice nodeChoice
	var r control.CutRequest
	var rule string
	var yes bool
	cmd := &cobra.Command{
		Use:   "cut --rule RULE | --from A --to B",
		Short: "List connections by their rule or their ends, and end them on every node",
		Long: `List the connections of all nodes that RULE admitted, or that join A and B, whichever of the
two opened them. With --yes, end them: from then on every packet of them is dropped in both
directions, even if the rules admit it, until none has come for 180 seconds. A new TCP
connection on the same ports, if the rules admit it, is no part of the old one.

Revoke the rule first, so that the connections are not opened again. RULE may be revoked
already. A and B are ids of instances, interfaces or groups, names of groups, IPv4 addresses or
ranges, or, in a lab, the hosts laptop and stranger.

A connection that is admitted from everywhere is listed from its first answer on, and its first
packets alone are not cut: the rules judge them.`,
		Example: `  palisade cut --rule sgr-0c07cc2951cd3dc52
  palisade cut --from laptop --to i-80d1156e --yes`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (rule == "") == (r.From == "" && r.To == "") || (r.From == "") != (r.To == "") {
				return usageError{errors.New("cut needs --rule RULE, or --from A and --to B")}
			}
			r.Rule, r.From, r.To = ec2.RuleID(rule), cmp.Or(labHosts[r.From], r.From), cmp.Or(labHosts[r.To], r.To)
			var status control.CutStatus
			err := choice.ask(cmd.Context(), func(socket string) error {
				if yes {
					return controlclient.Post(cmd.Context(), socket, "/v1/cut", r, &status)
				}
				query := url.Values{"rule": {rule}, "from": {r.From}, "to": {r.To}}
				return controlclient.Get(cmd.Context(), socket, "/v1/cut?"+query.Encode(), &status)
			})
			if err != nil {
				return err
			}
			return printCut(cmd, choice.json, yes, status)
		},
	}
	choice.flags(cmd)
	cmd.Flags().StringVar(&rule, "rule", "", "the `RULE` that admitted the connections")
	cmd.Flags().StringVar(&r.From, "from", "", "one end, `A`")
	cmd.Flags().StringVar(&r.To, "to", "", "the other end, `B`")
	cmd.Flags().BoolVar(&yes, "yes", false, "end them; without --yes, only list them")
	return cmd
}

func printCut(cmd *cobra.Command, asJSON, ended bool, s control.CutStatus) error {
	out := cmd.OutOrStdout()
	if asJSON {
		if err := printJSON(out, s); err != nil {
			return err
		}
	} else {
		if len(s.Connections) > 0 {
			if err := printFlows(out, s.Connections); err != nil {
				return err
			}
		}
		if hidden := s.Total - len(s.Connections); hidden > 0 {
			fmt.Fprintf(out, "and %d more\n", hidden)
		}
		switch {
		case ended:
			fmt.Fprintf(out, "%d connections are cut, at index %d; one between two instances counts at both\n", s.Total, s.Index)
		case s.Total == 0:
			fmt.Fprintln(out, "no connection")
		default:
			fmt.Fprintf(out, "%d connections; one between two instances counts at both. To end them, repeat the command with --yes.\n", s.Total)
		}
	}
	if ended {
		return unreachedError(s.Unreached, "it cuts its connections when it reaches the others")
	}
	return unreachedError(s.Unreached, "its connections are not listed")
}
