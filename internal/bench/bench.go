// Package bench measures the switch beside its rivals, in one run on one machine.
//
// Three contestants carry the same traffic between two endpoints each. An endpoint is a
// network namespace with a kernel's TCP stack, the same for all:
//
//	palisade  the Switch, its tables of 100 rules and its tracker, between two TAP devices
//	relay     the same pollers and devices, with a constant for a verdict: the limit of
//	          what a Switch between TAP devices can do
//	bridge    a Linux bridge between two veth pairs, with 100 iptables rules and the
//	          kernel's connection tracking: what one would use instead
//
// Read Run first. A Contestant is built by switch.go or bridge.go; traffic.go runs iperf3
// and round trips over it; report.go compares. Repetitions are interleaved, and contestants
// are compared pair by pair within a repetition, so that what else the machine does falls
// on all of them. A run in which a contestant moved nothing, or a filter saw nothing, is
// void: it says nothing about anybody.
//
// Everything is made in namespaces called pal-bench-PID-…, gone when Run returns; what
// a killed run left behind is cleared by the next one.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	if err := clearLeftovers(ctx); err != nil {
		return nil, err
	}

	builders := []func(context.Context, Config) (*Contestant, error){newPalisade, newRelay, newBridge}
	var all []*Contestant
	defer func() {
		for _, one := range all {
			err = errors.Join(err, one.close())
		}
	}()
	r = &Report{Machine: machine(), Config: c}
	for _, build := range builders {
		one, err := build(ctx, c)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
		r.Machine.Contestants = append(r.Machine.Contestants, one.name+": "+one.about)
	}
	for i := range c.Repetitions {
		// Each goes first as often as the others.
		for _, one := range slices.Concat(all[i%len(all):], all[:i%len(all)]) {
			fmt.Fprintf(c.Progress, "\rrepetition %d of %d: %-10s", i+1, c.Repetitions, one.name)
			samples, err := one.measure(ctx, c)
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", one.name, err)
			}
			for _, s := range samples {
				s.Repetition, s.Contestant = i, one.name
				r.Samples = append(r.Samples, s)
			}
		}
	}
	fmt.Fprintf(c.Progress, "\r%-40s\r", "")
	for _, one := range all {
		if err := one.verify(); err != nil {
			r.Void = append(r.Void, fmt.Sprintf("%s: %v", one.name, err))
		}
	}
	r.judge()
	return r, nil
}
