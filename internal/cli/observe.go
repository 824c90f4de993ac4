package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"palisade/internal/controlclient"
	"palisade/internal/lab"
	"palisade/internal/node/control"
)

// An observer selects the nodes that a read-only command such as `palisade drops` asks.
type observer struct {
	name   string // of the lab; all its nodes are asked
	socket string // the control socket of one node; replaces name
	json   bool
}

func (o *observer) flags(cmd *cobra.Command) {
	labFlag(cmd.Flags(), &o.name, "name", "ask the nodes of the lab `NAME`")
	cmd.Flags().StringVar(&o.socket, "socket", "", "ask only the node whose control socket is `PATH`")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
}

func (o *observer) sockets() ([]string, error) {
	if o.socket != "" {
		return []string{o.socket}, nil
	}
	l, err := lab.Open(o.name)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, n := range l.Nodes {
		all = append(all, l.Control(n))
	}
	return all, nil
}

// gather gets a list from every node and returns their items. It prints the nodes that are
// down on standard error, and returns an error if all nodes are down.
func gather[T any](ctx context.Context, o *observer, path string) ([]T, error) {
	sockets, err := o.sockets()
	if err != nil {
		return nil, err
	}
	all := []T{}
	var down []error
	for _, s := range sockets {
		var answer []T
		switch err := controlclient.Get(ctx, s, path, &answer); {
		case isDown(err):
			down = append(down, downError(s))
		case err != nil:
			return nil, err
		}
		all = append(all, answer...)
	}
	if len(down) == len(sockets) {
		return nil, errors.Join(down...)
	}
	for _, err := range down {
		fmt.Fprintf(os.Stderr, "palisade: %v\n", err)
	}
	return all, nil
}

// askAny decodes the answer of the first node that is up into a value.
func askAny(ctx context.Context, o *observer, path string, into any) error {
	sockets, err := o.sockets()
	if err != nil {
		return err
	}
	for _, s := range sockets {
		if err = controlclient.Get(ctx, s, path, into); !isDown(err) {
			return err
		}
		err = downError(s)
	}
	return err
}

// isDown reports whether a call failed because no daemon serves the control socket.
func isDown(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

func downError(socket string) error {
	node := strings.TrimSuffix(filepath.Base(socket), ".sock")
	return fmt.Errorf("%s does not answer: its daemon is down, and its instances run without a network. In a lab: palisade lab start %s", node, node)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func newDropsCommand() *cobra.Command {
	var o observer
	var all bool
	cmd := &cobra.Command{
		Use:     "drops",
		Short:   "Count dropped frames by port and reason",
		Example: "  palisade drops\n  palisade drops --all --json",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ports, err := gather[control.PortDrops](cmd.Context(), &o, "/v1/drops")
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), ports)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "NODE\tPORT\tVERDICT\tPACKETS\tMEANING\tADDRESS")
			for _, p := range ports {
				address := addressText(p.Of)
				if p.QueueDrops > 0 {
					fmt.Fprintf(w, "%s\t%s\tqueue-full\t%d\tthe kernel dropped it before the switch could read it\t%s\n", p.Node, p.Port, p.QueueDrops, address)
				}
				for _, v := range p.Verdicts {
					if v.Drops || all {
						fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", p.Node, p.Port, v.Verdict, v.Packets, v.Meaning, address)
					}
				}
				for _, d := range p.ACLs {
					fmt.Fprintf(w, "%s\t%s\t- of these\t%d\tby the %s entry %s of %s\t%s\n", p.Node, p.Port, d.Packets, d.Direction, d.Entry, d.ACL, address)
				}
			}
			return w.Flush()
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "also count the frames that were delivered or answered")
	return cmd
}

// addressText returns the address of a port's interface with its network, account and name.
func addressText(of *control.Whose) string {
	if of == nil {
		return "-"
	}
	text := fmt.Sprintf("%s in %s, %s, account %s", of.Address, of.VPC, of.Region, cmp.Or(of.AccountName, string(of.Account)))
	if of.Name != "" {
		text += fmt.Sprintf(" (%s)", of.Name)
	}
	return text
}

func newFlowsCommand() *cobra.Command {
	var o observer
	var allowance bool
	cmd := &cobra.Command{
		Use:     "flows",
		Short:   "List the tracked connections, and the rule that admitted each",
		Example: "  palisade flows\n  palisade flows --json\n  palisade flows --allowance",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if allowance {
				return printAllowances(cmd, &o)
			}
			flows, err := gather[control.FlowStatus](cmd.Context(), &o, "/v1/flows")
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), flows)
			}
			return printFlows(cmd.OutOrStdout(), flows)
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&allowance, "allowance", false, "show how many connections each interface can still open")
	return cmd
}

func printAllowances(cmd *cobra.Command, o *observer) error {
	all, err := gather[control.AllowanceStatus](cmd.Context(), o, "/v1/allowances")
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(cmd.OutOrStdout(), all)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tINSTANCE\tINTERFACE\tCONNTRACK_ALLOWANCE_AVAILABLE\tCONNTRACK_ALLOWANCE_EXCEEDED")
	for _, a := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", a.Node, cmp.Or(string(a.Instance), "-"), a.Interface, a.Available, a.Exceeded)
	}
	return w.Flush()
}

