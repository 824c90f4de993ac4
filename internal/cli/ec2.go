package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"palisade/internal/cli/ec2tools"
)

// ec2Group is the heading of the ec2-* tools in the help.
var ec2Group = &cobra.Group{ID: "ec2", Title: "EC2 command line tools:"}

// newEC2Commands returns a command for each ec2-* tool. The tools parse their options
// themselves, because the original tools' syntax differs from cobra's.
func newEC2Commands() []*cobra.Command {
	var commands []*cobra.Command
	for _, name := range ec2tools.Names() {
		commands = append(commands, &cobra.Command{
			Use:                name,
			Short:              ec2tools.Summary(name),
			GroupID:            ec2Group.ID,
			DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error {
				code := ec2tools.Main(cmd.Context(), name, args, ec2tools.Config{
					Getenv: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr,
				})
				if code != 0 {
					return exitError(code)
				}
				return nil
			},
		})
	}
	return commands
}

// calledAs returns the arguments for the root command. When the binary is called by the
// name of an ec2-* tool, the first argument is that name.
func calledAs(args []string) []string {
	if name := filepath.Base(args[0]); ec2tools.Is(name) {
		return append([]string{name}, args[1:]...)
	}
	return args[1:]
}

// newEC2NamesCommand lists the names of the ec2-* tools; `make build` links them.
func newEC2NamesCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "ec2-tools",
		Short:  "List the names of the EC2 command line tools",
		Hidden: true,
		Args:   usageArgs(cobra.NoArgs),
		Run: func(cmd *cobra.Command, _ []string) {
			for _, name := range ec2tools.Names() {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
		},
	}
}
