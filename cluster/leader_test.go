package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"palisade/ec2/state"
	"palisade/internal/testwait"
)

func TestEveryNodeWritesAndReadsItsWrites(t *testing.T) {
	s := startCluster(t, 3, nil)
	for i, n := range s.running() {
		group := fmt.Sprint("from", i)
		index := s.write(n, group)
		if !hasGroup(n.View(), group) {
			t.Errorf("%s does not read its own write", n.name)
		}
		for _, other := range s.running() {
			view := s.read(other)
			if !hasGroup(view, group) || view.Index() < index {
				t.Errorf("%s reads at %d without %s of index %d", other.name, view.Index(), group, index)
			}
		}
		// Every node returns the caller's mistake as an *ec2.Error.
		err, _ := s.retry(func(ctx context.Context) error { _, err := createGroup(ctx, n.Cluster, group); return err })
		if !isCode(err, "InvalidGroup.Duplicate") {
			t.Errorf("second create at %s: got %v, want InvalidGroup.Duplicate", n.name, err)
		}
	}
}

// A result that the leader sends to another node is the same as at the leader.
func TestResultIsTheSameAtEveryNode(t *testing.T) {
	s := startCluster(t, 3, nil)
	run := &state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 2, MaxCount: 2, UserData: []byte{0, 1, 0xff}}
	for _, n := range s.running() {
		result, _ := s.apply(n, run)
		if len(result.Instances) != 2 {
			t.Fatalf("%d instances at %s, want 2", len(result.Instances), n.name)
		}
		for _, i := range result.Instances {
			have, ok := n.View().Instance(i.After.ID)
			if !ok || have.Reservation != i.After.Reservation || string(have.UserData) != string(i.After.UserData) || have.Interface != i.After.Interface {
				t.Errorf("at %s: got %+v, the View has %+v", n.name, i.After, have)
			}
		}
	}
}

func TestOversizedCommandIsRefusedAtEveryNode(t *testing.T) {
	s := startCluster(t, 2, nil)
	run := &state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, UserData: make([]byte, maxCommand)}
	for _, n := range s.running() {
		before := n.View().Index()
		err, _ := s.retry(func(ctx context.Context) error {
			_, _, err := n.Apply(ctx, state.Command{Request: run})
			return err
		})
		if !isCode(err, "RequestEntityTooLarge") {
			t.Errorf("%s: got %v, want RequestEntityTooLarge", n.name, err)
		}
		if got := n.View().Index(); got != before {
			t.Errorf("%s is at index %d, was at %d", n.name, got, before)
		}
	}
}

func TestClusterIsWritableAfterLeaderStops(t *testing.T) {
	s := startCluster(t, 3, nil)
	var last uint64
	for i := range 20 {
		last = s.write(s.follower(), fmt.Sprint("g", i))
	}
	testwait.Fastest(t, "writable again", 3*time.Second, func(try int) time.Duration {
		gone := s.leader()
		gone.kill()
		began := time.Now()
		for i := 0; ; i++ {
			ctx, cancel := context.WithTimeout(t.Context(), testwait.Patience)
			_, err := createGroup(ctx, s.running()[0].Cluster, fmt.Sprintf("after%d-%d", try, i))
			cancel()
			if err == nil {
				break
			}
			if !errors.Is(err, ErrNoLeader) && !errors.Is(err, ErrOutcomeUnknown) {
				t.Fatal(err)
			}
			if time.Since(began) > testwait.Patience {
				t.Fatalf("not writable after %s: %v", testwait.Patience, err)
			}
		}
		took := time.Since(began)
		gone.start(nil)
		ready(t, gone.Cluster)
		return took
	})
	for _, n := range s.running() {
		for i := range 20 {
			if !hasGroup(n.View(), fmt.Sprint("g", i)) {
				t.Errorf("%s lost group g%d, acknowledged before index %d", n.name, i, last)
			}
		}
	}
}

func TestMinorityRefusesWritesAndReportsUnreachedVoters(t *testing.T) {
	s := startCluster(t, 3, nil)
	index := s.write(s.leader(), "before")
	s.waitAll(index)
	remaining := s.follower()
	for _, n := range s.running() {
		if n != remaining {
			n.kill()
		}
	}
	testwait.For(t, "the remaining node has no leader", func() bool { _, ok := remaining.Leader(); return !ok })
	testwait.Fastest(t, "write refused", 4*time.Second, func(int) time.Duration {
		began := time.Now()
		_, err := createGroup(t.Context(), remaining.Cluster, "late")
		if !errors.Is(err, ErrNoLeader) || !strings.Contains(err.Error(), "it reaches 1 of 3 voters ("+string(remaining.name)+"), not ") {
			t.Errorf("write: got %v, want to be told which voters are reached", err)
		}
		return time.Since(began)
	})
	if _, err := remaining.ReadView(t.Context()); !errors.Is(err, ErrNoLeader) {
		t.Errorf("read: got %v, want ErrNoLeader", err)
	}
	if v := remaining.View(); v.Index() < index || !hasGroup(v, "before") {
		t.Errorf("the View is at %d, without the change of index %d", v.Index(), index)
	}
}

