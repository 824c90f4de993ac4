package bench

import (
	"slices"

	"palisade/internal/bench/world"
)

// scaleRepetitions is just enough for an interval, because there are many Worlds to measure.
const scaleRepetitions = 7

// Scale measures the cost of rules, members, ports and flows by their number. The series
// include the bridge, except for flows.
func Scale(quickly bool) Plan {
	p := Plan{Kind: "scale", Durations: full}
	repetitions := scaleRepetitions
	if quickly {
		p.Durations, repetitions = quick, quickRepetitions
	}
	flood := packets{size: 64, flows: manyFlows}
	series := func(title, scale string, tasks []task, sizes []int, names []string, form func(size int) Entrant) {
		phase := Phase{Title: title, Scale: scale, Repetitions: repetitions, tasks: tasks}
		for _, b := range world.Contestants(world.SameNode) {
			if !slices.Contains(names, b.Name) {
				continue
			}
			for _, size := range sizes {
				e := form(size)
				e.Name, e.Builder, e.Size = b.Name, b, size
				phase.Entrants = append(phase.Entrants, e)
			}
		}
		p.Phases = append(p.Phases, phase)
	}
	both, alone := []string{palisade, bridge}, []string{palisade}
	series("rules in force", "rules", []task{flood, connections{}}, []int{2, 10, 100, 1000, 10_000, 50_000}, both,
		func(size int) Entrant { return Entrant{Config: world.Config{Rules: size}} })
	series("members of the source group", "members", []task{flood, connections{}}, []int{10, 100, 1000, 10_000, 100_000}, both,
		func(size int) Entrant { return Entrant{Config: world.Config{Members: size}} })
	series("ports of the switch", "ports", []task{flood, connections{}}, []int{2, 20, 100, 200}, both,
		func(size int) Entrant { return Entrant{Config: world.Config{Ports: size}} })
	// Round trips make replies, because a run is void if a filter saw none.
	spread := packets{size: 64, flows: manyFlows, title: "UDP, 64 bytes"}
	series("flows", "flows", []task{spread, trips{"udp", false}}, []int{1, 1000, 10_000, 100_000, 1_000_000}, alone,
		func(size int) Entrant { return Entrant{Flows: size} })
	return p
}

// Ablate measures the switch with one part left out at a time, an option that nodes do not
// have. The first entrant of a phase is the complete switch; the others are compared with
// it.
func Ablate(quickly bool) Plan {
	p := Plan{Kind: "ablate", Durations: full}
	repetitions := repetitions
	if quickly {
		p.Durations, repetitions = quick, quickRepetitions
	}
	tasks := []task{bulk{1, false}, bulk{8, false}, packets{size: 64, flows: 1}, packets{size: 64, flows: manyFlows}, packets{size: 1280, flows: 1}, connections{}, trips{"udp", false}}
	for _, part := range []struct {
		placement world.Placement
		title     string
		without   []Entrant
	}{
		{world.SameNode, "one node, without parts", []Entrant{
			{Name: palisade, Form: "2 rules", Config: world.Config{Rules: 2}},
			{Name: palisade, Form: "no connections", Config: world.Config{NoConntrack: true}},
			{Name: palisade, Form: "no offloads", Config: world.Config{NoOffloads: true}},
			{Name: relay, Form: "no rules and no connections"},
		}},
		{world.TwoNodes, "two nodes, without parts", []Entrant{
			{Name: unsealed, Form: "no seal"},
			{Name: palisade, Form: "no offloads", Config: world.Config{NoOffloads: true}},
		}},
	} {
		phase := Phase{Title: part.title, Repetitions: repetitions, tasks: tasks}
		for _, e := range append([]Entrant{{Name: palisade}}, part.without...) {
			for _, b := range world.Contestants(part.placement) {
				if b.Name == e.Name && b.Can(e.Config) {
					e.Builder = b
					phase.Entrants = append(phase.Entrants, e)
				}
			}
		}
		p.Phases = append(p.Phases, phase)
	}
	return p
}
