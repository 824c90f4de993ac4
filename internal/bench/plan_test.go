package bench

import "testing"

// Samples are found by phase, contestant and measure, so two of the same name would be mixed.
func TestPlanNamesAreUnique(t *testing.T) {
	for _, p := range []Plan{Full(nil), Quick(nil), Check(), Scale(false), Ablate(false), PairPlan(false)} {
		phases := map[string]bool{}
		for _, phase := range p.Phases {
			if phases[phase.Title] {
				t.Errorf("%s: two phases are named %q", p.Kind, phase.Title)
			}
			phases[phase.Title] = true
			labels, measures := map[string]bool{}, map[string]bool{}
			for _, e := range phase.Entrants {
				if labels[e.Label()] {
					t.Errorf("%s, %s: two entrants are named %q", p.Kind, phase.Title, e.Label())
				}
				labels[e.Label()] = true
			}
			for _, task := range phase.tasks {
				for _, m := range task.measures() {
					if measures[m.Name] {
						t.Errorf("%s, %s: two measures are named %q", p.Kind, phase.Title, m.Name)
					}
					if m.Unit == "" || m.Group == "" {
						t.Errorf("measure %q has unit %q and group %q, want both", m.Name, m.Unit, m.Group)
					}
					measures[m.Name] = true
				}
			}
			if len(labels) < 2 && p.Kind != "pair" || len(measures) == 0 {
				t.Errorf("plan %s: %d entrants are compared by %d measures in %q, want at least 2 and 1", p.Kind, len(labels), len(measures), phase.Title)
			}
		}
		if len(phases) == 0 {
			t.Errorf("plan %s has no phases", p.Kind)
		}
	}
}

func TestPlanHasOnlyTheNamedContestants(t *testing.T) {
	for _, phase := range Full([]string{relay, bridge}).Phases {
		for _, e := range phase.Entrants {
			if e.Name != relay && e.Name != bridge {
				t.Errorf("phase %q measures %s, want only relay and bridge", phase.Title, e.Label())
			}
		}
	}
}
