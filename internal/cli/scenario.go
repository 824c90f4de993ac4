package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"palisade/scenarios"
)

func newScenarioCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scenario",
		Short: "Play the stories of the EC2 guides with real packets",
	}
	cmd.AddCommand(newScenarioListCommand(), newScenarioRunCommand())
	return cmd
}

func newScenarioListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the stories and the lab that each one needs",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := scenarios.List()
			if err != nil {
				return err
			}
			for _, s := range list {
				fmt.Fprintf(cmd.OutOrStdout(), "%-10s %s\n", s.Name, s.Title)
				if len(s.LabOptions) > 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "%-10s needs: palisade lab up %s\n", "", strings.Join(s.LabOptions, " "))
				}
			}
			return nil
		},
	}
}

func newScenarioRunCommand() *cobra.Command {
	var lab string
	var step bool
	cmd := &cobra.Command{
		Use:   "run NAME...",
		Short: "Play stories in a running lab",
		Long: `Play stories in a running lab. Each command and its output are printed as they happen.

The exit status is 1 if the result of any step differs from the script. A story starts by
deleting the resources of its accounts in the lab.`,
		Example: `  palisade lab up
  palisade scenario run albert --step
  palisade scenario run albert mary`,
		Args: atLeastOne("a story; palisade scenario list shows them"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var stories []scenarios.Scenario
			for _, name := range args {
				s, err := scenarios.Find(name)
				if err != nil {
					return usageError{err}
				}
				stories = append(stories, s)
			}
			c := scenarios.Config{
				Lab:    lab,
				Out:    cmd.OutOrStdout(),
				Colour: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "",
			}
			if step {
				c.Pause = pauseForEnter(cmd.Context())
			}
			return scenarios.PlayAll(cmd.Context(), stories, c)
		},
	}
	labFlag(cmd.Flags(), &lab, "name", "the lab's `NAME`")
	cmd.Flags().BoolVar(&step, "step", false, "wait for Enter before each step")
	return cmd
}

// pauseForEnter returns a function that waits for a line on standard input, or for the
// end of ctx. After the end of the input the function returns at once.
func pauseForEnter(ctx context.Context) func() error {
	lines := make(chan struct{})
	go runLines(ctx, lines)
	return func() error {
		fmt.Fprint(os.Stderr, "[Enter] ")
		select {
		case <-lines:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// runLines reports each line of standard input until the input or ctx ends. A blocked read
// does not notice the end of ctx; the goroutine then lasts until the process exits.
func runLines(ctx context.Context, lines chan<- struct{}) {
	defer close(lines)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		select {
		case lines <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// atLeastOne returns a check that requires an argument. Its error shows what, the description
// of the argument.
func atLeastOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageError{fmt.Errorf("name at least one: %s", what)}
		}
		return nil
	}
}
