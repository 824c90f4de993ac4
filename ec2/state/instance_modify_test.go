package state

import (
	"testing"

	"palisade/ec2"
)

func TestMonitoringIsTurnedOnAndOff(t *testing.T) {
	w := newVPCWorld(t)
	id := w.launch(nil).ID
	for _, on := range []bool{true, false} {
		w.must(&MonitorInstances{dev, east, []ec2.InstanceID{id}, on})
		if got := w.instance(id).Monitored; got != on {
			t.Errorf("monitored is %v, want %v", got, on)
		}
	}
	w.refused(&MonitorInstances{dev, east, []ec2.InstanceID{"i-00000000"}, true}, "InvalidInstanceID.NotFound")
}
