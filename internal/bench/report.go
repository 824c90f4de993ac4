package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
)

// Report holds the samples of a run and their evaluation. It is written as JSON and read
// back, so that tables and charts can be made later.
type Report struct {
	Machine    Machine       `json:"machine"`
	Plan       Plan          `json:"plan"`
	Pollers    int           `json:"pollers,omitempty"` // 0: the Switch's default
	Minutes    float64       `json:"minutes"`
	Phases     []PhaseResult `json:"phases"`
	Ratios     []Ratio       `json:"ratios"`
	Judgements []Judgement   `json:"judgements"`
	// Void says why the run is not valid. A valid run has none.
	Void    []string `json:"void"`
	Samples []Sample `json:"samples"`
}

// A PhaseResult lists the contestants and the measures of a phase.
type PhaseResult struct {
	Title       string          `json:"title"`
	Repetitions int             `json:"repetitions"`
	Scale       string          `json:"scale,omitempty"`
	Entrants    []EntrantResult `json:"entrants"`
	Absent      []string        `json:"absent,omitempty"` // contestants that are missing, and why
	Measures    []Measure       `json:"measures"`
}

// An EntrantResult is a contestant as it was built.
type EntrantResult struct {
	Label string `json:"label"`
	Name  string `json:"name"`
	Size  int    `json:"size,omitempty"`
	About string `json:"about"`
}

func newReport(c Config) *Report {
	return &Report{Machine: machine(), Plan: c.Plan, Pollers: c.Pollers}
}

// ReadReport reads what WriteJSON wrote.
func ReadReport(in io.Reader) (*Report, error) {
	var r Report
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return nil, fmt.Errorf("read a report: %w", err)
	}
	return &r, nil
}

// WriteJSON writes every sample.
func (r *Report) WriteJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *Report) void(format string, args ...any) {
	r.Void = append(r.Void, fmt.Sprintf(format, args...))
}

// values returns a contestant's samples of a measure, by repetition.
func (r *Report) values(phase, contestant, measure string) map[int]float64 {
	all := map[int]float64{}
	for _, s := range r.Samples {
		if s.Phase == phase && s.Contestant == contestant && s.Measure == measure {
			all[s.Repetition] = s.Value
		}
	}
	return all
}

// A summary is the displayed form of a contestant's samples of a measure.
type summary struct {
	median, low, high float64 // low and high are 0 if there is no interval
}

// top is the highest displayed value, or 0 if nothing was measured.
func (s summary) top() float64 {
	if math.IsNaN(s.median) {
		return 0
	}
	return max(s.median, s.high)
}

func (r *Report) summary(phase, contestant, measure string) summary {
	var values []float64
	for _, v := range r.values(phase, contestant, measure) {
		values = append(values, v)
	}
	s := summary{median: median(values)}
	if low, high, ok := interval(values); ok {
		s.low, s.high = low, high
	}
	return s
}

func (r *Report) ratio(phase, measure, of, to string) Ratio {
	ratio := compare(r.values(phase, of, measure), r.values(phase, to, measure))
	ratio.Phase, ratio.Measure, ratio.Of, ratio.To = phase, measure, of, to
	return ratio
}

// rivals are the contestants with which the first contestant of a phase is compared. A
// series over sizes has none.
func (p PhaseResult) rivals() []string {
	if p.Scale != "" {
		return nil
	}
	var all []string
	for _, e := range p.Entrants[min(1, len(p.Entrants)):] {
		all = append(all, e.Label)
	}
	return all
}

// who returns a line about each contestant. In a series, it returns one line about a
// contestant, not one for each size.
func (p PhaseResult) who() []string {
	var all, seen []string
	for _, e := range p.Entrants {
		switch {
		case p.Scale == "":
			all = append(all, e.Label+": "+e.About)
		case !slices.Contains(seen, e.Name):
			seen = append(seen, e.Name)
			all = append(all, e.Label+" "+p.Scale+": "+e.About)
		}
	}
	return append(all, p.Absent...)
}

// judge computes the ratios and the verdicts of the claims.
func (r *Report) judge() {
	for _, s := range r.Samples {
		// Processor time is counted in ticks and memory in pages, so these can be 0.
		if !(s.Value > 0) && s.Unit != "us each" && s.Unit != "ms each" && s.Unit != "MiB" {
			r.void("%s, %s, repetition %d: %s is %v", s.Phase, s.Contestant, s.Repetition+1, s.Measure, s.Value)
		}
	}
	for _, p := range r.Phases {
		for _, m := range p.Measures {
			for _, rival := range p.rivals() {
				if ratio := r.ratio(p.Title, m.Name, p.Entrants[0].Label, rival); ratio.Pairs > 0 && !math.IsNaN(ratio.Value) && !math.IsInf(ratio.Value, 0) {
					r.Ratios = append(r.Ratios, ratio)
				}
			}
		}
	}
	for _, c := range r.Plan.claims {
		ratio := r.ratio(c.Phase, c.Measure, c.Of, c.To)
		j := Judgement{Claim: c, Ratio: ratio, Verdict: c.judge(ratio)}
		if ratio.Pairs == 0 {
			j.Ratio.Value = 0 // JSON has no NaN
		}
		if c.Void && j.Verdict == failed {
			r.void("%s: %s reaches %s of %s, wanted %s: this machine is not fit to compare switches", c.Measure, c.Of, ratio, c.To, c.bound())
		}
		r.Judgements = append(r.Judgements, j)
	}
}

// Passed reports whether the run is valid and no claim failed.
func (r *Report) Passed() bool {
	for _, j := range r.Judgements {
		if j.Verdict == failed {
			return false
		}
	}
	return len(r.Void) == 0
}
