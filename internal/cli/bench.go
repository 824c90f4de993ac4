package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/pprof"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"palisade/internal/bench"
	"palisade/internal/bench/traffic"
	"palisade/internal/lab"
)

// benchFlags are the flags of `palisade bench`.
type benchFlags struct {
	quick, check, scale, ablate bool
	lab                         string
	attached                    bool
	contestants                 []string
	pollers, repetitions        int
	output, profile             string
	from, markdown, charts      string
}

func newBenchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench [--lab NAME FROM TO | --attached FROM TO]",
		Short: "Measure the switch and its rivals, or a running lab",
		Long: `Measure the switch, a relay without any filter, a Linux bridge with iptables, Open vSwitch and
other rivals that are installed, on one node and across two: TCP, small packets, new connections
and round trips. It creates its own network namespaces, needs root, and takes 26 minutes.
--quick, or QUICK=1 in the environment, takes less than three minutes and is less precise.

With --lab it measures between two instances of a running lab, and with --attached between
two network namespaces; their groups must admit TCP and UDP to ports 5201 to 5299.

The exit status is 1 if a measured ratio misses its bound, or if the run is void: a contestant
failed, or the relay is so slow that the comparison is not fair.`,
		Example: `  palisade bench
  QUICK=1 palisade bench --pollers 2
  palisade bench --lab lab web1 db1
  palisade bench --from bin/bench-full.json --markdown docs/PERFORMANCE.md --charts docs/charts`,
		Args: usageArgs(func(cmd *cobra.Command, args []string) error {
			if f.lab != "" || f.attached {
				return cobra.ExactArgs(2)(cmd, args)
			}
			return cobra.NoArgs(cmd, args)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := f.report(cmd, args)
			if err != nil {
				return err
			}
			if err := f.write(cmd.OutOrStdout(), report); err != nil {
				return err
			}
			if f.from == "" && !report.Passed() {
				return exitError(1)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.quick, "quick", false, "fewer and shorter repetitions")
	flags.BoolVar(&f.check, "check", false, "compare palisade with the relay only, against stored bounds")
	flags.BoolVar(&f.scale, "scale", false, "measure the cost of rules, members, flows and ports, by their number")
	flags.BoolVar(&f.ablate, "ablate", false, "measure the cost of each part of the switch, by leaving it out")
	flags.StringVar(&f.lab, "lab", "", "measure between two instances of the lab `NAME`")
	flags.BoolVar(&f.attached, "attached", false, "measure between two network namespaces")
	flags.StringSliceVar(&f.contestants, "contestants", nil, "measure only these `NAMES`")
	flags.IntVar(&f.pollers, "pollers", 0, "the `NUMBER` of pollers (default: as in a node)")
	flags.IntVar(&f.repetitions, "repetitions", 0, "measure everything this `NUMBER` of times (default: depends on the run; fewer than 6 give no intervals)")
	flags.StringVar(&f.output, "output", "", "write the samples to `FILE` (default: bench-KIND.json beside the binary)")
	flags.StringVar(&f.profile, "profile", "", "write a processor profile of the switches to `FILE`")
	flags.StringVar(&f.from, "from", "", "do not measure, but report on the samples in `FILE`")
	flags.StringVar(&f.markdown, "markdown", "", "replace the section of this kind of run in `FILE`")
	flags.StringVar(&f.charts, "charts", "", "write charts to `DIRECTORY`")
	cmd.MarkFlagsMutuallyExclusive("check", "scale", "ablate", "lab", "attached", "from")
	cmd.AddCommand(newBenchTrafficCommand())
	return cmd
}

// report returns the report of a new measurement, or an earlier report that it reads from a
// file.
func (f *benchFlags) report(cmd *cobra.Command, args []string) (*bench.Report, error) {
	if f.from != "" {
		in, err := os.Open(f.from)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		return bench.ReadReport(in)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f.quick = f.quick || os.Getenv("QUICK") == "1"
	plan := f.plan()
	if f.repetitions > 0 {
		plan = plan.Repeat(f.repetitions)
	}
	if f.output == "" {
		f.output = filepath.Join(filepath.Dir(self), "bench-"+plan.Kind+".json")
	}
	config := bench.Config{Plan: plan, Pollers: f.pollers, Traffic: []string{self, "bench", "traffic"}}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		config.Progress = os.Stderr
	}
	if f.profile != "" {
		profile, err := os.Create(f.profile)
		if err != nil {
			return nil, err
		}
		defer profile.Close()
		if err := pprof.StartCPUProfile(profile); err != nil {
			return nil, err
		}
		defer pprof.StopCPUProfile()
	}
	switch {
	case f.lab != "":
		namespaces, err := labNamespaces(cmd.Context(), f.lab, args)
		if err != nil {
			return nil, err
		}
		return bench.RunPair(cmd.Context(), config, f.lab, namespaces[0], namespaces[1])
	case f.attached:
		return bench.RunPair(cmd.Context(), config, "attached", args[0], args[1])
	}
	return bench.Run(cmd.Context(), config)
}

func (f *benchFlags) plan() bench.Plan {
	switch {
	case f.lab != "" || f.attached:
		return bench.PairPlan(f.quick)
	case f.check:
		return bench.Check()
	case f.scale:
		return bench.Scale(f.quick)
	case f.ablate:
		return bench.Ablate(f.quick)
	case f.quick:
		return bench.Quick(f.contestants)
	}
	return bench.Full(f.contestants)
}

// write prints the report and writes the files that the flags name.
func (f *benchFlags) write(out io.Writer, report *bench.Report) error {
	if err := report.Print(out); err != nil {
		return err
	}
	if f.output != "" {
		if err := writeFile(f.output, report.WriteJSON); err != nil {
			return err
		}
		fmt.Fprintf(out, "samples: %s\n", f.output)
	}
	if f.charts != "" {
		if err := report.WriteCharts(f.charts); err != nil {
			return err
		}
	}
	if f.markdown != "" {
		return report.WriteMarkdown(f.markdown, f.charts)
	}
	return nil
}

// labNamespaces returns the namespaces of instances, which are given by id or name.
func labNamespaces(ctx context.Context, name string, who []string) ([]string, error) {
	l, err := lab.Open(name)
	if err != nil {
		return nil, err
	}
	var namespaces []string
	for _, one := range who {
		instance, err := l.FindInstance(ctx, one)
		if err != nil {
			return nil, err
		}
		namespaces = append(namespaces, instance.Namespace)
	}
	return namespaces, nil
}

// newBenchTrafficCommand returns the command that the benchmark runs at its endpoints.
func newBenchTrafficCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "traffic",
		Hidden: true,
		Args:   usageArgs(cobra.NoArgs),
		RunE:   func(cmd *cobra.Command, _ []string) error { return traffic.Serve(cmd.InOrStdin(), cmd.OutOrStdout()) },
	}
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
