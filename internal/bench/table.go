package bench

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Print writes the report as plain text.
func (r *Report) Print(out io.Writer) error {
	fmt.Fprintf(out, "%s\n%s\n", r.Machine.line(), r.about())
	for _, p := range r.Phases {
		fmt.Fprintf(out, "\n%s, %d repetitions\n", p.Title, p.Repetitions)
		for _, line := range p.who() {
			fmt.Fprintf(out, "  %s\n", line)
		}
		fmt.Fprintln(out)
		if err := printTable(out, r.table(p)); err != nil {
			return err
		}
	}
	fmt.Fprintln(out)
	if len(r.Judgements) > 0 {
		if err := printTable(out, r.claimTable()); err != nil {
			return err
		}
	}
	if open := r.open(); open != "" {
		fmt.Fprintln(out, open)
	}
	for _, why := range r.Void {
		fmt.Fprintf(out, "void: %s\n", why)
	}
	return nil
}

func (m Machine) line() string {
	return fmt.Sprintf("%s, %d processors, Linux %s, load %s, %s, commit %s, %s", m.CPU, m.Processors, m.Kernel, m.Load, m.Go, m.Commit, m.Begun.UTC().Format(time.DateTime))
}

// about describes how the numbers were measured.
func (r *Report) about() string {
	d := r.Plan.Durations
	s := fmt.Sprintf("Run %q, %.1f minutes. TCP %d s, floods %v, trials without loss %v, new connections %v for %d at a time, %d round trips. Medians; ratios of medians, with the 95 %% interval of the ratios within a repetition.",
		r.Plan.Kind, r.Minutes, d.TCP, d.Flood, d.Trial, d.Connect, connectParallel, d.Trips)
	if r.Pollers != 0 {
		s += fmt.Sprintf(" %d pollers.", r.Pollers)
	}
	return s
}

// A cells is a table. Its first row is the head, its first column has the names.
type cells [][]string

// table shows a phase: a row for each measure, with the medians and the ratios to the rivals.
func (r *Report) table(p PhaseResult) cells {
	if p.Scale != "" {
		return r.scaleTable(p)
	}
	head := []string{"", "unit"}
	for _, e := range p.Entrants {
		head = append(head, e.Label)
	}
	for _, rival := range p.rivals() {
		head = append(head, "/ "+rival)
	}
	all := cells{head}
	for _, m := range p.Measures {
		row := []string{m.Name, m.Unit}
		for _, e := range p.Entrants {
			row = append(row, number(r.summary(p.Title, e.Label, m.Name).median))
		}
		for _, rival := range p.rivals() {
			row = append(row, r.ratio(p.Title, m.Name, p.Entrants[0].Label, rival).String())
		}
		all = append(all, row)
	}
	return all
}

// scaleTable shows a series: a row for each contestant and size, a column for each measure.
func (r *Report) scaleTable(p PhaseResult) cells {
	head := []string{p.Scale, "contestant"}
	for _, m := range p.Measures {
		head = append(head, m.Name+", "+m.Unit)
	}
	all := cells{head}
	for _, e := range p.Entrants {
		row := []string{fmt.Sprint(e.Size), e.Name}
		for _, m := range p.Measures {
			s := r.summary(p.Title, e.Label, m.Name)
			cell := number(s.median)
			if s.high != 0 {
				cell += fmt.Sprintf(" [%s, %s]", number(s.low), number(s.high))
			}
			row = append(row, cell)
		}
		all = append(all, row)
	}
	return all
}

func (r *Report) claimTable() cells {
	all := cells{{"claim", "", "of", "wanted", "measured", ""}}
	for _, j := range r.Judgements {
		if j.Verdict == notMeasured {
			continue
		}
		all = append(all, []string{j.Phase + ": " + j.Measure, j.Of, j.To, j.bound(), j.Ratio.String(), j.Verdict})
	}
	return all
}

// open returns a text that counts the claims that were not measured and names their
// contestants, or "".
func (r *Report) open() string {
	var about []string
	count := 0
	for _, j := range r.Judgements {
		if j.Verdict == notMeasured {
			count++
			if who := j.Of + " with " + j.To; !slices.Contains(about, who) {
				about = append(about, who)
			}
		}
	}
	if count == 0 {
		return ""
	}
	return fmt.Sprintf("not measured: %d claims, which compare %s", count, strings.Join(about, ", "))
}

// String returns the ratio with its interval.
func (r Ratio) String() string {
	switch {
	case r.Pairs == 0:
		return "–"
	case r.High == 0:
		return fmt.Sprintf("%.2f", r.Value)
	}
	return fmt.Sprintf("%.2f [%.2f, %.2f]", r.Value, r.Low, r.High)
}

// number writes three significant digits.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func printTable(out io.Writer, table cells) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, row := range table {
		fmt.Fprintln(w, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return w.Flush()
}
