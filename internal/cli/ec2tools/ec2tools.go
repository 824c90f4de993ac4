// Package ec2tools is the EC2 command line tools: ec2-describe-group, ec2-authorize,
// ec2-run-instances and their siblings, as the EC2 guides use them.
//
// A tool reads its options (options.go, rule.go), calls the Query API (client.go) and prints
// lines of tab-separated columns (format.go). Most tools for VPCs make one call and are
// declared as a singleCall or a listing (tool.go). Output and exit status are those of the
// tools in the guides of 2006 and 2012; the environment variable EC2_TOOLS chooses the year,
// 2012 by default. Where the old tools guessed, and a wrong guess would open a port to
// everybody, the tools here refuse the command line.
package ec2tools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"

	"github.com/spf13/pflag"
)

// A tool is one command. Its flags function declares the options and returns the action to
// run after they are parsed.
type tool struct {
	synopsis []string // the arguments, one line for each way to call it
	summary  string
	example  string
	changes  bool // the tool changes something, so it has --wait
	flags    func(*pflag.FlagSet) action
}

// An action runs a tool with the arguments that are not options.
type action func(ctx context.Context, s *invocation, args []string) error

// tools has every command by its name.
var tools = map[string]tool{
	"ec2-describe-group":      describeGroupTool,
	"ec2-create-group":        createGroupTool,
	"ec2-add-group":           createGroupTool,
	"ec2-delete-group":        deleteGroupTool,
	"ec2-authorize":           authorizeTool,
	"ec2-revoke":              revokeTool,
	"ec2-run-instances":       runInstancesTool,
	"ec2-describe-instances":  describeInstancesTool,
	"ec2-terminate-instances": terminateInstancesTool,
	"ec2-stop-instances":      stopInstancesTool,
	"ec2-start-instances":     startInstancesTool,
	"ec2-add-keypair":         addKeyPairTool,
	"ec2-import-keypair":      importKeyPairTool,
	"ec2-describe-keypairs":   describeKeyPairsTool,
	"ec2-delete-keypair":      deleteKeyPairTool,

	"ec2-create-vpc":              createVPCTool,
	"ec2-describe-vpcs":           describeVPCsTool,
	"ec2-delete-vpc":              deleteVPCTool,
	"ec2-create-subnet":           createSubnetTool,
	"ec2-describe-subnets":        describeSubnetsTool,
	"ec2-modify-subnet-attribute": modifySubnetTool,
	"ec2-delete-subnet":           deleteSubnetTool,

	"ec2-create-internet-gateway":    createGatewayTool,
	"ec2-describe-internet-gateways": describeGatewaysTool,
	"ec2-attach-internet-gateway":    attachGatewayTool,
	"ec2-detach-internet-gateway":    detachGatewayTool,
	"ec2-delete-internet-gateway":    deleteGatewayTool,

	"ec2-create-route-table":              createRouteTableTool,
	"ec2-describe-route-tables":           describeRouteTablesTool,
	"ec2-delete-route-table":              deleteRouteTableTool,
	"ec2-create-route":                    createRouteTool,
	"ec2-replace-route":                   replaceRouteTool,
	"ec2-delete-route":                    deleteRouteTool,
	"ec2-associate-route-table":           associateRouteTableTool,
	"ec2-replace-route-table-association": replaceAssociationTool,
	"ec2-disassociate-route-table":        disassociateRouteTableTool,

	"ec2-create-network-acl":              createACLTool,
	"ec2-describe-network-acls":           describeACLsTool,
	"ec2-delete-network-acl":              deleteACLTool,
	"ec2-create-network-acl-entry":        createACLEntryTool,
	"ec2-replace-network-acl-entry":       replaceACLEntryTool,
	"ec2-delete-network-acl-entry":        deleteACLEntryTool,
	"ec2-replace-network-acl-association": replaceACLAssociationTool,

	"ec2-allocate-address":     allocateAddressTool,
	"ec2-describe-addresses":   describeAddressesTool,
	"ec2-associate-address":    associateAddressTool,
	"ec2-disassociate-address": disassociateAddressTool,
	"ec2-release-address":      releaseAddressTool,

	"ec2-create-network-interface":           createInterfaceTool,
	"ec2-describe-network-interfaces":        describeInterfacesTool,
	"ec2-delete-network-interface":           deleteInterfaceTool,
	"ec2-attach-network-interface":           attachInterfaceTool,
	"ec2-detach-network-interface":           detachInterfaceTool,
	"ec2-assign-private-ip-addresses":        assignAddressesTool,
	"ec2-unassign-private-ip-addresses":      unassignAddressesTool,
	"ec2-modify-network-interface-attribute": modifyInterfaceTool,
	"ec2-modify-instance-attribute":          modifyInstanceTool,
}

