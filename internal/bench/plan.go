package bench

import (
	"fmt"
	"slices"
	"time"

	"palisade/internal/bench/traffic"
	"palisade/internal/bench/world"
)

// A Plan says what a run measures. Kind names it in the report and in the markers of its
// section of docs/PERFORMANCE.md.
type Plan struct {
	Kind      string    `json:"kind"`
	Durations Durations `json:"durations"`
	Phases    []Phase   `json:"-"`

	claims []Claim
}

// Durations says how long each part of a sample takes.
type Durations struct {
	TCP     int           `json:"tcp"`     // seconds, of a transfer
	Flood   time.Duration `json:"flood"`   // of the counted part of a flood
	Trial   time.Duration `json:"trial"`   // of one trial of the search for the rate without loss
	Connect time.Duration `json:"connect"` // of new connections
	Trips   int           `json:"trips"`   // the most round trips in a series
	Load    int           `json:"load"`    // seconds, of the stream during round trips under load
}

// The durations of a full run are long enough for a stable median of six repetitions. A
// quick run shows only the direction of a change.
var (
	full  = Durations{TCP: 3, Flood: time.Second, Trial: 200 * time.Millisecond, Connect: time.Second, Trips: 2000, Load: 2}
	quick = Durations{TCP: 1, Flood: 300 * time.Millisecond, Trial: 100 * time.Millisecond, Connect: 300 * time.Millisecond, Trips: 500, Load: 1}
)

// A Phase compares contestants. All of them exist until it ends.
type Phase struct {
	Title       string
	Repetitions int
	Entrants    []Entrant
	Scale       string // what Size counts in a series over sizes, such as "rules"; else ""

	tasks []task
}

// An Entrant is a contestant in one form.
type Entrant struct {
	Name    string
	Form    string // added to the name in the label
	Size    int    // in a series over sizes
	Builder world.Builder
	Config  world.Config
	Flows   int // replaces the number of flows of a task, if not 0
}

// Label returns a name of the entrant that is unique in its phase.
func (e Entrant) Label() string {
	switch {
	case e.Form != "":
		return e.Name + ", " + e.Form
	case e.Size != 0:
		return fmt.Sprintf("%s, %d", e.Name, e.Size)
	}
	return e.Name
}

// The contestants that claims are about.
const (
	palisade = "palisade"
	relay    = "relay"
	bridge   = "bridge"
	ovs      = "ovs"
	unsealed = "palisade-unsealed"
	vxlan    = "vxlan"
	nebula   = "nebula"
)

// The phases that claims are about.
const (
	oneNode  = string(world.SameNode)
	twoNodes = string(world.TwoNodes)
	jumbo    = "one node, MTU 9000"
	manyRule = "one node, rules"
)

const (
	repetitions      = 6  // the fewest that give an interval
	quickRepetitions = 3  // too few for an interval
	pairRepetitions  = 15 // for the comparison of 10,000 rules with 100
	manyFlows        = traffic.MaxFlows
)

func entrants(p world.Placement, c world.Config, only []string) []Entrant {
	var all []Entrant
	for _, b := range world.Contestants(p) {
		if b.Can(c) && (len(only) == 0 || slices.Contains(only, b.Name)) {
			all = append(all, Entrant{Name: b.Name, Builder: b, Config: c})
		}
	}
	return all
}

