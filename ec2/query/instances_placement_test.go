package query_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"

	"palisade/ec2"
	"palisade/ec2/state"
)

// change applies requests to the cluster, for requests that no Action makes.
func (w *world) change(t *testing.T, requests ...state.Request) {
	t.Helper()
	for _, r := range requests {
		if _, _, err := w.cluster.Apply(t.Context(), state.Command{Request: r}); err != nil {
			t.Fatalf("apply %T: %v", r, err)
		}
	}
}

// join admits a node as voter.
func (w *world) join(t *testing.T, id ec2.NodeID, zone string) {
	t.Helper()
	hash := strings.Repeat("5e", 32)
	w.change(t,
		&state.CreateJoinToken{ID: string(id), SecretHash: hash, Expires: time.Now().Add(time.Hour)},
		&state.AdmitNode{Token: string(id), SecretHash: hash, Node: ec2.Node{ID: id, Zone: zone, Address: "192.0.2.1" + strings.TrimPrefix(string(id), "node") + ":7400", PublicKey: []byte(id)}})
}

// An instance shows the zone of its node, also in the answer to a start that moves it to
// another node.
func TestInstanceShowsZoneOfItsNode(t *testing.T) {
	w := newWorld(t)
	w.join(t, "node2", "us-east-1b")
	api := w.as("albert")
	ids := make(map[string]string)
	for _, i := range ok[*sdk.RunInstancesOutput](t)(api.RunInstances(t.Context(), &sdk.RunInstancesInput{ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(2), MaxCount: aws.Int32(2)})).Instances {
		ids[*i.Placement.AvailabilityZone] = *i.InstanceId
	}
	w.report(t)
	id := ids["us-east-1b"]
	if len(ids) != 2 || id == "" {
		t.Fatalf("two instances on two nodes are in zones %v, want two zones", ids)
	}
	shown := func(state, zone, reason string) {
		t.Helper()
		i := ok[*sdk.DescribeInstancesOutput](t)(api.DescribeInstances(t.Context(), &sdk.DescribeInstancesInput{InstanceIds: []string{id}})).Reservations[0].Instances[0]
		code := ""
		if i.StateReason != nil {
			code = *i.StateReason.Code
		}
		if string(i.State.Name) != state || *i.Placement.AvailabilityZone != zone || code != reason {
			t.Errorf("instance is %s in %s with reason %q, want %s in %s with reason %q", i.State.Name, *i.Placement.AvailabilityZone, code, state, zone, reason)
		}
	}
	shown("pending", "us-east-1b", "") // its node has not reported
	w.change(t, &state.FenceNode{Node: "node2"})
	shown("stopped", "us-east-1b", "Server.NodeFenced")
	w.change(t, &state.RemoveNode{Node: "node2"})
	shown("stopped", "us-east-1b", "Server.NodeFenced")
	if _, err := api.StartInstances(t.Context(), &sdk.StartInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	shown("pending", "us-east-1a", "")
	w.report(t)
	w.change(t, &state.PutNode{Node: ec2.Node{ID: "node1", Zone: "us-east-1d"}})
	shown("running", "us-east-1d", "")
}
