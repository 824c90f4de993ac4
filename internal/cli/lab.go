package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"palisade/internal/lab"
)

func newLabCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run a cluster in namespaces on this machine",
		Example: `  palisade lab up                             # as root
  eval "$(palisade lab env --account mary)"   # make aws and the ec2-* tools use it
  palisade lab exec laptop -- nmap -Pn 198.18.0.9
  palisade lab down`,
		RunE: helpOrUnknown,
	}
	name := new(string)
	labFlag(cmd.PersistentFlags(), name, "name", "the lab's `NAME`")
	cmd.AddCommand(newLabUp(name), newLabEnv(name), newLabStatus(name), newLabExec(name),
		newLabNode(name, "kill NODE", "Kill a node's daemon; its instances keep running", (*lab.Lab).KillNode),
		newLabNode(name, "start NODE", "Start a node's daemon again and wait until it is ready", (*lab.Lab).StartNode),
		newLabNode(name, "crash NODE", "Kill a node and its instances, like a power cut", (*lab.Lab).CrashNode),
		newLabPartition(name), newLabHeal(name), newLabDown(name), newLabDoor(name), newLabSupervise(name))
	return cmd
}

// openLab opens a lab, and starts its supervisor again if it has died. If that fails,
// openLab prints a warning and the command goes on.
func openLab(cmd *cobra.Command, name string) (*lab.Lab, error) {
	l, err := lab.Open(name)
	if err != nil {
		return nil, err
	}
	if err := l.Supervised(cmd.Context()); err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "palisade: lab %s has no supervisor, so daemons that die are not started again: %v\n", name, err)
	}
	return l, nil
}

func newLabUp(name *string) *cobra.Command {
	var o lab.Options
	var pools []string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a lab and wait until its API answers",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Name = *name
			for _, pool := range pools {
				prefix, err := netip.ParsePrefix(pool)
				if err != nil {
					return usageError{fmt.Errorf("--classic-pool: %w", err)}
				}
				o.ClassicPools = append(o.ClassicPools, prefix)
			}
			begin := time.Now()
			o.Progress = func(step string) {
				fmt.Fprintf(cmd.ErrOrStderr(), "%6.1f s  %s\n", time.Since(begin).Seconds(), step)
			}
			l, err := lab.Up(cmd.Context(), o)
			if err != nil {
				return err
			}
			suffix := ""
			if l.Name != cmd.Flag("name").DefValue {
				suffix = " --name " + l.Name
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Lab %s is up. Next: eval \"$(palisade lab env%s)\"\n", l.Name, suffix)
			return nil
		},
	}
	cmd.Flags().IntVar(&o.Nodes, "nodes", 3, "the number of nodes")
	cmd.Flags().IntVar(&o.Zones, "zones", 0, "the number of zones of us-east-1 that the nodes are labelled with, in turn, up to 6 (default: one for each node)")
	cmd.Flags().IntVar(&o.Port, "port", 8773, "the API's `PORT` on 127.0.0.1")
	cmd.Flags().DurationVar(&o.Quarantine, "quarantine", time.Minute, "how long a released address is not leased again")
	cmd.Flags().StringVar(&o.Limits, "limits", "", "the EC2 limits of a `TIME`: today (the default), vpc-2012 or classic-2012")
	cmd.Flags().StringVar(&o.Overlay, "overlay", "", "the `FORM` of the tunnels between nodes: sealed (the default), or vxlan, which any host on the underlay can read and forge")
	cmd.Flags().IntVar(&o.UnderlayMTU, "underlay-mtu", 0, "the MTU of the network between nodes, in `BYTES` (default 1594, or 1550 with vxlan: instances have 1500)")
	cmd.Flags().StringSliceVar(&pools, "classic-pool", nil, "lease EC2-Classic's private addresses from these `CIDR` blocks (default 10.10.0.0/16)")
	return cmd
}

func newLabEnv(name *string) *cobra.Command {
	var account string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the environment with which aws, the SDKs and the ec2-* tools use the lab",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := openLab(cmd, *name)
			if err != nil {
				return err
			}
			env, err := l.Env(account)
			if err == nil {
				fmt.Fprint(cmd.OutOrStdout(), env)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&account, "account", "dev", "whose keys to use: dev has a default VPC; albert and mary have EC2-Classic")
	return cmd
}

