package bench

import (
	_ "embed"
	"encoding/json"
	"fmt"
)

// A Claim is a bound for the ratio of two contestants.
type Claim struct {
	Phase   string `json:"phase"`
	Measure string `json:"measure"`
	Of      string `json:"of"`
	To      string `json:"to"`
	// Exactly one of AtLeast, AtMost and Unchanged is set.
	AtLeast   float64 `json:"at_least,omitempty"`
	AtMost    float64 `json:"at_most,omitempty"`
	Unchanged bool    `json:"unchanged,omitempty"` // the interval of the ratio contains 1, or ends below 1
	Goal      float64 `json:"goal,omitempty"`      // stricter than the bound; missing it is no failure
	// Void means that the run's comparisons are not valid if this claim fails.
	Void bool `json:"void,omitempty"`
	// Noisy means that the claim fails only if the whole 95 % interval of the ratio is
	// beyond the bound. The repetitions of the run give that interval, so a run fails only
	// when its own noise cannot explain the result. A run without an interval is judged by
	// the value.
	Noisy bool `json:"noisy,omitempty"`
}

// A Judgement is a claim with the ratio that a run measured.
type Judgement struct {
	Claim
	Ratio   Ratio  `json:"ratio"`
	Verdict string `json:"verdict"`
}

// The verdicts.
const (
	passed      = "pass"
	goalReached = "pass, goal reached"
	failed      = "FAIL"
	notMeasured = "not measured"
)

// claims are the claims of `make bench`.
var claims = func() []Claim {
	var all []Claim
	tcp := []string{bulk{1, false}.name(), bulk{8, false}.name(), bulk{1, true}.name(), bulk{8, true}.name()}
	add := func(c Claim, measures ...string) {
		for _, m := range measures {
			c.Measure = m
			all = append(all, c)
		}
	}
	// The relay is the upper limit of the switch, and it does not depend on the filter. On
	// a machine where even the relay falls behind the bridge, the comparison with the
	// rivals measures the machine. In the published run the relay's ratio is 0.87 with an
	// interval of 0.85 to 0.92: in such a run, chance decides whether the median is above
	// the bound. With Noisy the interval decides.
	add(Claim{Phase: oneNode, Of: relay, To: bridge, AtLeast: 0.87, Void: true, Noisy: true}, tcp...)
	add(Claim{Phase: oneNode, Of: palisade, To: relay, AtLeast: 0.95, Goal: 0.98}, tcp...)
	add(Claim{Phase: oneNode, Of: palisade, To: bridge, AtLeast: 0.9, Goal: 1.1}, tcp...)
	add(Claim{Phase: oneNode, Of: palisade, To: ovs, AtLeast: 0.95, Goal: 1.1}, tcp...)
	small := []string{packets{size: 64, flows: 1}.name(), packets{size: 64, flows: manyFlows}.name()}
	add(Claim{Phase: oneNode, Of: palisade, To: bridge, AtLeast: 1.0, Goal: 1.3}, small...)
	add(Claim{Phase: oneNode, Of: palisade, To: ovs, AtLeast: 2.5, Goal: 3}, small...)
	add(Claim{Phase: oneNode, Of: palisade, To: bridge, AtLeast: 0.8, Goal: 1.0}, connections{}.measures()[0].Name)
	add(Claim{Phase: oneNode, Of: palisade, To: bridge, AtMost: 1.2, Goal: 0.7}, trips{protocol: "udp"}.measures()[0].Name)
	add(Claim{Phase: oneNode, Of: palisade, To: bridge, AtMost: 1.5}, trips{protocol: "udp"}.measures()[1].Name)
	var seconds []string
	for _, name := range tcp {
		seconds = append(seconds, "processor, "+name)
	}
	add(Claim{Phase: oneNode, Of: palisade, To: bridge, AtMost: 1.2, Goal: 1.0}, seconds...)
	add(Claim{Phase: manyRule, Of: palisade + ", 10000 rules", To: palisade + ", 100 rules", Unchanged: true}, "processor, "+small[1])
	add(Claim{Phase: twoNodes, Of: palisade, To: nebula, AtLeast: 8, Goal: 12}, tcp...)
	add(Claim{Phase: twoNodes, Of: palisade, To: vxlan, AtLeast: 0.3, Goal: 0.6}, tcp...)
	add(Claim{Phase: twoNodes, Of: unsealed, To: vxlan, AtLeast: 0.5}, tcp...)
	return all
}()

//go:embed testdata/bounds.json
var bounds []byte

// storedBounds are the claims of Check.
func storedBounds() []Claim {
	var all []Claim
	if err := json.Unmarshal(bounds, &all); err != nil {
		panic(fmt.Sprintf("testdata/bounds.json: %v", err)) // a test reads it
	}
	return all
}

// bound returns the text of the claim's bound in reports.
func (c Claim) bound() string {
	var s string
	switch {
	case c.Unchanged:
		return "1 within or above the interval"
	case c.AtMost != 0 && c.Noisy:
		s = fmt.Sprintf("lower end at most %.4g", c.AtMost)
	case c.Noisy:
		s = fmt.Sprintf("upper end at least %.4g", c.AtLeast)
	case c.AtMost != 0:
		s = fmt.Sprintf("at most %.4g", c.AtMost)
	default:
		s = fmt.Sprintf("at least %.4g", c.AtLeast)
	}
	if c.Goal != 0 {
		s += fmt.Sprintf(" (goal %.4g)", c.Goal)
	}
	return s
}

// judge returns the verdict of a claim for a measured ratio.
func (c Claim) judge(r Ratio) string {
	if r.Pairs == 0 {
		return notMeasured
	}
	high, low := r.Value, r.Value
	if c.Noisy && r.High != 0 {
		high, low = max(high, r.High), min(low, r.Low)
	}
	switch {
	case c.Unchanged && r.High == 0:
		return notMeasured // a change can be seen only with an interval
	case c.Unchanged && r.Low > 1, c.AtMost != 0 && !(low <= c.AtMost), c.AtLeast != 0 && !(high >= c.AtLeast):
		return failed
	case c.Goal != 0 && c.AtMost != 0 && r.Value <= c.Goal, c.Goal != 0 && c.AtLeast != 0 && r.Value >= c.Goal:
		return goalReached
	}
	return passed
}