// A leader that loses its followers while a change is under way cannot know its outcome. It also
// refuses reads, because its State may be old.
func TestIsolatedLeaderReportsOutcomeUnknown(t *testing.T) {
	s := startCluster(t, 3, nil)
	s.waitAll(s.write(s.leader(), "before"))
	leader := s.leader()
	var others []*testNode
	for _, n := range s.running() {
		if n == leader {
			continue
		}
		others = append(others, n)
		tx, err := n.store.db.Begin(true) // blocks its disk: it runs but acknowledges nothing
		if err != nil {
			t.Fatal(err)
		}
		defer n.kill()
		defer tx.Rollback()
	}
	last := leader.raft.LastIndex()
	written := make(chan error, 1)
	go func() {
		_, err := createGroup(t.Context(), leader.Cluster, "undecided")
		written <- err
	}()
	testwait.For(t, "the leader has the entry on its own disk", func() bool { return leader.raft.LastIndex() > last })
	for _, n := range others {
		n.cancel()
	}
	testwait.For(t, "the others no longer answer", func() bool { // a read succeeds until their last heartbeat is old
		_, err := leader.ReadView(t.Context())
		return errors.Is(err, ErrNoLeader)
	})
	if _, err := leader.ReadView(t.Context()); !errors.Is(err, ErrNoLeader) {
		t.Errorf("read: got %v, want ErrNoLeader", err)
	}
	if err := <-written; !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("write: got %v, want ErrOutcomeUnknown", err)
	}
}

// A leader that is ending proposes nothing for other nodes: they ask the next leader, so no
// outcome is unknown.
func TestEndingLeaderProposesNothing(t *testing.T) {
	s := startCluster(t, 3, nil)
	leader := s.leader()
	late, err := state.EncodeCommand(state.Command{Request: &state.CreateSecurityGroup{Account: albert, Region: region, Name: "late", Description: "test"}})
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if a := leader.answerApply(gone, late); !a.NotLeader {
		t.Errorf("the caller has gone: %+v, want not leader", a)
	}
	leader.kill()
	if a := leader.answerApply(t.Context(), late); !a.NotLeader {
		t.Errorf("the leader has ended: %+v, want not leader", a)
	}
	s.write(s.leader(), "late") // fails if it was proposed before
}

// A node does not repeat a command whose answer is lost: the change is made once, and the caller
// learns that its outcome is unknown.
func TestCommandIsNotSentTwice(t *testing.T) {
	var armed atomic.Bool
	var s *testCluster
	s = startCluster(t, 3, func(c *Config) {
		at := c.Node
		c.Now = func() time.Time { // the leader calls Now just before it proposes
			if armed.CompareAndSwap(true, false) {
				for name := range s.all {
					if name != at {
						s.all[at].peer.Drop(string(name))
					}
				}
			}
			return time.Now()
		}
	})
	n := s.follower()
	armed.Store(true)
	if _, err := createGroup(t.Context(), n.Cluster, "once"); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("got %v, want ErrOutcomeUnknown", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testwait.Patience)
	defer cancel()
	for view := n.View(); !hasGroup(view, "once"); {
		var err error
		if view, err = n.ReadView(ctx); err != nil && !errors.Is(err, ErrNoLeader) {
			t.Fatalf("the change was not made: %v", err)
		} else if err != nil {
			view = n.View()
		}
	}
}

// A restarted node applies the entries up to Config.Decided without any other node.
func TestRestartedNodeAppliesDecidedEntriesWithoutLeader(t *testing.T) {
	s := startCluster(t, 3, nil)
	var last uint64
	for i := range 30 {
		last = s.write(s.leader(), fmt.Sprint("g", i))
	}
	s.waitAll(last)
	n := s.follower()
	for _, other := range s.running() {
		other.kill()
	}
	n.nodes.cfg = func(c *Config) { c.Decided = last }
	n.start(nil)
	ctx, cancel := context.WithTimeout(t.Context(), testwait.Patience)
	defer cancel()
	view, err := n.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if view.Index() < last || !hasGroup(view, "g29") {
		t.Errorf("the first View is at %d, want %d", view.Index(), last)
	}
}

// If the disk ends before the enforced index, Next waits until the leader has sent the entries.
func TestNextWaitsForDecidedIndex(t *testing.T) {
	s := startCluster(t, 3, nil)
	n := s.follower()
	at := s.write(s.leader(), "seen")
	s.waitAll(at)
	n.kill()
	last := s.write(s.leader(), "missed")
	others := s.running()
	for _, o := range others {
		o.kill()
	}
	s.cfg = func(c *Config) { c.Decided = last }
	n.start(nil)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if view, err := n.Next(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Next returned %v, %v; want it to wait for entry %d", view, err, last)
	}
	for _, o := range others {
		o.start(nil)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testwait.Patience)
	defer cancel()
	view, err := n.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !hasGroup(view, "missed") {
		t.Errorf("the first View is at %d, want %d", view.Index(), last)
	}
}
