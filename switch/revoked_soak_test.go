//go:build soak

package vswitch

import (
	"testing"
	"time"

	"palisade/internal/packet"
)

// TestCutHoldsInRealTime is TestCutMeansNoPacketInEitherDirection for three minutes of the real clock,
// with the daemon killed and the pool of untracked connections full.
func TestCutHoldsInRealTime(t *testing.T) {
	var beds []*cutBed
	for _, protocol := range []uint8{packet.ProtocolTCP, packet.ProtocolUDP} {
		for _, c := range []cutCase{
			{protocol, true, false, "between", "before"}, {protocol, true, false, "", "after"},
			{protocol, true, true, "between", "after"}, {protocol, false, true, "", "before"},
		} {
			beds = append(beds, c.prepare(t))
		}
	}
	for start := monotonic(); monotonic()-start < 182*time.Second; time.Sleep(time.Second) {
		for _, b := range beds {
			b.frame.now = monotonic()
			b.check(t)
		}
	}
}
