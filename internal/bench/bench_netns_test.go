package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"palisade/internal/bench/world"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
)

// TestMain lets the test binary be what the benchmark runs at its endpoints.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "echo" {
		if err := Echo(os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestRunMeasuresEverythingAndLeavesNothing makes one short repetition. How fast anybody
// is is not its question; that packets went through the filters is.
func TestRunMeasuresEverythingAndLeavesNothing(t *testing.T) {
	netnstest.NeedRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), Config{Repetitions: 1, Seconds: 1, RoundTrips: 100, Echo: []string{self, "echo"}})
	if err != nil {
		t.Fatal(err)
	}
	installed := 0
	for _, b := range world.Contestants(world.SameNode) {
		if len(b.Missing()) == 0 {
			installed++
		}
	}
	if got, want := len(r.Samples), installed*len(measures); got != want || installed < 3 {
		t.Errorf("%d samples, want %d", got, want)
	}
	for _, s := range r.Samples {
		if s.Unit == "Gbit/s" && s.Value <= 0 {
			t.Errorf("%s moved nothing in %s", s.Contestant, s.Measure)
		}
	}
	for _, why := range r.Void {
		if !strings.Contains(why, "of the bridge") {
			t.Errorf("void: %s", why)
		}
	}
	own := fmt.Sprintf("pal-bench-%d-", os.Getpid())
	if left, err := netns.List(own); err != nil || len(left) > 0 {
		t.Errorf("left namespaces %q, %v", left, err)
	}
	if left, _ := filepath.Glob("/dev/shm/" + own + "*"); len(left) > 0 {
		t.Errorf("left files %q", left)
	}
}
