package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"palisade/internal/bench/traffic"
	"palisade/internal/bench/world"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
)

// TestMain runs the test binary as the program at an endpoint if it was started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "traffic" {
		if err := traffic.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func trafficCommand(t *testing.T) []string {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{self, "traffic"}
}

// short is for tests that check whether something is measured, not how fast it is.
var short = Durations{TCP: 1, Flood: 50 * time.Millisecond, Trial: 20 * time.Millisecond, Connect: 50 * time.Millisecond, Trips: 100, Load: 1}

// One short repetition checks that every measure has samples and that packets went through
// the filters, not how fast they were.
func TestRunMeasuresEverythingAndLeavesNoNamespaces(t *testing.T) {
	netnstest.NeedRoot(t)
	plan := Full([]string{palisade, relay, bridge})
	plan.Durations, plan.claims, plan.Phases = short, nil, plan.Phases[:1]
	plan.Phases[0].Repetitions = 1
	r, err := Run(t.Context(), Config{Plan: plan, Traffic: trafficCommand(t)})
	if err != nil {
		t.Fatal(err)
	}
	measures := len(r.Phases[0].Measures)
	if got, want := len(r.Samples), 3*measures; got != want || measures == 0 {
		t.Errorf("the report has %d samples, want %d, more than 0", got, want)
	}
	for _, s := range r.Samples {
		if !(s.Value > 0) && !strings.HasPrefix(s.Measure, "processor") && s.Measure != "memory" {
			t.Errorf("contestant %s: %s is %v %s, want more than 0", s.Contestant, s.Measure, s.Value, s.Unit)
		}
	}
	for _, why := range r.Void {
		t.Errorf("the run is void, want a valid one: %s", why)
	}
	expectNoNamespaces(t)
	var out strings.Builder
	if err := r.WriteJSON(&out); err != nil {
		t.Error(err)
	}
	if again, err := ReadReport(strings.NewReader(out.String())); err != nil || len(again.Samples) != len(r.Samples) {
		t.Errorf("the report that was read back differs in its samples, or: %v", err)
	}
}

func expectNoNamespaces(t *testing.T) {
	t.Helper()
	own := fmt.Sprintf("pal-bench-%d-", os.Getpid())
	if left, err := netns.List(own); err != nil || len(left) > 0 {
		t.Errorf("the run left the namespaces %q, want none; %v", left, err)
	}
}

func TestFailedContestantMakesTheRunVoidButDoesNotEndIt(t *testing.T) {
	netnstest.NeedRoot(t)
	plan := Full([]string{relay, bridge})
	plan.Durations, plan.claims, plan.Phases = short, nil, plan.Phases[:1]
	plan.Phases[0].Repetitions, plan.Phases[0].tasks = 1, []task{failing{relay}, packets{size: 64, flows: 1}}
	r, err := Run(t.Context(), Config{Plan: plan, Traffic: trafficCommand(t)})
	if err != nil {
		t.Fatal(err)
	}
	if r.Passed() || len(r.Void) == 0 || !strings.Contains(r.Void[0], "one node, relay, repetition 1: it broke") {
		t.Errorf("the report is void because of %q, want the failure of the relay first", r.Void)
	}
	if got, want := len(r.Samples), 1+2*2; got != want {
		t.Errorf("the report has %d samples, want %d", got, want)
	}
	expectNoNamespaces(t)
}

// failing is a task that fails for one contestant.
type failing struct{ who string }

func (failing) measures() []Measure { return []Measure{{Name: "nothing", Unit: "1/s"}} }

func (f failing) run(_ context.Context, r *rig, _ Durations) ([]result, error) {
	if r.label == f.who {
		return nil, fmt.Errorf("it broke")
	}
	return []result{{value: 1}}, nil
}

// RunPair finds the devices, addresses and next hop of namespaces that it did not make.
func TestRunPairMeasuresBetweenExistingNamespaces(t *testing.T) {
	netnstest.NeedRoot(t)
	var b world.Builder
	for _, b = range world.Contestants(world.SameNode) {
		if b.Name == bridge {
			break
		}
	}
	w, err := b.Build(t.Context(), world.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	plan := PairPlan(true)
	plan.Durations, plan.Phases[0].Repetitions = short, 1
	r, err := RunPair(t.Context(), Config{Plan: plan, Traffic: trafficCommand(t)}, "mine", w.Client().Namespace, w.Server().Namespace)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Void) > 0 || len(r.Samples) != len(r.Phases[0].Measures) {
		text, _ := json.MarshalIndent(r, "", "  ")
		t.Errorf("the report has the faults %q and %d samples, want none and a sample of each measure\n%s", r.Void, len(r.Samples), text)
	}
}
