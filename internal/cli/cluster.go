package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"palisade/ec2"
	"palisade/internal/controlclient"
	"palisade/internal/lab"
	"palisade/internal/node"
	"palisade/internal/node/control"
)

// newClusterCommand returns `palisade cluster`, with which an operator starts a cluster and
// manages its members and backups.
func newClusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Start a cluster, manage its members and regions, save and restore it",
		Example: `  palisade cluster init --config node1.toml      # then: palisade node --config node1.toml
  palisade cluster token --config node1.toml     # for palisade node --join ... --token ...
  palisade cluster status                        # of the lab, or --config FILE
  palisade cluster fence node3                   # it is dead; do not let it come back
  palisade cluster rotate gossip                 # replace a key under traffic
  palisade cluster set --region eu-west-1        # serve another region`,
		RunE: helpOrUnknown,
	}
	cmd.AddCommand(newClusterInit(), newClusterToken(), newClusterStatus(), newClusterFence(), newClusterRemove(), newClusterRotate(),
		newClusterRegions(), newClusterSet(), newClusterSnapshot())
	return cmd
}

// A nodeChoice selects the node that an operator's command asks.
type nodeChoice struct {
	config string // of a node on this machine
	lab    string
	node   string // of the lab; "": the first that answers
	json   bool
}

func (c *nodeChoice) flags(cmd *cobra.Command) {
	c.nodeFlags(cmd)
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON")
}

// nodeFlags adds the flags that choose a node.
func (c *nodeChoice) nodeFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.config, "config", "", "ask the node with this configuration `FILE`")
	labFlag(cmd.Flags(), &c.lab, "name", "ask a node of the lab `NAME`")
	cmd.Flags().StringVar(&c.node, "node", "", "ask this `NODE` of the lab (default: the first that answers)")
}

// ask passes the control socket of the chosen node to call. If only a lab is chosen, ask tries
// the sockets of its nodes in turn until one answers. It returns the last call's error.
func (c *nodeChoice) ask(ctx context.Context, call func(socket string) error) error {
	if c.config != "" {
		config, err := node.ReadConfig(c.config)
		if err != nil {
			return err
		}
		return answered(config.ControlSocket, call(config.ControlSocket))
	}
	l, err := lab.Open(c.lab)
	if err != nil {
		return err
	}
	names := l.Nodes
	if c.node != "" {
		names = []string{c.node}
	}
	for _, name := range names {
		err = call(l.Control(name))
		if !isDown(err) {
			return err
		}
		err = answered(l.Control(name), err)
	}
	return err
}

func newClusterInit() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Create the certificate authority of a new cluster, with this node as its first member",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return usageError{errors.New("cluster init needs --config FILE")}
			}
			config, err := node.ReadConfig(path)
			if err != nil {
				return err
			}
			identity, err := node.InitCluster(config)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Cluster %s has its certificate authority; %s is its first node.\nNext: palisade node --config %s\n",
				identity.Cluster(), config.Name, path)
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "the node's configuration `FILE`")
	return cmd
}

func newClusterToken() *cobra.Command {
	var choice nodeChoice
	var role string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print a token that lets one node join, once",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if role != string(ec2.Voter) && role != string(ec2.NonVoter) {
				return usageError{fmt.Errorf("--role %s: must be %s or %s", role, ec2.Voter, ec2.NonVoter)}
			}
			var made struct {
				Token string `json:"token"`
			}
			err := choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Post(cmd.Context(), socket, "/v1/cluster/token", control.TokenRequest{Role: ec2.NodeRole(role), TTL: ttl}, &made)
			})
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), made)
			}
			fmt.Fprintln(cmd.OutOrStdout(), made.Token)
			return nil
		},
	}
	choice.flags(cmd)
	cmd.Flags().StringVar(&role, "role", string(ec2.Voter), "the `ROLE`: voter (3 or 5 in a cluster) or nonvoter")
	cmd.Flags().DurationVar(&ttl, "ttl", 10*time.Minute, "how long the token is valid")
	return cmd
}

func newClusterStatus() *cobra.Command {
	var choice nodeChoice
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the nodes, the leader, and whether every node enforces the newest rules",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s control.ClusterStatus
			err := choice.ask(cmd.Context(), func(socket string) error { return controlclient.Get(cmd.Context(), socket, "/v1/cluster", &s) })
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), s)
			}
			return printClusterStatus(cmd.OutOrStdout(), s)
		},
	}
	choice.flags(cmd)
	return cmd
}

