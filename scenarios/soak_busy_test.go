//go:build soak

package scenarios

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSoakBusyInstanceDoesNotSlowOthers runs 512 busy processes, some of them a fork bomb, in one instance of a
// lab of three nodes. The leader must not change in 60 s. The 99th percentile of round trips between two
// other instances may be at most twice as long as beside as many busy processes outside of instances.
func TestSoakBusyInstanceDoesNotSlowOthers(t *testing.T) {
	b := newBusyTest(t)
	b.inside.signal(unix.SIGCONT)
	var took []time.Duration
	for begin := time.Now(); time.Since(begin) < time.Minute; {
		took = append(took, b.roundTrips(500)...)
	}
	b.inside.signal(unix.SIGSTOP)
	t.Logf("60 s beside %d busy processes in an instance: %d round trips, p50 %v, p99 %v, the slowest %v; %s leads as before",
		b.inside.size, len(took), percentileOf(took, 50), percentileOf(took, 99), percentileOf(took, 100), b.leader)
	b.sameLeader()
	b.compare(6, 400)
}
