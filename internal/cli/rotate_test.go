package cli

import (
	"testing"

	"palisade/ec2"
	"palisade/internal/node/control"
)

func TestProgressNamesNodesThatAreAway(t *testing.T) {
	got := describeRotation(control.RotationProgress{
		Kind: ec2.GossipKey, Step: ec2.RotationSpread,
		Nodes: []control.RotationNode{{Node: "node1", Done: true}, {Node: "node2", Why: "not reached: no route"}},
	})
	want := "gossip: give the new key to all nodes; done: node1; waits for: node2 (not reached: no route)"
	if got != want {
		t.Errorf("the progress is\n%s\nwant\n%s", got, want)
	}
}
