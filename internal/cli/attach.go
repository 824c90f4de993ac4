package cli

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"palisade/ec2"
	"palisade/internal/controlclient"
	"palisade/internal/node"
)

// What an interface is put in front of, as both commands name it.
type outsideFlags struct{ netns, tap, device string }

func (f *outsideFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.netns, "netns", "", "the network namespace `NAME`, as ip netns lists it")
	cmd.Flags().StringVar(&f.tap, "tap", "", "the TAP or veth `DEVICE` of the host, whose other side a machine holds")
	cmd.Flags().StringVar(&f.device, "device", "", "what the device is called in the namespace (default: the next free of eth0, eth1 ...)")
}

func (f *outsideFlags) check() error {
	switch {
	case (f.netns == "") == (f.tap == ""):
		return usageError{errors.New("say one of --netns NAME and --tap DEVICE")}
	case f.tap != "" && f.device != "":
		return usageError{errors.New("--device is for --netns; a TAP has its name")}
	}
	return nil
}

// target is the device's name, if one was given.
func (f *outsideFlags) target() string {
	if f.tap != "" {
		return f.tap
	}
	return f.device
}

func newAttachCommand() *cobra.Command {
	var choice nodeChoice
	var at outsideFlags
	var r node.AttachRequest
	var subnet, eni, address string
	var public bool
	cmd := &cobra.Command{
		Use:   "attach {--netns NAME | --tap DEVICE} {--subnet ID --group GROUP... | --interface ID}",
		Short: "Put what is on a node already behind an interface of a VPC",
		Long: `Make an interface in a subnet, in front of a network namespace or of a virtual machine that
is on the node already. What is behind it is then a member of the VPC as an instance is:
its groups decide what it may send and receive, and change while it runs.

A namespace gets a device with addresses and routes. A machine keeps its TAP (or a
container its veth), which is closed to the host, and must use the MAC, the address, the
gateway and the MTU that are printed. palisade detach undoes it.`,
		Example: `  palisade attach --netns cache --subnet subnet-0a1b2c3d --group web
  palisade attach --tap vm0 --subnet subnet-0a1b2c3d --group web --public --label db
  palisade detach --netns cache`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := at.check(); err != nil {
				return err
			}
			if (subnet == "") == (eni == "") {
				return usageError{errors.New("say one of --subnet ID and --interface ID")}
			}
			if address != "" {
				var err error
				if r.Address, err = netip.ParseAddr(address); err != nil {
					return usageError{fmt.Errorf("--address %s: %w", address, err)}
				}
			}
			if cmd.Flags().Changed("public") {
				r.Public = &public
			}
			r.Namespace, r.Device, r.Subnet, r.Interface = at.netns, at.target(), ec2.SubnetID(subnet), ec2.InterfaceID(eni)
			var s node.OutsideStatus
			err := choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Post(cmd.Context(), socket, "/v1/attach", r, &s)
			})
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), s)
			}
			printAttached(cmd.OutOrStdout(), s)
			return nil
		},
	}
	at.flags(cmd)
	cmd.Flags().StringVar(&subnet, "subnet", "", "the subnet `ID` that a new interface is in")
	cmd.Flags().StringSliceVar(&r.Groups, "group", nil, "a `GROUP` that it is a member of, by id or name (default: the VPC's group default)")
	cmd.Flags().StringVar(&address, "address", "", "its private `ADDRESS` (default: any that is free)")
	cmd.Flags().BoolVar(&public, "public", false, "give it a public address, or not with --public=false (default: as the subnet has it)")
	cmd.Flags().StringVar(&r.Label, "label", "", "its tag Name is `TEXT`")
	cmd.Flags().StringVar(&eni, "interface", "", "the interface `ID` to use, instead of a new one")
	choice.flags(cmd)
	return cmd
}

func printAttached(w io.Writer, s node.OutsideStatus) {
	what := "device " + s.Device
	if s.Namespace != "" {
		what = "namespace " + s.Namespace + ", " + what
	}
	fmt.Fprintf(w, "%s is in front of %s, on %s\n", s.Interface, what, s.Node)
	t := tabwriter.NewWriter(w, 0, 8, 1, ' ', 0)
	for _, a := range s.Addresses {
		fmt.Fprintf(t, "   address\t%s\n", a)
	}
	fmt.Fprintf(t, "   gateway\t%s\n   MAC\t%s\n   MTU\t%d\n", s.Gateway, s.MAC, s.MTU)
	if s.Public != "" {
		fmt.Fprintf(t, "   public\t%s\n", s.Public)
	}
	_ = t.Flush()
	if s.Namespace == "" {
		fmt.Fprintln(w, "The machine must use exactly these.")
	}
}

func newDetachCommand() *cobra.Command {
	var choice nodeChoice
	var at outsideFlags
	var r node.DetachRequest
	cmd := &cobra.Command{
		Use:     "detach {--netns NAME | --tap DEVICE | INTERFACE}",
		Short:   "Undo palisade attach",
		Example: "  palisade detach --tap vm0\n  palisade detach eni-0a1b2c3d4e5f60718",
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && at == outsideFlags{}:
				r.Interface = ec2.InterfaceID(args[0])
			case len(args) == 1:
				return usageError{errors.New("say one of --netns NAME, --tap DEVICE and an interface")}
			default:
				if err := at.check(); err != nil {
					return err
				}
				r.Namespace, r.Device = at.netns, at.target()
			}
			var s node.OutsideStatus
			err := choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Post(cmd.Context(), socket, "/v1/detach", r, &s)
			})
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), s)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is in front of nothing any more\n", s.Interface)
			return nil
		},
	}
	at.flags(cmd)
	cmd.Flags().BoolVar(&r.Force, "force", false, "do not wait long for a node that does not answer")
	choice.flags(cmd)
	return cmd
}
