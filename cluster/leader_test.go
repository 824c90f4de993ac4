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
	s := begin(t, 3, nil)
	for i, n := range s.up() {
		group := fmt.Sprint("from", i)
		index := s.write(n, group)
		if !hasGroup(n.View(), group) {
			t.Errorf("%s does not read its own write", n.name)
		}
		for _, other := range s.up() {
			view := s.read(other)
			if !hasGroup(view, group) || view.Index() < index {
				t.Errorf("%s reads at %d without %s of index %d", other.name, view.Index(), group, index)
			}
		}
		// The caller's mistake stays one, whichever node it comes by.
		err, _ := s.persist(func(ctx context.Context) error { _, err := createGroup(ctx, n.Cluster, group); return err })
		if !isCode(err, "InvalidGroup.Duplicate") {
			t.Errorf("second create at %s: got %v, want InvalidGroup.Duplicate", n.name, err)
		}
	}
}

// What a request made comes back through the leader as it does at the leader.
func TestResultIsTheSameAtEveryNode(t *testing.T) {
	s := begin(t, 3, nil)
	run := &state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 2, MaxCount: 2, UserData: []byte{0, 1, 0xff}}
	for _, n := range s.up() {
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
	s := begin(t, 2, nil)
	run := &state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, UserData: make([]byte, maxCommand)}
	for _, n := range s.up() {
		before := n.View().Index()
		err, _ := s.persist(func(ctx context.Context) error {
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

func TestWritableAgainAfterTheLeaderIsGone(t *testing.T) {
	s := begin(t, 3, nil)
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
			_, err := createGroup(ctx, s.up()[0].Cluster, fmt.Sprintf("after%d-%d", try, i))
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
	for _, n := range s.up() {
		for i := range 20 {
			if !hasGroup(n.View(), fmt.Sprint("g", i)) {
				t.Errorf("%s lost group g%d, acknowledged before index %d", n.name, i, last)
			}
		}
	}
}

func TestMinorityDecidesNothingAndSaysWhy(t *testing.T) {
	s := begin(t, 3, nil)
	index := s.write(s.leader(), "before")
	s.waitAll(index)
	left := s.follower()
	for _, n := range s.up() {
		if n != left {
			n.kill()
		}
	}
	await(t, "the one that is left knows that it has no leader", func() bool { _, ok := left.Leader(); return !ok })
	testwait.Fastest(t, "a write refused", 4*time.Second, func(int) time.Duration {
		began := time.Now()
		_, err := createGroup(t.Context(), left.Cluster, "late")
		if !errors.Is(err, ErrNoLeader) || !strings.Contains(err.Error(), "it reaches 1 of 3 voters ("+string(left.name)+"), not ") {
			t.Errorf("write: got %v, want to be told which voters are reached", err)
		}
		return time.Since(began)
	})
	if _, err := left.ReadView(t.Context()); !errors.Is(err, ErrNoLeader) {
		t.Errorf("read: got %v, want ErrNoLeader", err)
	}
	if v := left.View(); v.Index() < index || !hasGroup(v, "before") {
		t.Errorf("the View is at %d, without what was decided at %d", v.Index(), index)
	}
}

// A leader that loses the others while it decides cannot say what became of a change,
// and answers no read from what may be stale.
func TestLeaderThatIsCutOffWhileItDecides(t *testing.T) {
	s := begin(t, 3, nil)
	s.waitAll(s.write(s.leader(), "before"))
	leader := s.leader()
	var others []*node
	for _, n := range s.up() {
		if n == leader {
			continue
		}
		others = append(others, n)
		tx, err := n.store.db.Begin(true) // its disk stands still: it lives and acknowledges nothing
		if err != nil {
			t.Fatal(err)
		}
		defer n.kill()
		defer tx.Rollback()
	}
	last := leader.raft.LastIndex()
	written := make(chan error, 1)
	go func() {
		_, err := createGroup(t.Context(), leader.Cluster, "torn")
		written <- err
	}()
	await(t, "the leader has it on its own disk", func() bool { return leader.raft.LastIndex() > last })
	for _, n := range others {
		n.cancel()
	}
	await(t, "the others do not answer any more", func() bool { // a last heartbeat of theirs makes a read good
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

// A leader whose daemon ends proposes nothing more for others: they wait for the next one,
// and nobody has to be told that the outcome is unknown.
func TestLeaderThatEndsProposesNothing(t *testing.T) {
	s := begin(t, 3, nil)
	leader := s.leader()
	late, err := state.EncodeCommand(state.Command{Request: &state.CreateSecurityGroup{Account: albert, Region: region, Name: "late", Description: "test"}})
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if a := leader.answerApply(gone, late); !a.NotLeader {
		t.Errorf("asked by one that is gone: %+v, want not leader", a)
	}
	leader.kill()
	if a := leader.answerApply(t.Context(), late); !a.NotLeader {
		t.Errorf("asked when it has ended: %+v, want not leader", a)
	}
	s.write(s.leader(), "late") // is not there yet
}

// An answer that is lost on its way does not make a node ask again: the change is there,
// once, and the caller is told that nobody knows.
func TestCommandIsNotSentTwice(t *testing.T) {
	var armed atomic.Bool
	var s *nodes
	s = begin(t, 3, func(c *Config) {
		at := c.Node
		c.Now = func() time.Time { // the leader asks for the time just before it proposes
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
			t.Fatalf("the change is not there: %v", err)
		} else if err != nil {
			view = n.View()
		}
	}
}

// A node's own word on what it had decided brings its whole State back before any other
// node says a word.
func TestDecidedStateIsThereBeforeTheLeader(t *testing.T) {
	s := begin(t, 3, nil)
	var last uint64
	for i := range 30 {
		last = s.write(s.leader(), fmt.Sprint("g", i))
	}
	s.waitAll(last)
	n := s.follower()
	for _, other := range s.up() {
		other.kill()
	}
	n.of.cfg = func(c *Config) { c.Decided = last }
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

// A disk that does not reach what was enforced opens nothing until the leader is there.
func TestNextWaitsForWhatWasDecided(t *testing.T) {
	s := begin(t, 3, nil)
	n := s.follower()
	at := s.write(s.leader(), "seen")
	s.waitAll(at)
	n.kill()
	last := s.write(s.leader(), "missed")
	others := s.up()
	for _, o := range others {
		o.kill()
	}
	s.cfg = func(c *Config) { c.Decided = last }
	n.start(nil)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if view, err := n.Next(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Next gave %v, %v; want to wait for entry %d", view, err, last)
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
