package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// What a run must show, of the medians of ratios.
const (
	palisadeOfRelay = 0.85
	relayOfBridge   = 0.80
)

// Report is a run's samples and what they say.
type Report struct {
	Machine Machine  `json:"machine"`
	Config  Config   `json:"config"`
	Samples []Sample `json:"samples"`
	Ratios  []Ratio  `json:"ratios"`
	// Void says why the run says nothing; Failed which claims it refutes.
	Void   []string `json:"void"`
	Failed []string `json:"failed"`
}

// A Ratio compares two contestants by a measure, repetition by repetition.
type Ratio struct {
	Measure string  `json:"measure"`
	Of      string  `json:"of"`
	To      string  `json:"to"`
	Median  float64 `json:"median"`
	Low     float64 `json:"low"` // Low and High bound the median with 95 % confidence; 0: too few repetitions
	High    float64 `json:"high"`
}

var pairs = [][2]string{{palisade, relay}, {relay, bridge}, {palisade, bridge}}

// values are a contestant's samples of a measure, by repetition.
func (r *Report) values(contestant, measure string) []float64 {
	var all []float64
	for _, s := range r.Samples {
		if s.Contestant == contestant && s.Measure == measure {
			all = append(all, s.Value)
		}
	}
	return all
}

func (r *Report) ratio(measure string, pair [2]string) Ratio {
	of, to := r.values(pair[0], measure), r.values(pair[1], measure)
	var ratios []float64
	for i := range of {
		ratios = append(ratios, of[i]/to[i])
	}
	result := Ratio{Measure: measure, Of: pair[0], To: pair[1], Median: median(ratios)}
	if low, high, ok := interval(ratios); ok {
		result.Low, result.High = low, high
	}
	return result
}

// judge compares, and holds the throughputs against what the run must show.
func (r *Report) judge() {
	for _, s := range r.Samples {
		if !(s.Value > 0) {
			r.Void = append(r.Void, fmt.Sprintf("%s moved nothing in repetition %d of %s", s.Contestant, s.Repetition+1, s.Measure))
		}
	}
	if len(r.Void) > 0 {
		return
	}
	for _, m := range measures {
		for _, pair := range pairs {
			ratio := r.ratio(m.name, pair)
			r.Ratios = append(r.Ratios, ratio)
			switch {
			case m.unit != "Gbit/s":
			case pair == [2]string{relay, bridge} && ratio.Median < relayOfBridge:
				r.Void = append(r.Void, fmt.Sprintf("%s: the relay is at %.2f of the bridge, less than %.2f: no measure for a switch", m.name, ratio.Median, relayOfBridge))
			case pair == [2]string{palisade, relay} && ratio.Median < palisadeOfRelay:
				r.Failed = append(r.Failed, fmt.Sprintf("%s: palisade is at %.2f of the relay, less than %.2f", m.name, ratio.Median, palisadeOfRelay))
			}
		}
	}
}

// Passed reports whether the run says something, and nothing against us.
func (r *Report) Passed() bool { return len(r.Void) == 0 && len(r.Failed) == 0 }

// Print writes the report for people.
func (r *Report) Print(out io.Writer) error {
	m := r.Machine
	fmt.Fprintf(out, "%s, %d processors, Linux %s, load %s, %s, commit %s\n", m.CPU, m.Processors, m.Kernel, m.Load, m.Go, m.Commit)
	for _, about := range m.Contestants {
		fmt.Fprintf(out, "  %s\n", about)
	}
	fmt.Fprintf(out, "%d interleaved repetitions of %d s; medians, and medians of the ratios within a repetition with their 95 %% interval\n\n", r.Config.Repetitions, r.Config.Seconds)
	if len(r.Ratios) > 0 {
		if err := r.printTable(out); err != nil {
			return err
		}
	}
	for _, why := range r.Void {
		fmt.Fprintf(out, "void: %s\n", why)
	}
	for _, why := range r.Failed {
		fmt.Fprintf(out, "FAIL: %s\n", why)
	}
	if r.Passed() {
		fmt.Fprintf(out, "pass: palisade >= %.2f of the relay, relay >= %.2f of the bridge\n", palisadeOfRelay, relayOfBridge)
	}
	return nil
}

func (r *Report) printTable(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\tunit\t%s\t%s\t%s\t", palisade, relay, bridge)
	for _, pair := range pairs {
		fmt.Fprintf(w, "%s/%s\t", pair[0], pair[1])
	}
	fmt.Fprintln(w)
	ratios := r.Ratios
	for _, m := range measures {
		fmt.Fprintf(w, "%s\t%s\t", m.name, m.unit)
		for _, contestant := range []string{palisade, relay, bridge} {
			fmt.Fprintf(w, "%.4g\t", median(r.values(contestant, m.name)))
		}
		for range pairs {
			one := ratios[0]
			ratios = ratios[1:]
			if one.High == 0 {
				fmt.Fprintf(w, "%.2f\t", one.Median)
			} else {
				fmt.Fprintf(w, "%.2f [%.2f, %.2f]\t", one.Median, one.Low, one.High)
			}
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out)
	return err
}

// WriteJSON writes every sample.
func (r *Report) WriteJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
