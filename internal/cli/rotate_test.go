package cli

import (
	"strings"
	"testing"

	"palisade/cluster"
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

func TestStatusNamesRefusedCalls(t *testing.T) {
	status := func(refused ...cluster.Refusal) string {
		var b strings.Builder
		if err := printClusterStatus(&b, control.ClusterStatus{Node: "node1", Leader: "node1", Refused: refused}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	got := status(cluster.Refusal{Node: "node2", Call: "cluster.apply", Count: 12}, cluster.Refusal{Node: "node3", Call: "raft", Count: 1})
	for _, line := range []string{"that node1 refused", "\n  node2: cluster.apply, 12 times\n", "\n  node3: raft, 1 times\n"} {
		if !strings.Contains(got, line) {
			t.Errorf("the status has no %q:\n%s", line, got)
		}
	}
	if got := status(); strings.Contains(got, "refused") {
		t.Errorf("the status without a refused call:\n%s", got)
	}
}
