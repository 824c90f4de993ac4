package node

import (
	"context"
	"testing"

	"palisade/ec2"
)

// TestMachineWaitsForTheSwitch: a step that is due for an older change may find a newer
// lease, which the switch has not heard of and so cannot give a port. It leaves it to the
// step of that change; taking it for a lease that has ended would end the instance.
func TestMachineWaitsForTheSwitch(t *testing.T) {
	c := nodeConfig(t)
	n := newNode(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- n.cluster.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	view, err := n.cluster.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.plane.apply(view); err != nil {
		t.Fatal(err)
	}
	result, _, err := n.cluster.Apply(ctx, ec2.Command{Request: &ec2.RunInstances{
		Account: albert, Region: c.Region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1,
	}})
	if err != nil {
		t.Fatal(err)
	}
	id := result.Instances[0].After.ID
	n.fleet.machine(id).step(ctx)
	if in, _ := n.cluster.View().Instance(id); in.State != ec2.Pending {
		t.Errorf("the instance is %v (%s), want pending", in.State, in.StateReason)
	}
}

// TestFleetForgetsInstancesThatAreForgotten: a machine holds its instance's user data.
func TestFleetForgetsInstancesThatAreForgotten(t *testing.T) {
	f := newFleet(Config{Name: "node1"}, nil, nil, discard)
	f.machine("i-1")
	f.forget("i-1")
	if len(f.machines) != 0 {
		t.Errorf("%d machines, want none", len(f.machines))
	}
}