// Names returns the names of all tools in order.
func Names() []string { return slices.Sorted(maps.Keys(tools)) }

// Summary returns a short description of the tool name.
func Summary(name string) string { return tools[name].summary }

// Is reports whether name is a tool.
func Is(name string) bool {
	_, ok := tools[name]
	return ok
}

// Config is the environment of a tool. All fields are required.
type Config struct {
	// Getenv returns an environment variable, "" if it is unset.
	Getenv func(string) string
	// Stdout gets the tool's output. Stderr gets errors and notes, so that scripts can
	// read Stdout.
	Stdout, Stderr io.Writer
}

// An invocation is one run of one tool.
type invocation struct {
	era     era
	out     io.Writer
	connect func() (*client, error)
	index   string // of the newest change that the invocation made; "": none
}

// call performs one action of the service. It connects only now, so that a wrong command
// line is reported before a wrong configuration.
func (s *invocation) call(ctx context.Context, action string, params url.Values, answer any) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	index, err := c.call(ctx, action, params, answer)
	if index != "" {
		s.index = index
	}
	return err
}

// A usageError is an error in the command line. Its text suggests the fix.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return usageError{fmt.Sprintf(format, args...)}
}

// Main runs the tool name and returns its exit status: 0 for success, 1 if the service
// refused or could not be reached, 2 for a wrong command line. A refusal is one line on
// stderr, "Client.CODE: message", or "Server.CODE: message" for an error of the service.
// With --wait, 1 can also mean that the change is made but not known to be enforced.
func Main(ctx context.Context, name string, args []string, c Config) int {
	err := run(ctx, name, args, c)
	if err == nil {
		return 0
	}
	if _, ok := errors.AsType[*serviceError](err); ok {
		fmt.Fprintln(c.Stderr, err)
		return 1
	}
	fmt.Fprintf(c.Stderr, "%s: %v\n", name, err)
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(c.Stderr, "For usage: %s --help\n", name)
		return 2
	}
	return 1
}

func run(ctx context.Context, name string, args []string, c Config) error {
	t, ok := tools[name]
	if !ok {
		return usagef("unknown tool; the tools are %v", Names())
	}
	fs, common := newFlags(name)
	act := t.flags(fs)
	var wait *string
	stale := new(bool)
	if t.changes {
		wait = waitFlag(fs)
	} else {
		stale = fs.Bool("stale", false, "answer from the node's own state, which needs no leader; prints its index on stderr")
	}
	if wantsHelp(args) {
		fmt.Fprint(c.Stdout, t.usage(name, fs))
		return nil
	}
	if err := parse(fs, args); err != nil {
		return err
	}
	era, err := eraOf(c.Getenv)
	if err != nil {
		return err
	}
	s := &invocation{era: era, out: c.Stdout, connect: func() (*client, error) {
		client, err := common.client(c.Getenv)
		if err == nil && *stale {
			client.stale = c.Stderr
		}
		return client, err
	}}
	if wait == nil || !fs.Changed("wait") {
		return act(ctx, s, fs.Args())
	}
	timeout, err := parseWait(*wait)
	if err != nil {
		return err
	}
	if err := act(ctx, s, fs.Args()); err != nil {
		return err
	}
	return s.waitEnforced(ctx, timeout, c.Stderr)
}
