// Package bench measures the switch beside its rivals, in one run on one machine.
//
// A Plan (plan.go) is a list of phases; a phase says which contestants are compared, in
// which tasks, and how often. Read Run first. Package world builds the contestants, package
// traffic has the programs at their endpoints; a rig is one contestant with those programs.
// A task (tcp.go, udp.go, trips.go) takes one sample of each of its measures. The Report
// compares (report.go, stats.go), checks the ratios against the claims (claims.go), and is
// written as a table, as JSON with every sample, as Markdown and as charts (table.go,
// markdown.go, chart.go).
//
// Contestants take turns at each task, and two contestants are compared within each
// repetition, so that other work of the machine affects all of them. A run is void, and
// proves nothing, if a contestant delivered nothing, a filter saw no traffic, or the relay
// was too slow.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"palisade/internal/bench/world"
)

// Config says what a run measures, and with which programs.
type Config struct {
	// Plan is what is measured. Required; without phases the report is empty.
	Plan Plan
	// Pollers is the number of pollers of each Switch and relay. Default 0: the Switch's own
	// default. More pollers than processors make a run slower.
	Pollers int
	// Traffic is the command line of a program that calls traffic.Serve. Required; with
	// another program the run ends with an error at the first contestant.
	Traffic []string
	// Progress receives the name of the current measurement, always on the same line, so it
	// should be a terminal and not a log file. Default nil: no progress is printed.
	Progress io.Writer
}

// A Sample is one measurement.
type Sample struct {
	Phase      string  `json:"phase"`
	Repetition int     `json:"repetition"`
	Contestant string  `json:"contestant"`
	Measure    string  `json:"measure"`
	Value      float64 `json:"value"`
	Unit       string  `json:"unit"`
	// Detail has further counts, by their names.
	Detail map[string]float64 `json:"detail,omitempty"`
}

// Run measures. It needs root.
func Run(ctx context.Context, c Config) (*Report, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the benchmark makes network namespaces: run it as root")
	}
	if err := world.ClearLeftovers(ctx); err != nil {
		return nil, err
	}
	run := newRun(c)
	for _, p := range c.Plan.Phases {
		if err := run.phase(ctx, p); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Title, err)
		}
	}
	return run.end(), nil
}

// A run is a Run in progress. One goroutine uses it.
type run struct {
	config Config
	report *Report
	begun  time.Time
}

func newRun(c Config) *run { return &run{config: c, report: newReport(c), begun: time.Now()} }

// end completes the report and returns it.
func (r *run) end() *Report {
	r.report.Minutes = time.Since(r.begun).Minutes()
	r.report.judge()
	return r.report
}

func (r *run) phase(ctx context.Context, p Phase) (err error) {
	var rigs []*rig
	defer func() {
		for _, one := range rigs {
			err = errors.Join(err, one.close())
		}
		r.say("")
	}()
	var result PhaseResult
	for _, e := range p.Entrants {
		r.say("%s: build %s", p.Title, e.Label())
		if why := absent(e); why != "" {
			result.Absent = append(result.Absent, e.Label()+": "+why)
			continue
		}
		one, err := r.build(ctx, e)
		if err != nil {
			return err
		}
		rigs = append(rigs, one)
		result.Entrants = append(result.Entrants, EntrantResult{Label: e.Label(), Name: e.Name, Size: e.Size, About: one.about})
	}
	return r.measure(ctx, p, rigs, result)
}

// measure takes the samples of a phase from rigs, which result describes.
func (r *run) measure(ctx context.Context, p Phase, rigs []*rig, result PhaseResult) error {
	result.Title, result.Repetitions, result.Scale = p.Title, p.Repetitions, p.Scale
	for _, t := range p.tasks {
		result.Measures = append(result.Measures, t.measures()...)
	}
	r.report.Phases = append(r.report.Phases, result)
	for i := range p.Repetitions {
		for j, t := range p.tasks {
			// Each rig goes first equally often.
			first := (i + j) % max(1, len(rigs))
			for _, one := range slices.Concat(rigs[first:], rigs[:first]) {
				r.say("%s, repetition %d of %d: %s, %s", p.Title, i+1, p.Repetitions, t.measures()[0].Name, one.label)
				if err := r.sample(ctx, p, i, t, one); err != nil {
					return err
				}
			}
		}
	}
	for _, one := range rigs {
		if err := one.verify(); err != nil {
			r.report.void("%s, %s: %v", p.Title, one.label, err)
		}
	}
	return nil
}

// absent says why an entrant cannot take part, or returns "".
func absent(e Entrant) string {
	if missing := e.Builder.Missing(); len(missing) > 0 {
		return "not installed: " + strings.Join(missing, " ")
	}
	if !e.Builder.Can(e.Config) {
		return "does not support this configuration"
	}
	return ""
}

func (r *run) build(ctx context.Context, e Entrant) (*rig, error) {
	config := e.Config
	config.Pollers = r.config.Pollers
	w, err := e.Builder.Build(ctx, config)
	if err != nil {
		return nil, err
	}
	one, err := newRig(ctx, w, r.config.Traffic)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", e.Label(), err), w.Close())
	}
	one.label, one.about, one.flows = e.Label(), w.Describe(), e.Flows
	one.memory, one.verify, one.closeWorld = w.Memory, w.Verify, w.Close
	return one, nil
}

// sample takes one sample of each of a task's measures. A contestant's failure makes the
// run void but does not end it, because the other samples may show the cause.
func (r *run) sample(ctx context.Context, p Phase, repetition int, t task, one *rig) error {
	results, err := t.run(ctx, one, r.config.Plan.Durations)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.report.void("%s, %s, repetition %d: %v", p.Title, one.label, repetition+1, err)
		return nil
	}
	for i, m := range t.measures() {
		r.report.Samples = append(r.report.Samples, Sample{
			Phase: p.Title, Repetition: repetition, Contestant: one.label,
			Measure: m.Name, Unit: m.Unit, Value: results[i].value, Detail: results[i].detail,
		})
	}
	return nil
}

// say replaces the progress line.
func (r *run) say(format string, args ...any) {
	if r.config.Progress == nil {
		return
	}
	line := fmt.Sprintf(format, args...)
	if line != "" {
		line = fmt.Sprintf("%4.1f min  %s", time.Since(r.begun).Minutes(), line)
	}
	fmt.Fprintf(r.config.Progress, "\r\x1b[K%s", line)
}
