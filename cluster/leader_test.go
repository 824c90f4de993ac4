package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/testwait"
)

func TestEveryNodeWritesAndReadsItsWrites(t *testing.T) {
	s := startCluster(t, 3, nil)
	for i, n := range s.running() {
		group := fmt.Sprint("from", i)
		index := s.write(n, group)
		if !hasGroup(n.View(), group) {
			t.Errorf("%s has acknowledged group %s, and its View does not have it", n.name, group)
		}
		for _, other := range s.running() {
			view := s.read(other)
			if !hasGroup(view, group) || view.Index() < index {
				t.Errorf("ReadView at %s: index %d, has group %s: %t; want index %d or higher, with the group", other.name, view.Index(), group, hasGroup(view, group), index)
			}
		}
		// Every node returns EC2's error for the second creation of a group.
		err, _ := s.retry(func(ctx context.Context) error { _, err := createGroup(ctx, n.Cluster, group); return err })
		if !isCode(err, "InvalidGroup.Duplicate") {
			t.Errorf("second create at %s: got %v, want InvalidGroup.Duplicate", n.name, err)
		}
	}
}

// Apply at a follower returns the same result as at the leader.
func TestResultIsTheSameAtEveryNode(t *testing.T) {
	s := startCluster(t, 3, nil)
	run := &state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 2, MaxCount: 2, UserData: []byte{0, 1, 0xff}}
	for _, n := range s.running() {
		result, _ := s.apply(n, run)
		if len(result.Instances) != 2 {
			t.Fatalf("RunInstances at %s: %d instances, want 2", n.name, len(result.Instances))
		}
		for _, i := range result.Instances {
			have, ok := n.View().Instance(i.After.ID)
			if !ok || have.Reservation != i.After.Reservation || string(have.UserData) != string(i.After.UserData) || have.Interface != i.After.Interface {
				t.Errorf("RunInstances at %s returned %+v, want it as in the View: %+v", n.name, i.After, have)
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
			_, _, err := asUser(ctx, n.Cluster, run)
			return err
		})
		if !isCode(err, "RequestEntityTooLarge") {
			t.Errorf("%s: got %v, want RequestEntityTooLarge", n.name, err)
		}
		if got := n.View().Index(); got != before {
			t.Errorf("%s has index %d after the refusal, want %d as before", n.name, got, before)
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
				t.Fatalf("the cluster is not writable %s after its leader stopped: %v", testwait.Patience, err)
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
				t.Errorf("%s lacks group g%d, which was acknowledged at or before index %d", n.name, i, last)
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
			t.Errorf("write: got %v, want ErrNoLeader that says which voters answer", err)
		}
		return time.Since(began)
	})
	if _, err := remaining.ReadView(t.Context()); !errors.Is(err, ErrNoLeader) {
		t.Errorf("read: got %v, want ErrNoLeader", err)
	}
	if v := remaining.View(); v.Index() < index || !hasGroup(v, "before") {
		t.Errorf("the View has index %d, group before: %t; want index %d or higher, with the group", v.Index(), hasGroup(v, "before"), index)
	}
}

// A leader that loses its followers while a change is under way cannot know the outcome of the
// change. It also refuses reads, because its State may be old.
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
		tx, err := n.store.db.Begin(true) // blocks writes of this follower: it runs but acknowledges no entry
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
		if errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("read while the leader is lost: %v, but a read has no outcome", err)
		}
		return errors.Is(err, ErrNoLeader)
	})
	if _, err := leader.ReadView(t.Context()); !errors.Is(err, ErrNoLeader) {
		t.Errorf("read: got %v, want ErrNoLeader", err)
	}
	if err := <-written; !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("write: got %v, want ErrOutcomeUnknown", err)
	}
}

// A leader whose Run is ending proposes no command of another node. So that node can ask the next
// leader, and the outcome is known.
func TestEndingLeaderProposesNothing(t *testing.T) {
	s := startCluster(t, 3, nil)
	leader := s.leader()
	late, err := state.EncodeCommand(state.Command{Request: &state.CreateSecurityGroup{Account: albert, Region: region, Name: "late", Description: "test"}})
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if a := leader.answerApply(gone, "node1", late); !a.NotLeader {
		t.Errorf("the caller's context has ended: got answer %+v, want NotLeader", a)
	}
	leader.kill()
	if a := leader.answerApply(t.Context(), "node1", late); !a.NotLeader {
		t.Errorf("Run has ended: got answer %+v, want NotLeader", a)
	}
	s.write(s.leader(), "late") // fails if the old leader has proposed the command
}

// A node does not send a command again if the leader's answer is lost: the change is made once, and
// Apply returns ErrOutcomeUnknown.
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
		t.Errorf("write whose answer was lost: got %v, want ErrOutcomeUnknown", err)
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

// A restarted node applies the entries up to Config.Decided while no other node runs.
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
		t.Errorf("the first View: index %d, has group g29: %t; want index %d or higher, with the group", view.Index(), hasGroup(view, "g29"), last)
	}
}

// If the log on disk ends before the enforced index, Next waits until the leader has sent the
// missing entries.
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
		t.Fatalf("Next returned View %v, error %v; want it to wait for entry %d until its deadline", view, err, last)
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
		t.Errorf("the first View has index %d and no group missed, want index %d with the group", view.Index(), last)
	}
}

// A command of a caller that is refused does not become an entry of the log, whichever node it was sent to. It is
// refused with every change that was acknowledged before.
func TestRefusedCommandOfCallerIsNotProposed(t *testing.T) {
	s := startCluster(t, 3, nil)
	for i, at := range []*testNode{s.leader(), s.follower()} {
		request := &state.CreateAccount{ID: ec2.AccountID(fmt.Sprint("11112222333", i)), Name: "of " + string(at.name), Platform: ec2.Classic, AccessKey: fmt.Sprint("AKIDNEW", i), Secret: "x"}
		_, index := s.apply(at, request)
		create := state.Command{Request: request, Audit: &ec2.Audit{Action: "CreateAccount"}}
		for range 50 {
			_, seen, err := at.Apply(t.Context(), create)
			if refusal, ok := errors.AsType[*ec2.Error](err); !ok || refusal.Code != "EntityAlreadyExists" || seen < index {
				t.Fatalf("%s: the same account again: error %v at index %d, want EntityAlreadyExists at %d or later", at.name, err, seen, index)
			}
		}
		if last := s.leader().raft.LastIndex(); last > index+5 { // barriers follow the account's entry
			t.Errorf("%s: the log grew from %d to %d by 50 refused commands", at.name, index, last)
		}
		for r := range s.read(at).AuditRecords() {
			t.Errorf("%s: a refused command left the record %+v", at.name, r)
		}
	}
}
