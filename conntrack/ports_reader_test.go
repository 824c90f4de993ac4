package conntrack

import (
	"testing"
	"time"
)

// A poller may read the lost ranges just before SetOpen drops them. Those that it has have ended, also
// if another zone uses their place, and a packet that matches them does not change that zone's.
func TestPollerWithDroppedPortsLeavesThoseOfOthers(t *testing.T) {
	tr, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	z, other := tr.AddZone(1, Timeouts{}), tr.AddZone(2, Timeouts{})
	dns, web := Ports{Protocol: 6, From: 53, To: 53}, Ports{Protocol: 6, From: 80, To: 80}
	z.SetOpen([]Ports{dns}, 0)
	z.SetOpen(nil, 0)
	read := z.lost.Load()
	z.SetOpen([]Ports{dns}, 0)
	if until := (*read)[0].until(); until != 0 {
		t.Errorf("a dropped range is lost until %v", until)
	}
	other.SetOpen([]Ports{web}, 0)
	if (*read)[0].stored != other.open[0] {
		t.Fatal("the place of the dropped range is not used again")
	}
	late := &Zone{tracker: tr, full: z.full} // what the poller has
	late.lost.Store(read)
	late.Renew(6, 53, time.Second)
	if lost, _ := late.Lost(6, 53, time.Second); lost || other.open[0].until != inForce {
		t.Errorf("port 53 is lost: %v; the range of the other zone is in force until %d, want until it is removed", lost, other.open[0].until)
	}
}
