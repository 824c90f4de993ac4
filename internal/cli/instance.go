package cli

import (
	"os"

	"github.com/spf13/cobra"

	"palisade/internal/instance"
)

// newInstanceCommand is for `palisade lab exec`, which knows an instance by its namespace alone.
func newInstanceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "instance", Short: "Reach into instances of this machine", Hidden: true}
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

// usageArgs makes what check complains about a mistake of the command line.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}
