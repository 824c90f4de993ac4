// Package bench measures the switch beside its rivals, in one run on one machine.
//
// Package world builds the contestants. Read Run first: traffic.go runs iperf3 and round
// trips over each; report.go compares. Repetitions are interleaved, and contestants
// are compared pair by pair within a repetition, so that what else the machine does falls
// on all of them. A run in which a contestant moved nothing, or a filter saw nothing, is
// void: it says nothing about anybody.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"palisade/internal/bench/world"
)

// Config is what a run takes. Echo is required.
type Config struct {
	Repetitions int // of every measure. Default 10
	Seconds     int // of each TCP transfer. Default 4
	RoundTrips  int // of each series. Default 5000
	Pollers     int // of the Switch and the relay. Default: the Switch's own

	// Echo is the command, without its own arguments, that calls Echo.
	Echo     []string
	Progress io.Writer `json:"-"` // default: discard
}

// The contestants, in the order of the report.
const (
	palisade = "palisade"
	relay    = "relay"
	bridge   = "bridge"
)

// A Sample is one measurement.
type Sample struct {
	Repetition int     `json:"repetition"`
	Contestant string  `json:"contestant"`
	Measure    string  `json:"measure"`
	Value      float64 `json:"value"`
	Unit       string  `json:"unit"`
}

// Run measures all contestants. It needs root.
func Run(ctx context.Context, c Config) (r *Report, err error) {
	if c.Repetitions == 0 {
		c.Repetitions = 10
	}
	if c.Seconds == 0 {
		c.Seconds = 4
	}
	if c.RoundTrips == 0 {
		c.RoundTrips = 5000
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the benchmark makes network namespaces: run it as root")
	}
	if err := world.ClearLeftovers(ctx); err != nil {
		return nil, err
	}

	var all []*world.World
	defer func() {
		for _, one := range all {
			err = errors.Join(err, one.Close())
		}
	}()
	r = &Report{Machine: machine(), Config: c}
	for _, builder := range world.Contestants(world.SameNode) {
		one, err := builder.Build(ctx, world.Config{Pollers: c.Pollers})
		if err != nil {
			return nil, err
		}
		all = append(all, one)
		if err := serve(ctx, one, c); err != nil {
			return nil, err
		}
		r.Machine.Contestants = append(r.Machine.Contestants, one.Name()+": "+one.Describe())
	}
	for i := range c.Repetitions {
		// Each goes first as often as the others.
		for _, one := range slices.Concat(all[i%len(all):], all[:i%len(all)]) {
			fmt.Fprintf(c.Progress, "\rrepetition %d of %d: %-10s", i+1, c.Repetitions, one.Name())
			samples, err := measure(ctx, one, c)
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", one.Name(), err)
			}
			for _, s := range samples {
				s.Repetition, s.Contestant = i, one.Name()
				r.Samples = append(r.Samples, s)
			}
		}
	}
	fmt.Fprintf(c.Progress, "\r%-40s\r", "")
	for _, one := range all {
		if err := one.Verify(); err != nil {
			r.Void = append(r.Void, fmt.Sprintf("%s: %v", one.Name(), err))
		}
	}
	r.judge()
	return r, nil
}
