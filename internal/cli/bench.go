package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/pprof"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"palisade/internal/bench"
)

func newBenchCommand() *cobra.Command {
	var config bench.Config
	var quick bool
	var output, profile string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the switch beside a bare relay and a Linux bridge",
		Long: `Measure the switch beside a bare relay and a Linux bridge with iptables: iperf3 and
round trips between two namespaces, as root, in about six minutes. --quick, or QUICK=1 in
the environment, takes less than ninety seconds and is less certain.

It exits with 1 if the run refutes a claim, or is void because a contestant or the relay
fell short of what makes the comparison fair.`,
		Example: "  palisade bench\n  QUICK=1 palisade bench --pollers 2",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			if output == "" {
				output = filepath.Join(filepath.Dir(self), "bench.json")
			}
			if quick || os.Getenv("QUICK") == "1" {
				config.Repetitions, config.Seconds, config.RoundTrips = 6, 1, 1000
			}
			if term.IsTerminal(int(os.Stderr.Fd())) {
				config.Progress = os.Stderr
			}
			config.Echo = []string{self, "bench", "echo"}
			if profile != "" {
				f, err := os.Create(profile)
				if err != nil {
					return err
				}
				defer f.Close()
				if err := pprof.StartCPUProfile(f); err != nil {
					return err
				}
				defer pprof.StopCPUProfile()
			}
			report, err := bench.Run(cmd.Context(), config)
			if err != nil {
				return err
			}
			if err := report.Print(cmd.OutOrStdout()); err != nil {
				return err
			}
			if err := writeFile(output, report.WriteJSON); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "samples: %s\n", output)
			if !report.Passed() {
				return exitError(1)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&quick, "quick", false, "fewer and shorter repetitions")
	cmd.Flags().IntVar(&config.Pollers, "pollers", 0, "how many `GOROUTINES` carry frames (default: as a node)")
	cmd.Flags().StringVar(&output, "output", "", "write the samples to `FILE` (default: bench.json beside the binary)")
	cmd.Flags().StringVar(&profile, "profile", "", "write a processor profile of the switches to `FILE`")
	cmd.AddCommand(newBenchEchoCommand())
	return cmd
}

// newBenchEchoCommand is what the benchmark runs at its endpoints.
func newBenchEchoCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "echo serve|tcp|udp ADDRESS [COUNT]",
		Hidden: true,
		Args:   usageArgs(cobra.RangeArgs(2, 3)),
		RunE:   func(cmd *cobra.Command, args []string) error { return bench.Echo(args, cmd.OutOrStdout()) },
	}
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
