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
	"palisade/internal/node/control"
)

// attachedFlags name the namespace or device that an interface is attached to.
type attachedFlags struct{ netns, tap, device string }

func (f *attachedFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.netns, "netns", "", "the network namespace `NAME`, as ip netns lists it")
	cmd.Flags().StringVar(&f.tap, "tap", "", "the TAP or veth `DEVICE` of the host that a machine or a container uses")
	cmd.Flags().StringVar(&f.device, "device", "", "the name of the new device in the namespace (default: the first unused of eth0, eth1 ...); needed for a second interface")
}

func (f *attachedFlags) check() error {
	switch {
	case (f.netns == "") == (f.tap == ""):
		return usageError{errors.New("exactly one of --netns NAME and --tap DEVICE is needed")}
	case f.tap != "" && f.device != "":
		return usageError{errors.New("--device is for --netns only; a TAP has a name already")}
	}
	return nil
}

// target returns the name of the TAP, or of the new device in the namespace; "" if --device is
// not given.
func (f *attachedFlags) target() string {
	if f.tap != "" {
		return f.tap
	}
	return f.device
}

const attachHelp = `Create an interface in a subnet, and attach it to a network namespace or to a virtual machine
that exists on the node. The namespace or machine is then a member of the VPC like an instance:
the interface's groups decide what it may send and receive, and can change while it runs.

A namespace gets a device, configured: with its default route or, if the namespace has one already, with routes
to the subnet and the VPC. Routes that the namespace has stay as they are. A machine keeps its TAP and a container its veth, which the
node moves into a namespace of its own once it is open, so that the host cannot use it. The machine
must use the MAC, address, gateway and MTU that are printed. palisade detach undoes it.

Ask a voter: its operator may attach at every node (--at). palisade detach can also be asked of the
node where the interface is attached.`

func newAttachCommand() *cobra.Command {
	var choice nodeChoice
	var at attachedFlags
	var r control.AttachRequest
	var subnet, eni, address string
	var public bool
	cmd := &cobra.Command{
		Use:   "attach {--netns NAME | --tap DEVICE} {--subnet ID --group GROUP... | --interface ID}",
		Short: "Attach a namespace or a virtual machine to a VPC",
		Long:  attachHelp,
		Example: `  palisade attach --netns cache --subnet subnet-0a1b2c3d --group web
  palisade attach --tap vm0 --subnet subnet-0a1b2c3d --group web --public --label db
  palisade detach --netns cache`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := at.check(); err != nil {
				return err
			}
			if (subnet == "") == (eni == "") {
				return usageError{errors.New("exactly one of --subnet ID and --interface ID is needed")}
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
			var s control.AttachmentStatus
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
	cmd.Flags().StringVar(&subnet, "subnet", "", "the subnet `ID` of the new interface")
	cmd.Flags().StringSliceVar(&r.Groups, "group", nil, "a `GROUP` of the new interface, by id or name (default: the group \"default\" of the VPC)")
	cmd.Flags().StringVar(&address, "address", "", "its private `ADDRESS` (default: an unused one)")
	cmd.Flags().BoolVar(&public, "public", false, "give it a public address; --public=false gives none (default: the subnet's setting)")
	cmd.Flags().StringVar(&r.Label, "label", "", "the `TEXT` of its tag Name")
	cmd.Flags().StringVar(&eni, "interface", "", "use the existing interface `ID`")
	cmd.Flags().StringVar((*string)(&r.Node), "at", "", "the `NODE` where the namespace or device is (default: the node that is asked, which must be a voter)")
	choice.flags(cmd)
	return cmd
}

func printAttached(w io.Writer, s control.AttachmentStatus) {
	what := "device " + s.Device
	if s.Namespace != "" {
		what = "namespace " + s.Namespace + ", " + what
	}
	fmt.Fprintf(w, "%s is attached to %s, on %s\n", s.Interface, what, s.Node)
	t := tabwriter.NewWriter(w, 0, 8, 1, ' ', 0)
	for _, a := range s.Addresses {
		fmt.Fprintf(t, "   address\t%s\n", a)
	}
	fmt.Fprintf(t, "   gateway\t%s\n   MAC\t%s\n   MTU\t%d\n", s.Gateway, s.MAC, s.MTU)
	if s.Public != "" {
		fmt.Fprintf(t, "   public\t%s\n", s.Public)
	}
	_ = t.Flush()
	for _, c := range s.Conflicts {
		fmt.Fprintf(w, "   %s\n", c)
	}
	if s.Namespace == "" {
		fmt.Fprintln(w, "The machine must use exactly these values.")
		if s.HeldIn != "" {
			fmt.Fprintf(w, "Until it is detached, %s is in network namespace %s: ip -n %s link\n", s.Device, s.HeldIn, s.HeldIn)
		} else {
			fmt.Fprintf(w, "Nothing has %s open. The node takes it from the host when a machine opens it.\n", s.Device)
		}
	}
}

func newDetachCommand() *cobra.Command {
	var choice nodeChoice
	var at attachedFlags
	var r control.DetachRequest
	cmd := &cobra.Command{
		Use:     "detach {--netns NAME | --tap DEVICE | INTERFACE}",
		Short:   "Undo palisade attach",
		Example: "  palisade detach --tap vm0\n  palisade detach eni-0a1b2c3d4e5f60718",
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && at == attachedFlags{}:
				r.Interface = ec2.InterfaceID(args[0])
			case len(args) == 1:
				return usageError{errors.New("exactly one of --netns NAME, --tap DEVICE and an interface id is needed")}
			default:
				if err := at.check(); err != nil {
					return err
				}
				r.Namespace, r.Device = at.netns, at.target()
			}
			var s control.AttachmentStatus
			err := choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Post(cmd.Context(), socket, "/v1/detach", r, &s)
			})
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), s)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is detached\n", s.Interface)
			return nil
		},
	}
	at.flags(cmd)
	cmd.Flags().BoolVar(&r.Force, "force", false, "detach even if the node does not confirm it")
	choice.flags(cmd)
	return cmd
}
