package cluster

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/testwait"
)

// The leader gives addresses back after their rest and forgets terminated instances
// after their hour, both while the other is still to come.
func TestLeaderSweepsWhatIsDue(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config{Node: "node1", Dir: dir, Bootstrap: bootstrap()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- c.Run(ctx) }()
		<-c.Ready()
		apply := func(r state.Request) state.Result {
			t.Helper()
			result, _, err := c.Apply(ctx, state.Command{Request: r})
			if err != nil {
				t.Fatal(err)
			}
			return result
		}
		end := func() *ec2.Interface {
			t.Helper()
			run := apply(&state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1})
			id := run.Instances[0].After.ID
			eni, _ := c.View().Interface(run.Instances[0].After.Interface)
			apply(&state.TerminateInstances{Account: albert, Region: region, Instances: []ec2.InstanceID{id}})
			apply(&state.ReportInstance{Instance: id, InterfaceEpoch: eni.Epoch, State: ec2.Terminated})
			return eni
		}

		first := end()
		time.Sleep(10 * time.Minute)
		second := end()
		if second.Private != first.Private {
			t.Errorf("after ten minutes %s is leased, want %s again", second.Private, first.Private)
		}
		third := end()
		if third.Private == second.Private {
			t.Errorf("%s is leased again at once", third.Private)
		}
		time.Sleep(2 * time.Minute)
		if fourth := end(); fourth.Private != second.Private {
			t.Errorf("two minutes on %s is leased, want %s again", fourth.Private, second.Private)
		}
		time.Sleep(50 * time.Minute)
		if _, ok := c.View().Instance(first.Instance); ok {
			t.Error("the first instance is still described after an hour")
		}
		if _, ok := c.View().Instance(second.Instance); !ok {
			t.Error("the second instance is forgotten before its hour is over")
		}
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// An address rests until every member enforces what freed it, and nothing is written
// meanwhile. A node that does not answer is waited for until it is fenced.
func TestAddressRestsUntilEveryMemberEnforces(t *testing.T) {
	s := begin(t, 3, func(c *Config) {
		c.Bootstrap = bootstrap()
		c.Bootstrap[0].Request.(*state.Bootstrap).Settings.Quarantine = time.Nanosecond
	})
	free := func() uint64 {
		t.Helper()
		run, _ := s.apply(s.leader(), &state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1})
		id := run.Instances[0].After.ID
		eni, ok := s.leader().View().Interface(run.Instances[0].After.Interface)
		if !ok {
			t.Fatalf("%s has no interface", id)
		}
		s.apply(s.leader(), &state.TerminateInstances{Account: albert, Region: region, Instances: []ec2.InstanceID{id}})
		_, index := s.apply(s.leader(), &state.ReportInstance{Instance: id, InterfaceEpoch: eni.Epoch, State: ec2.Terminated})
		return index
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*testwait.Patience)
	defer cancel()
	sweep := func() {
		t.Helper()
		if err := new(sweeper).sweep(ctx, s.leader().Cluster); err != nil {
			t.Fatal(err)
		}
	}
	rests := func() bool {
		due, ok := s.leader().View().SweepDue()
		return ok && !due.After(time.Now())
	}

	s.waitAll(free())
	if sweep(); rests() {
		t.Error("every member enforces it, and an address still rests")
	}

	down := s.follower()
	down.kill()
	free()
	index := s.leader().View().Index()
	if sweep(); !rests() || s.leader().View().Index() != index {
		t.Errorf("one member does not answer: rests %v, index %d, want %d", rests(), s.leader().View().Index(), index)
	}
	s.fence(s.leader(), down.name)
	s.waitAll(s.leader().View().Index())
	if sweep(); rests() {
		t.Error("whom it waited for is fenced, and an address still rests")
	}
}