// Full measures everything that the claims need, in about 26 minutes on two processors. If
// only has names, other contestants are left out.
func Full(only []string) Plan {
	tasks := func(sizes ...int) []task {
		all := []task{bulk{1, false}, bulk{8, false}, bulk{1, true}, bulk{8, true}}
		for _, size := range sizes {
			all = append(all, packets{size: size, flows: 1, lossless: size == 64}, packets{size: size, flows: manyFlows, lossless: size == 64})
		}
		return append(all, connections{}, trips{"udp", false}, trips{"tcp", false}, trips{"udp", true}, memory{})
	}
	return Plan{Kind: "full", Durations: full, claims: claims, Phases: withEntrants(
		Phase{Title: oneNode, Repetitions: repetitions, Entrants: entrants(world.SameNode, world.Config{}, only), tasks: tasks(64, 512, 1500)},
		Phase{Title: jumbo, Repetitions: repetitions, Entrants: entrants(world.SameNode, world.Config{MTU: 9000}, only), tasks: []task{packets{size: 9000, flows: 1}, packets{size: 9000, flows: manyFlows}, trips{"udp", false}}},
		rulesPhase(pairRepetitions, only),
		// 1280 is the largest size of RFC 2544 §9.1 that every tunnel carries without fragments.
		Phase{Title: twoNodes, Repetitions: repetitions, Entrants: entrants(world.TwoNodes, world.Config{}, only), tasks: []task{
			bulk{1, false}, bulk{8, false}, bulk{1, true}, bulk{8, true},
			packets{size: 64, flows: 1, lossless: true}, packets{size: 64, flows: manyFlows}, packets{size: 512, flows: 1}, packets{size: 1280, flows: 1},
			connections{}, trips{"udp", false}, trips{"tcp", false}, trips{"udp", true}, memory{},
		}})}
}

// Quick measures most of Full in less than three minutes.
func Quick(only []string) Plan {
	return Plan{Kind: "quick", Durations: quick, claims: claims, Phases: withEntrants(
		Phase{Title: oneNode, Repetitions: quickRepetitions, Entrants: entrants(world.SameNode, world.Config{}, only), tasks: []task{
			bulk{1, false}, bulk{8, false}, packets{size: 64, flows: 1}, packets{size: 64, flows: manyFlows}, packets{size: 1500, flows: 1}, connections{}, trips{"udp", false}, trips{"udp", true},
		}},
		Phase{Title: twoNodes, Repetitions: quickRepetitions, Entrants: entrants(world.TwoNodes, world.Config{}, only), tasks: []task{
			bulk{1, false}, bulk{8, false}, packets{size: 64, flows: 1}, connections{}, trips{"udp", false},
		}})}
}

// Check compares palisade with the relay only, against the bounds of testdata/bounds.json.
func Check() Plan {
	return Plan{Kind: "check", Durations: quick, claims: storedBounds(), Phases: []Phase{{
		Title: oneNode, Repetitions: 13, Entrants: entrants(world.SameNode, world.Config{}, []string{palisade, relay}), tasks: []task{
			bulk{1, false}, bulk{8, false}, packets{size: 64, flows: 1}, packets{size: 64, flows: manyFlows}, connections{}, trips{"udp", false},
		}}}}
}

// Repeat sets how often every phase repeats its tasks.
func (p Plan) Repeat(repetitions int) Plan {
	p.Phases = slices.Clone(p.Phases)
	for i := range p.Phases {
		p.Phases[i].Repetitions = repetitions
	}
	return p
}

// rulesPhase compares palisade with itself: 10,000 rules with 100. It also measures round trips,
// because a run is void if a filter saw no replies.
func rulesPhase(repetitions int, only []string) Phase {
	p := Phase{Title: manyRule, Repetitions: repetitions, tasks: []task{packets{size: 64, flows: manyFlows}, trips{"udp", false}}}
	for _, e := range entrants(world.SameNode, world.Config{}, []string{palisade}) {
		if len(only) > 0 && !slices.Contains(only, palisade) {
			break
		}
		for _, rules := range []int{10_000, 100} {
			e.Form, e.Config = fmt.Sprintf("%d rules", rules), world.Config{Rules: rules}
			p.Entrants = append(p.Entrants, e)
		}
	}
	return p
}

// withEntrants returns the phases that have entrants.
func withEntrants(phases ...Phase) []Phase {
	return slices.DeleteFunc(phases, func(p Phase) bool { return len(p.Entrants) == 0 })
}