func printFlows(out io.Writer, flows []control.FlowStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "INSTANCE\tWAY\tPROTOCOL\tFROM\tTO\tSTATE\tRULE\tIDLE OUT IN\tPACKETS\tACL OUT\tACL IN")
	for _, f := range flows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d/%d\t%s\t%s\n",
			cmp.Or(string(f.Instance), string(f.Interface)), f.Direction, f.Protocol, endpointText(f.Source, f.SourcePort, f.Protocol),
			endpointText(f.Destination, f.DestPort, f.Protocol), flowState(f),
			strings.TrimSpace(f.Rule+" "+f.Group), (time.Duration(f.Expires) * time.Second).String(), f.Packets[0], f.Packets[1], cmp.Or(f.ACLOut, "-"), cmp.Or(f.ACLIn, "-"))
	}
	return w.Flush()
}

func endpointText(address string, port uint16, protocol string) string {
	if protocol != "tcp" && protocol != "udp" {
		return address
	}
	return fmt.Sprintf("%s:%d", address, port)
}

func flowState(f control.FlowStatus) string {
	switch {
	case f.Cut:
		return "cut by operator"
	case f.Blocked:
		return "cut"
	case !f.Tracked:
		return f.State + ", untracked"
	}
	return f.State
}

// labHosts are the addresses of the lab's hosts that are not instances.
var labHosts = map[string]string{"laptop": lab.LaptopAddress, "stranger": lab.StrangerAddress}

func newTraceCommand() *cobra.Command {
	var o observer
	var from, to string
	cmd := &cobra.Command{
		Use:   "trace --from A --to B PACKET",
		Short: "Predict whether a packet is delivered or dropped, and by which rule",
		Long: `Look one packet up in the live rules and connections, without sending it, and print each
decision: the rule that admits it, or why no rule does and which rule would.

A and B are ids or names of instances or interfaces, IPv4 addresses, or, in a lab, the hosts
laptop and stranger. From such a host an instance is reached by its public address. A private
address that exists in several VPCs is the one in the VPC of the other end; where that leaves
several, the interfaces are listed. PACKET is tcp/22, udp/53, icmp or icmp/8:0 (type and code);
tcp/40000>22 has a source port as well.

The exit status is 1 if the packet would be dropped.`,
		Example: "  palisade trace --from laptop --to i-cfd732a6 tcp/22\n  palisade trace --from 10.10.0.4 --to 10.10.0.5 'udp/4000>53' --json",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if from == "" || to == "" {
				return usageError{fmt.Errorf("trace needs --from A and --to B")}
			}
			query := url.Values{"from": {cmp.Or(labHosts[from], from)}, "to": {cmp.Or(labHosts[to], to)}, "packet": {args[0]}}
			var t control.Trace
			if err := askAny(cmd.Context(), &o, "/v1/trace?"+query.Encode(), &t); err != nil {
				return err
			}
			if !o.json {
				printTrace(cmd.OutOrStdout(), from, to, t)
			} else if err := printJSON(cmd.OutOrStdout(), t); err != nil {
				return err
			}
			if !t.Admitted {
				return exitError(1)
			}
			return nil
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&from, "from", "", "the sender `A`")
	cmd.Flags().StringVar(&to, "to", "", "the receiver `B`")
	return cmd
}

func printTrace(w io.Writer, from, to string, t control.Trace) {
	fmt.Fprintf(w, "%s from %s to %s\n", t.Packet, from, to)
	for i, s := range t.Steps {
		fmt.Fprintf(w, "%d. %s of %s, on %s: %s\n", i+1, s.Direction, cmp.Or(string(s.Instance), string(s.Interface)), s.Node, s.Flow)
		if s.ACL != "" {
			fmt.Fprintf(w, "   network ACL %s: entry %s\n", s.ACL, s.ACLEntry)
		}
		fmt.Fprintf(w, "   connection: %s\n", s.Connection)
		switch {
		case s.Rule == "classic-egress":
			fmt.Fprintln(w, "   admitted: EC2-Classic lets everything out")
		case s.Rule != "":
			fmt.Fprintf(w, "   admitted: rule %s of group %s (%s)\n", s.Rule, s.Group, s.RuleText)
		}
		for _, r := range s.Refusals {
			fmt.Fprintf(w, "   not admitted by %s\n", r)
		}
	}
	if t.Route != "" {
		fmt.Fprintf(w, "   route: %s\n", t.Route)
	}
	if t.Admitted {
		fmt.Fprintf(w, "=> delivered to %s on %s\n", t.At, t.Node)
		return
	}
	fmt.Fprintf(w, "=> dropped at %s on %s: %s, %s\n", t.At, t.Node, t.Verdict, t.Meaning)
	if t.Reason != "" {
		fmt.Fprintf(w, "   %s\n", t.Reason)
	}
	if t.Admit != "" {
		fmt.Fprintf(w, "   to admit it: %s\n", t.Admit)
	}
}
