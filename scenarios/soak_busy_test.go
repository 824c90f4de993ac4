//go:build soak

package scenarios

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSoakBusyInstance: with 512 busy processes in one instance of a lab of three nodes, part of
// them a fork bomb, no leader changes in 60 s, and round trips between two other instances take at
// the 99th percentile at most twice what they take beside as many busy processes outside.
func TestSoakBusyInstance(t *testing.T) {
	b := newBusyTest(t)
	b.inside.turn(unix.SIGCONT)
	var took []time.Duration
	for begin := time.Now(); time.Since(begin) < time.Minute; {
		took = append(took, b.roundTrips(500)...)
	}
	b.inside.turn(unix.SIGSTOP)
	t.Logf("60 s beside %d busy processes in an instance: %d round trips, p50 %v, p99 %v, the slowest %v; %s leads as before",
		b.inside.size, len(took), middle(took, 50), middle(took, 99), middle(took, 100), b.leader)
	b.sameLeader()
	b.compare(6, 400)
}