func newLabStatus(name *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the lab's nodes, their leader, cuts of the underlay, and the instances",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := openLab(cmd, *name)
			if err != nil {
				return err
			}
			status := l.Status(cmd.Context())
			if asJSON {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(status)
			}
			return printLabStatus(cmd.OutOrStdout(), status)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printLabStatus(out io.Writer, st lab.Status) error {
	fmt.Fprintf(out, "API at %s, enforced up to index %d\n", st.Endpoint, st.Enforced)
	leader := "No node leads, so nothing can be changed"
	if st.Leader != "" {
		leader = st.Leader + " leads"
	}
	fmt.Fprintln(out, leader)
	if st.Door.Restarts > 0 {
		fmt.Fprintf(out, "Front door restarts: %d\n", st.Door.Restarts)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tROLE\tPID\tRESTARTS\tUNDERLAY\tNAMESPACE\tCUT OFF")
	for _, n := range st.Nodes {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", n.Name, n.Role, n.PID, n.Restarts, n.Underlay, n.Namespace, n.Cut)
	}
	if len(st.Instances) > 0 {
		fmt.Fprintln(w, "\nINSTANCE\tNAME\tNODE\tSTATE\tPRIVATE\tPUBLIC\tNAMESPACE")
	}
	for _, i := range st.Instances {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", i.ID, i.Name, i.Node, i.State, i.PrivateAddress, i.PublicAddress, i.Namespace)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range st.Nodes {
		printTrouble(out, n.Name, n.Trouble)
		if n.Panics > 0 {
			fmt.Fprintf(out, "\n%s: its switch panicked %d times and continued; its log has the frame. Please report it\n", n.Name, n.Panics)
		}
		if len(n.Shut) > 0 {
			fmt.Fprintf(out, "%s: it drops all frames of %s, because they made its switch panic too often; stop and start the instance to open its port again\n", n.Name, strings.Join(n.Shut, ", "))
		}
	}
	printTrouble(out, "the front door", st.Door.Trouble)
	return nil
}

// printTrouble prints why a daemon does not stay up. Nil prints nothing.
func printTrouble(out io.Writer, name string, t *lab.Trouble) {
	if t == nil {
		return
	}
	fmt.Fprintf(out, "\n%s: %s", name, t.What)
	if t.End != "" {
		fmt.Fprintf(out, "; last exit: %s", t.End)
	}
	fmt.Fprintln(out)
	for _, line := range t.Log {
		fmt.Fprintf(out, "  %s\n", line)
	}
}

func newLabExec(name *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec WHO -- COMMAND...",
		Short: "Run a command in an instance (id or name), or on a node, laptop, stranger, internet",
		Args:  usageArgs(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			who, command := args[0], args[1:]
			if command[0] == "--" {
				command = command[1:]
			}
			return l.Exec(cmd.Context(), who, command)
		},
	}
	cmd.Flags().SetInterspersed(false) // flags after WHO belong to the command
	return cmd
}

// newLabNode returns a command that calls do with the lab and the node that the argument
// names.
func newLabNode(name *string, use, short string, do func(*lab.Lab, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			return do(l, cmd.Context(), args[0])
		},
	}
}

func newLabPartition(name *string) *cobra.Command {
	var cut lab.Cut
	cmd := &cobra.Command{
		Use:   "partition NODE...",
		Short: "Cut the named nodes off from all other nodes on the underlay",
		Example: `  palisade lab partition node3            # nodes 1 and 2 continue without it
  palisade lab partition node3 --gossip   # cut gossip only
  palisade lab heal`,
		Args: usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := openLab(cmd, *name)
			if err != nil {
				return err
			}
			cut.Nodes = args
			return l.Partition(cmd.Context(), cut)
		},
	}
	cmd.Flags().BoolVar(&cut.Gossip, "gossip", false, "cut only gossip, on port 7401")
	return cmd
}

func newLabHeal(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "heal",
		Short: "Undo every partition",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := openLab(cmd, *name)
			if err != nil {
				return err
			}
			return l.Heal(cmd.Context())
		},
	}
}

func newLabDown(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop the lab and remove all its processes, namespaces and files",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := lab.Down(cmd.Context(), *name); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Lab %s is down\n", *name)
			return nil
		},
	}
}

func newLabSupervise(name *string) *cobra.Command {
	return &cobra.Command{
		Use:    "supervise",
		Short:  "Start the lab's daemons again when they die (started by lab up)",
		Hidden: true,
		Args:   usageArgs(cobra.NoArgs),
		RunE:   func(cmd *cobra.Command, _ []string) error { return lab.Supervise(cmd.Context(), *name) },
	}
}

func newLabDoor(name *string) *cobra.Command {
	return &cobra.Command{
		Use:    "door",
		Short:  "Serve the lab's front door (started by lab up)",
		Hidden: true,
		Args:   usageArgs(cobra.NoArgs),
		RunE:   func(cmd *cobra.Command, _ []string) error { return lab.ServeDoor(cmd.Context(), *name) },
	}
}
