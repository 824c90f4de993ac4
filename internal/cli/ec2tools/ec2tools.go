// Package ec2tools is the EC2 command line tools: ec2-describe-group, ec2-authorize,
// ec2-run-instances and their siblings, as the EC2 guides use them.
//
// A tool reads its options (options.go, rule.go; order.go for those that are one call), calls the Query API (client.go) and
// prints lines of tab-separated columns (format.go). What it prints, and the exit status,
// are those of the tools that the guides of 2006 and of 2012 show; the environment
// variable EC2_TOOLS chooses between the two, 2012 when it is unset. Where the old tools
// quietly guessed, and a guess would open a port to everybody, these ask instead.
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

// A tool is one command. Its flags function declares the options and returns what runs
// once they are read.
type tool struct {
	synopsis []string // what follows the name, one line for each way to call it
	summary  string
	example  string
	changes  bool // it takes --wait
	flags    func(*pflag.FlagSet) action
}

// An action does the work of a tool with the arguments that were no options.
type action func(ctx context.Context, s *session, args []string) error

// tools is every command by the name it is called by.
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

// Summary says in a few words what the tool name does.
func Summary(name string) string { return tools[name].summary }

// Is reports whether name is a tool.
func Is(name string) bool {
	_, ok := tools[name]
	return ok
}

// Config is the world a tool runs in.
type Config struct {
	Getenv         func(string) string
	Stdout, Stderr io.Writer
}

// A session is one run of one tool.
type session struct {
	era     era
	out     io.Writer
	connect func() (*client, error)
	index   string // of the newest change the service made for it; "": none
}

// call performs one action of the service. The service is found here and not before, so
// a command line that is wrong is refused as such, wherever it would have gone.
func (s *session) call(ctx context.Context, action string, params url.Values, answer any) error {
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

// A usageError is a command line that cannot be understood; its text names the fix.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return usageError{fmt.Sprintf(format, args...)}
}

// Main runs the tool name and returns its exit status: 0 done, 1 the service refused or
// could not be reached, 2 the command line was wrong. A refusal is one line on stderr,
// "Client.CODE: message", or "Server.CODE: message" when the fault is the service's. With
// --wait 1 also means that the change is made and not known to be enforced everywhere.
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
		return usagef("no such tool; there are %v", Names())
	}
	fs, common := newFlags(name)
	act := t.flags(fs)
	var wait *string
	stale := new(bool)
	if t.changes {
		wait = waitFlag(fs)
	} else {
		stale = fs.Bool("stale", false, "ask for what the node knows, without a leader too; its index is said on stderr")
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
	s := &session{era: era, out: c.Stdout, connect: func() (*client, error) {
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
