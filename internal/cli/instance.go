package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"palisade/internal/instance"
)

// newInstanceCommand returns `palisade instance`, which `palisade lab exec` runs to execute a
// command in an instance.
func newInstanceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "instance", Short: "Run commands in instances on this machine", Hidden: true, RunE: helpOrUnknown}
	cmd.AddCommand(&cobra.Command{
		Use:   "exec NAMESPACE -- COMMAND...",
		Short: "Run a command as root of the instance whose network namespace is NAMESPACE",
		Args:  usageArgs(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			stdio := instance.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
			code, err := instance.Exec(cmd.Context(), args[0], args[1:], stdio)
			if err == nil && code != 0 {
				return exitError(code)
			}
			return err
		},
	})
	return cmd
}

// helpOrUnknown prints the help of a command that has only subcommands. If an argument is given, it
// returns a usageError, because no subcommand has that name.
func helpOrUnknown(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s has no command %q; %s --help lists its commands", cmd.CommandPath(), args[0], cmd.CommandPath())}
	}
	return cmd.Help()
}

// usageArgs returns check with each of its errors turned into a usageError.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}
