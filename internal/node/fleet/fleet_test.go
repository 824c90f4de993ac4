package fleet

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane"
	"palisade/internal/node/plane/planetest"
)

// older is a Plane whose switch enforces an older state than the cluster has.
type older struct {
	*plane.Plane
	view *state.View
}

func (o older) View() *state.View { return o.view }

// TestMachineIgnoresLeaseThatSwitchDoesNotKnow: a step for an older change must not act on a newer
// lease, which the switch cannot give a port yet. If the step took the lease for one that has ended,
// it would end the instance.
func TestMachineIgnoresLeaseThatSwitchDoesNotKnow(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	c, err := cluster.New(cluster.Config{Node: planetest.Node, Dir: t.TempDir(), Bootstrap: planetest.Bootstrap(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	p := planetest.New(t).Plane
	view, err := c.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	f := New(Config{Node: planetest.Node, MTU: 1500, Plane: older{p, view}, Cluster: c, Announce: func() {}, Logger: log})
	result, _, err := c.Apply(ctx, state.Command{Request: &state.RunInstances{
		Account: planetest.Albert, Region: planetest.Region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1,
	}})
	if err != nil {
		t.Fatal(err)
	}
	id := result.Instances[0].After.ID
	f.machine(id).step(ctx)
	if in, _ := c.View().Instance(id); in.State != ec2.Pending {
		t.Errorf("the instance is %v (%s), want pending", in.State, in.StateReason)
	}
}

// TestFleetDropsMachineOfForgottenInstance: a machine holds user data, so the machines of deleted
// instances would fill the memory.
func TestFleetDropsMachineOfForgottenInstance(t *testing.T) {
	f := New(Config{Node: planetest.Node})
	f.machine("i-1")
	f.forget("i-1")
	if len(f.machines) != 0 {
		t.Errorf("the fleet has %d machines, want 0", len(f.machines))
	}
}
