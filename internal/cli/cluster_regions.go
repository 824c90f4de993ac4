package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"palisade/ec2"
	"palisade/internal/controlclient"
	"palisade/internal/node/control"
)

const regionsPath = "/v1/cluster/regions"

// newClusterRegions returns `palisade cluster regions`.
func newClusterRegions() *cobra.Command {
	var choice nodeChoice
	cmd := &cobra.Command{
		Use:   "regions",
		Short: "Show the regions and zones, and which nodes carry them",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []control.RegionStatus
			err := choice.ask(cmd.Context(), func(socket string) error { return controlclient.Get(cmd.Context(), socket, regionsPath, &all) })
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			return printRegions(cmd.OutOrStdout(), all)
		},
	}
	choice.flags(cmd)
	return cmd
}

func printRegions(out io.Writer, all []control.RegionStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "REGION\tZONE\tID\tNODES\tZONES FROM\tACCOUNTS")
	for _, r := range all {
		for _, z := range r.Zones {
			nodes := cmp.Or(strings.Trim(fmt.Sprint(z.Nodes), "[]"), "none")
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", r.Region, z.Zone, z.ID, nodes, r.Source, r.Accounts)
		}
	}
	return w.Flush()
}

// regionFlags are the flags of `palisade cluster set`.
type regionFlags struct {
	regions        string
	region, remove string
	zones, nodes   []string
	zone           []string // "a=node1,node2"
}

// newClusterSet returns `palisade cluster set`.
func newClusterSet() *cobra.Command {
	var choice nodeChoice
	var f regionFlags
	cmd := &cobra.Command{
		Use:   "set --region REGION | --regions all|chosen | --remove-region REGION",
		Short: "Choose the regions and zones, and which nodes carry them",
		Long: `Choose which regions the cluster serves, which availability zones each has, and on which nodes the
instances of a zone run. It holds at once, for all nodes, and is in the audit trail.

--region REGION      serve this region, or change it. Without --zones it has the zones that AWS has.
                     Without --nodes all nodes carry them: with as many nodes as zones or more,
                     each node carries one zone; with fewer, a node carries several.
--regions all        serve every region of AWS, each with AWS's zones.
--regions chosen     serve only the region that the cluster began with, and those of --region.
--remove-region R    forget what --region has set for R.

A region or a zone that users have anything in cannot go; the error names what is there. The zones of
a region that was never set are the zones of its nodes.`,
		Example: `  palisade cluster set --region eu-west-1
  palisade cluster set --region eu-west-1 --zones a,b,c --nodes node1,node2
  palisade cluster set --region eu-west-1 --zone a=node1,node2 --zone b=node3
  palisade cluster set --regions all
  palisade cluster set --remove-region eu-west-1`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			request, err := f.request()
			if err != nil {
				return usageError{err}
			}
			var change control.RegionsChange
			err = choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Post(cmd.Context(), socket, regionsPath, request, &change)
			})
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), change)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, at index %d\n", f.done(), change.Index)
			for _, r := range change.Regions {
				if r.Region == request.Region {
					return printRegions(cmd.OutOrStdout(), []control.RegionStatus{r})
				}
			}
			return nil
		},
	}
	choice.flags(cmd)
	cmd.Flags().StringVar(&f.regions, "regions", "", "`WHICH` regions are served: all of AWS, or chosen ones")
	cmd.Flags().StringVar(&f.region, "region", "", "serve this `REGION`, or change its zones")
	cmd.Flags().StringSliceVar(&f.zones, "zones", nil, "the `LETTERS` of the region's zones, such as a,b,c (default: those that AWS has)")
	cmd.Flags().StringSliceVar(&f.nodes, "nodes", nil, "the `NODES` that carry the zones, in turn (default: all)")
	cmd.Flags().StringArrayVar(&f.zone, "zone", nil, "a zone and the nodes that carry it, such as `a=node1,node2`; once for each zone")
	cmd.Flags().StringVar(&f.remove, "remove-region", "", "forget what is set for this `REGION`")
	return cmd
}

// request returns the request that the flags ask for, or an error that says which flags go together.
func (f *regionFlags) request() (r control.RegionsRequest, err error) {
	given := 0
	for _, flag := range []string{f.regions, f.region, f.remove} {
		if flag != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return r, errors.New("cluster set needs one of --region REGION, --regions all|chosen and --remove-region REGION")
	case f.region == "" && len(f.zones)+len(f.nodes)+len(f.zone) > 0:
		return r, errors.New("--zones, --zone and --nodes are for a region that --region names")
	case len(f.zones) > 0 && len(f.zone) > 0:
		return r, errors.New("the zones are named by --zones or by --zone, not by both")
	case f.regions != "" && f.regions != "all" && f.regions != "chosen":
		return r, fmt.Errorf("--regions %s: must be all or chosen; --region adds one", f.regions)
	case f.regions != "":
		r.Every = new(f.regions == "all")
	}
	r.Region, r.Remove, r.Nodes = ec2.Region(f.region), ec2.Region(f.remove), nodeIDs(f.nodes)
	for _, z := range f.zones {
		r.Zones = append(r.Zones, control.ZoneRequest{Zone: z})
	}
	for _, z := range f.zone {
		name, nodes, ok := strings.Cut(z, "=")
		if !ok || name == "" || nodes == "" {
			return r, fmt.Errorf("--zone %s: must be a zone and its nodes, such as a=node1,node2", z)
		}
		r.Zones = append(r.Zones, control.ZoneRequest{Zone: name, Nodes: nodeIDs(strings.Split(nodes, ","))})
	}
	return r, nil
}

func nodeIDs(names []string) (ids []ec2.NodeID) {
	for _, n := range names {
		ids = append(ids, ec2.NodeID(n))
	}
	return ids
}

// done says what the flags have done.
func (f *regionFlags) done() string {
	switch {
	case f.remove != "":
		return "what was set for " + f.remove + " is forgotten"
	case f.regions == "all":
		return "every region of AWS is served"
	case f.regions != "":
		return "only chosen regions are served"
	}
	return f.region + " is served"
}
