package cli

import (
	"cmp"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/internal/controlclient"
	"palisade/internal/node/control"
)

// newVPCCommand returns `palisade vpc`, with which an operator decides how long connections of a
// network outlive their rules.
func newVPCCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vpc",
		Short: "Show the VPCs, and choose whether connections outlive their rules",
		Example: `  palisade vpc list
  palisade vpc set vpc-0c1d2e3f4a5b6c7d8 --tracking strict
  palisade vpc set classic --tracking aws`,
		RunE: helpOrUnknown,
	}
	cmd.AddCommand(newVPCList(), newVPCSet())
	return cmd
}

func newVPCList() *cobra.Command {
	var choice nodeChoice
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the VPCs of all accounts, and EC2-Classic",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []control.VPCStatus
			err := choice.ask(cmd.Context(), func(socket string) error { return controlclient.Get(cmd.Context(), socket, "/v1/vpcs", &all) })
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "VPC\tREGION\tACCOUNT\tCIDR\tTRACKING\tINTERFACES")
			for _, v := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", v.VPC, v.Region, cmp.Or(v.Name, string(v.Account), "-"), v.CIDR, v.Tracking, v.Interfaces)
			}
			return w.Flush()
		},
	}
	choice.flags(cmd)
	return cmd
}

func newVPCSet() *cobra.Command {
	var choice nodeChoice
	var tracking, region string
	cmd := &cobra.Command{
		Use:   "set VPC --tracking strict|aws",
		Short: "Choose whether tracked connections of a VPC end with their rule",
		Long: `Choose what happens to a tracked connection when no rule admits it any more.

aws     it goes on until it ends or nothing has used it for its timeout, as AWS documents. This is
        the mode of every new VPC.
strict  its next packet is dropped, in either direction, and all packets after that. A rule that
        was revoked, or an interface that left a group, before the change counts too.

VPC is the id of a VPC, or classic for EC2-Classic: that of the region that the cluster began with, or
of --region. The command returns when all nodes enforce the
mode. What strict has cut does not come back with aws.`,
		Example: "  palisade vpc set vpc-0c1d2e3f4a5b6c7d8 --tracking strict",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if tracking == "" {
				return usageError{errors.New("vpc set needs --tracking strict or --tracking aws")}
			}
			if _, err := ec2.ParseTrackingMode(tracking); err != nil {
				return usageError{fmt.Errorf("--tracking: %w", err)}
			}
			if region != "" && args[0] != control.ClassicName {
				return usageError{errors.New("--region is for classic: the id of a VPC is unique in all regions")}
			}
			var change control.TrackingChange
			err := choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Post(cmd.Context(), socket, "/v1/vpcs/tracking", control.TrackingRequest{VPC: args[0], Tracking: tracking, Region: ec2.Region(region)}, &change)
			})
			if err != nil {
				return err
			}
			if choice.json {
				if err := printJSON(cmd.OutOrStdout(), change); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(cmd.OutOrStdout(), "%s has tracking mode %s, at index %d\n", change.VPC, change.Tracking, change.Index)
			}
			return unreachedError(change.Unreached, "it enforces the mode when it reaches the others")
		},
	}
	choice.flags(cmd)
	cmd.Flags().StringVar(&tracking, "tracking", "", "the `MODE`: strict or aws")
	cmd.Flags().StringVar(&region, "region", "", "the `REGION` of classic (default: the region that the cluster began with)")
	return cmd
}

// unreachedError returns an error that names the nodes that did not confirm an operator's decision,
// and says what follows; nil if all have.
func unreachedError(nodes []cluster.Pending, follows string) error {
	var all []error
	for _, n := range nodes {
		all = append(all, fmt.Errorf("%s %s: %s", n.Node, n.Why, follows))
	}
	return errors.Join(all...)
}