func printClusterStatus(out io.Writer, s control.ClusterStatus) error {
	switch {
	case s.Leader == "":
		fmt.Fprintf(out, "%s knows no leader: nothing can be changed, and the current rules stay enforced. Newest state: index %d\n", s.Node, s.Index)
	case s.Enforced:
		fmt.Fprintf(out, "%s leads; index %d is enforced everywhere\n", s.Leader, s.Index)
	default:
		fmt.Fprintf(out, "%s leads; index %d is not enforced everywhere yet\n", s.Leader, s.Index)
	}
	fmt.Fprintf(out, "as %s sees it:\n\n", s.Node)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tZONE\tROLE\tSTATE\tADDRESS\tGOSSIP\tTUNNEL\tINSTANCES\tENFORCED")
	for _, n := range s.Nodes {
		role := string(n.Role)
		if n.Name == s.Leader {
			role += ", leads"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", n.Name, n.Zone, role, n.State, n.Address, n.Gossip, n.Tunnel, n.Instances, n.Enforced)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range s.Rotations {
		fmt.Fprintf(out, "\nbeing replaced, because %s:\n  %s\n", r.Cause, describeRotation(r))
	}
	if len(s.Exposed) > 0 {
		fmt.Fprintf(out, "\nreplace these access keys, whose secrets a fenced or removed voter could read: %s\n", strings.Join(s.Exposed, " "))
	}
	if len(s.Refused) > 0 {
		fmt.Fprintf(out, "\ncalls of other nodes that %s refused since it started; a node that goes on with them is wrongly configured or taken over, and can be fenced:\n", s.Node)
		for _, r := range s.Refused {
			fmt.Fprintf(out, "  %s: %s, %d times\n", r.Node, r.Call, r.Count)
		}
	}
	return nil
}

func newClusterFence() *cobra.Command {
	var yes bool
	return newExpulsion(expulsion{
		use: "fence NODE", path: "/v1/cluster/fence", yes: &yes,
		short: "Exclude a dead node: its addresses are released, its instances stopped",
		plan: `Fence %[1]s only if it is dead or cut off for good. At once, for all other nodes:
  - its addresses leave every group and are released
  - its instances (%[2]d) are stopped; they can be started on other nodes, with new addresses
  - no node communicates with it any more; the keys that it had are replaced
  - if it is a voter, it could read the secrets of access keys: the answer lists those to replace
  - no change waits for it: --wait=enforced counts it as excluded
A node that is alive but cut off enforces its last rules until it reaches the others again, and then stops:
turn it off first if you can. To join again it needs a new token and an empty data directory.`,
		done: "%[1]s is fenced, at index %[2]d. Stopped instances: %[3]s",
	})
}

func newClusterRemove() *cobra.Command {
	var yes bool
	return newExpulsion(expulsion{
		use: "remove NODE", path: "/v1/cluster/remove", yes: &yes,
		short: "Remove a node without instances from the cluster for good",
		plan: `Removing %[1]s deletes it from the list of nodes. It must run no instance, or be fenced. It runs %[2]d now.
  - it has no vote, and no node communicates with it any more; the keys that it had are replaced
  - if it is a voter, it could read the secrets of access keys: the answer lists those to replace
  - another node may use its name
To join again it needs a new token and an empty data directory.`,
		done: "%[1]s is removed, at index %[2]d. Stopped instances: %[3]s",
	})
}

// An expulsion describes a command that ends a node's membership. Without --yes the command
// only prints plan; with --yes it ends the membership and prints done.
type expulsion struct {
	use, path, short, plan, done string
	yes                          *bool
}

func newExpulsion(e expulsion) *cobra.Command {
	var choice nodeChoice
	cmd := &cobra.Command{
		Use:   e.use,
		Short: e.short,
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ec2.NodeID(args[0])
			var s control.ClusterStatus
			err := choice.ask(cmd.Context(), func(socket string) error { return controlclient.Get(cmd.Context(), socket, "/v1/cluster", &s) })
			if err != nil {
				return err
			}
			member, err := findMember(s, name)
			if err != nil {
				return err
			}
			if !*e.yes {
				fmt.Fprintf(cmd.OutOrStdout(), e.plan+"\n\nTo do it, repeat the command with --yes.\n", name, member.Instances)
				return exitError(1)
			}
			var change control.NodeChange
			err = choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Post(cmd.Context(), socket, e.path, control.NodeRequest{Node: name}, &change)
			})
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), change)
			}
			list := "none"
			if len(change.Instances) > 0 {
				list = strings.Trim(fmt.Sprint(change.Instances), "[]")
			}
			fmt.Fprintf(cmd.OutOrStdout(), e.done+"\n", name, change.Index, list)
			if len(change.Exposed) > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "It was a voter, so it could read the secrets of these access keys. Replace them: %s\n", strings.Join(change.Exposed, " "))
			}
			return nil
		},
	}
	choice.flags(cmd)
	cmd.Flags().BoolVar(e.yes, "yes", false, "do it; without --yes, only show what would be done")
	return cmd
}

func findMember(s control.ClusterStatus, name ec2.NodeID) (control.MemberStatus, error) {
	var names []string
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, nil
		}
		names = append(names, string(n.Name))
	}
	return control.MemberStatus{}, fmt.Errorf("the cluster has no node %s; it has %s", name, strings.Join(names, ", "))
}

// answered returns err, or downError(socket) if err means that the node is down.
func answered(socket string, err error) error {
	if !isDown(err) {
		return err
	}
	return downError(socket)
}
