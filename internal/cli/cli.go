// Package cli is the command line: `palisade` and its subcommands, and the ec2-* tools,
// which are the same binary under another name.
//
// One command is one file. A command reads its flags, calls the package that does the
// work, and prints; it decides nothing else.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"palisade/cluster"
	"palisade/internal/instance"
	"palisade/internal/lab"
)

// An exitError makes the process exit with this status, without a further message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Main runs the command that args name and returns the process's exit status: 0 success,
// 1 failure, 2 a wrong command line, 3 this node was fenced or removed from its cluster.
func Main(args []string) int {
	if code, ok := instance.Reexec(args); ok {
		return code
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	root := newRoot()
	root.SetArgs(calledAs(args))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[exitError](err); ok {
		return int(exit)
	}
	fmt.Fprintf(os.Stderr, "palisade: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	if errors.Is(err, cluster.ErrExpelled) {
		return lab.OutcastStatus
	}
	return 1
}

// A usageError is a mistake in the command line.
type usageError struct{ error }

// labFlag adds the flag that names the lab. Its default is the lab that the shell uses, by `palisade lab env`,
// or the one named lab.
func labFlag(flags *pflag.FlagSet, to *string, flag, usage string) {
	flags.StringVar(to, flag, cmp.Or(os.Getenv(lab.NameVariable), "lab"), usage)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "palisade",
		Short: "EC2 security groups that you run yourself",
		Example: `  palisade lab up                  # a cluster in namespaces on this machine
  eval "$(palisade lab env)"       # make aws and the ec2-* tools use it
  palisade scenario run albert     # play a story from the EC2 guide with real nmap`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddGroup(ec2Group)
	root.AddCommand(newScenarioCommand())
	root.AddCommand(newEC2Commands()...)
	root.AddCommand(newEC2NamesCommand())
	root.AddCommand(newLabCommand(), newInstanceCommand(), newNodeCommand(), newClusterCommand(), newAccountCommand(), newVPCCommand())
	root.AddCommand(newAttachCommand(), newDetachCommand())
	root.AddCommand(newTraceCommand(), newDropsCommand(), newFlowsCommand(), newCutCommand(), newAuditCommand())
	root.AddCommand(newBenchCommand())
	return root
}
