package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/testwait"
)

// The leader releases a reserved address at the end of its reservation, and deletes a terminated
// instance after an hour.
func TestLeaderProposesSweepWhenDue(t *testing.T) {
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
		terminate := func() *ec2.Interface {
			t.Helper()
			run := apply(&state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1})
			id := run.Instances[0].After.ID
			eni, _ := c.View().Interface(run.Instances[0].After.Interface)
			apply(&state.TerminateInstances{Account: albert, Region: region, Instances: []ec2.InstanceID{id}})
			apply(&state.ReportInstance{Instance: id, InterfaceEpoch: eni.Epoch, State: ec2.Terminated})
			return eni
		}

		term := c.leadingTerm()
		c.setLeading(0) // it sweeps again when it leads again
		time.Sleep(2 * sweepEvery)
		c.setLeading(term)

		first := terminate()
		time.Sleep(10 * time.Minute)
		second := terminate()
		if second.Private != first.Private {
			t.Errorf("ten minutes after %[2]s was freed, the next lease is %[1]s, want %[2]s", second.Private, first.Private)
		}
		third := terminate()
		if third.Private == second.Private {
			t.Errorf("%s was leased again at once, want it reserved", third.Private)
		}
		time.Sleep(2 * time.Minute)
		if fourth := terminate(); fourth.Private != second.Private {
			t.Errorf("two minutes after %[2]s was freed, the next lease is %[1]s, want %[2]s", fourth.Private, second.Private)
		}
		time.Sleep(50 * time.Minute)
		if _, ok := c.View().Instance(first.Instance); ok {
			t.Error("the first instance is still in the View an hour after its end")
		}
		if _, ok := c.View().Instance(second.Instance); !ok {
			t.Error("the second instance was deleted less than an hour after its end")
		}
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// A cluster of one writes no Sweep while nothing waits for one.
func TestClusterOfOneSweepsOnlyWhatIsDue(t *testing.T) {
	c, _ := open(t, Config{Dir: t.TempDir()})
	ready(t, c)
	before := c.View().Index()
	if err := new(sweeper).sweep(t.Context(), c); err != nil || c.View().Index() != before {
		t.Errorf("a sweep with nothing to free: index %d, error %v; want index %d", c.View().Index(), err, before)
	}
}

// A Sweep is proposed once when something is due, and not else.
func TestSweepIsProposedOnlyWhenDue(t *testing.T) {
	s := startLeader(t)
	if err := s.takeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	apply := func(r state.Request) state.Result {
		t.Helper()
		result, _, err := s.ApplyHere(t.Context(), state.Command{Request: r})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	first := bootstrap()
	first[0].Request.(*state.Bootstrap).Settings.Quarantine = 10 * time.Minute
	for _, cmd := range first {
		if _, ok := cmd.Request.(*state.PutNode); !ok {
			apply(cmd.Request)
		}
	}
	run := apply(&state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1})
	id := run.Instances[0].After.ID
	eni, _ := s.View().Interface(run.Instances[0].After.Interface)
	now := time.Now()
	s.cfg.Now = func() time.Time { return now }
	var sw sweeper
	sweep := func(what string, grows uint64) {
		t.Helper()
		before := s.View().Index()
		if err := sw.sweep(t.Context(), s.Cluster); err != nil || s.View().Index() != before+grows {
			t.Errorf("%s: error %v, the index grew from %d to %d, want by %d", what, err, before, s.View().Index(), grows)
		}
	}
	sweep("nothing was freed", 0)
	apply(&state.TerminateInstances{Account: albert, Region: region, Instances: []ec2.InstanceID{id}})
	apply(&state.ReportInstance{Instance: id, InterfaceEpoch: eni.Epoch, State: ec2.Terminated})
	sweep("an address was freed just now", 0)
	enforced := s.cfg.Enforced
	now = now.Add(11 * time.Minute)
	s.cfg.Enforced = func() uint64 { return 1 }
	sweep("eleven minutes later, but this node still enforces the old lease", 0)
	s.cfg.Enforced = enforced
	sweep("when it enforces the end of the lease", 1)
	sweep("at once after that", 0)
	now = now.Add(24 * time.Hour)
	s.end()
	if err := sw.sweep(ended(t), s.Cluster); !errors.Is(err, context.Canceled) {
		t.Errorf("a sweep that was ended: %v, want context.Canceled", err)
	}
}

// An address stays reserved, and no Sweep is proposed, until every member enforces the entry that
// freed the address. A node that does not answer keeps it reserved until the node is fenced.
func TestAddressStaysReservedUntilEveryMemberEnforces(t *testing.T) {
	s := startCluster(t, 3, func(c *Config) {
		c.Bootstrap = bootstrap()
		c.Bootstrap[0].Request.(*state.Bootstrap).Settings.Quarantine = time.Nanosecond
	})
	free := func() uint64 {
		t.Helper()
		run, _ := s.apply(s.leader(), &state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1})
		id := run.Instances[0].After.ID
		eni, ok := s.leader().View().Interface(run.Instances[0].After.Interface)
		if !ok {
			t.Fatalf("instance %s has no interface", id)
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
	reserved := func() bool {
		due, ok := s.leader().View().SweepDue()
		return ok && !due.After(time.Now())
	}

	s.waitAll(free())
	if sweep(); reserved() {
		t.Error("every member enforces the index, and the address is still reserved")
	}

	down := s.follower()
	down.kill()
	free()
	index := s.leader().View().Index()
	if sweep(); !reserved() || s.leader().View().Index() != index {
		t.Errorf("one member does not answer: address reserved: %t, want true; index %d, want %d", reserved(), s.leader().View().Index(), index)
	}
	s.fence(s.leader(), down.name)
	s.waitAll(s.leader().View().Index())
	if sweep(); reserved() {
		t.Error("the node that did not answer is fenced, and the address is still reserved")
	}
}
