package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2/state"
	"palisade/internal/testwait"
)

// Writers on all of five nodes, while the leader is stopped: each change that was
// acknowledged is there at the end, on every node, once, and each that was refused
// without having been proposed is not.
func TestAcknowledgedChangesAreThereOnceOnEveryNode(t *testing.T) {
	s := begin(t, 5, nil)
	type outcome struct {
		rule string
		err  error
	}
	_, base := s.apply(s.leader(), &state.CreateSecurityGroup{Account: albert, Region: region, Name: "web", Description: "test"})
	s.waitAll(base)
	ctx, cancel := context.WithTimeout(t.Context(), 2*testwait.Patience)
	defer cancel()
	term := s.leader().raft.CurrentTerm()

	var mu sync.Mutex
	var outcomes []outcome
	acked := make(chan struct{}, 1<<16)
	quit := make(chan struct{})
	var writers sync.WaitGroup
	for w, n := range s.up() {
		c := n.Cluster // the one that runs now
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				group := fmt.Sprintf("w%d-%d", w, i)
				_, err := createGroup(ctx, c, group)
				mu.Lock()
				outcomes = append(outcomes, outcome{group, err})
				mu.Unlock()
				if errors.Is(err, ErrStopped) {
					return
				}
				if err == nil {
					acked <- struct{}{}
				}
			}
		})
	}
	count := func(n int) {
		t.Helper()
		for range n {
			select {
			case <-acked:
			case <-ctx.Done():
				t.Fatal("too few changes were acknowledged; the test proves nothing")
			}
		}
	}
	count(60)
	gone := s.leader()
	gone.kill()
	count(60)
	close(quit)
	writers.Wait()
	gone.start(nil)
	ready(t, gone.Cluster)
	final := s.write(gone, "final")
	s.waitAll(final)

	unknown, refused := 0, 0
	for _, n := range s.up() {
		have := make(map[string]int)
		for g := range n.View().GroupsOf(albert, region) {
			have[g.Name]++
		}
		unknown, refused = 0, 0
		for _, o := range outcomes {
			got := have[o.rule]
			switch {
			case o.err == nil && got != 1:
				t.Errorf("%s has %d of %s, which was acknowledged", n.name, got, o.rule)
			case errors.Is(o.err, ErrNoLeader) && got != 0:
				t.Errorf("%s has %s, which was said not to be proposed", n.name, o.rule)
			case isCode(o.err, "InvalidGroup.Duplicate"):
				t.Errorf("%s was proposed twice", o.rule)
			case errors.Is(o.err, ErrNoLeader):
				refused++
			case o.err != nil:
				unknown++
			}
		}
	}
	// Of each writer one change is under way when a leader is lost. A busy machine may lose more
	// leaders than the one that was stopped.
	lost := int(s.leader().raft.CurrentTerm() - term)
	t.Logf("%d changes, %d of them refused, %d without an answer; leaders were lost %d times", len(outcomes), refused, unknown, lost)
	if unknown > max(len(outcomes)/4, lost*len(s.all)) {
		t.Errorf("%d of %d changes got no answer", unknown, len(outcomes))
	}
}

// What a node acknowledged is in force on all within a moment, not after Raft's own second or
// two. Where a change takes longer than a moment, for the disk is slow, so may this.
func TestFollowersLearnOfACommitAtOnce(t *testing.T) {
	s := begin(t, 3, nil)
	for _, c := range []struct {
		what string
		at   *node
	}{{"the leader", s.leader()}, {"a follower", s.follower()}} {
		var acked, all []time.Duration
		for i := range 100 {
			began := time.Now()
			index := s.write(c.at, fmt.Sprint(c.at.name, i))
			acked = append(acked, time.Since(began))
			s.waitAll(index)
			all = append(all, time.Since(began)-acked[i])
		}
		slices.Sort(acked)
		slices.Sort(all)
		t.Logf("at %s: acknowledged p50 %v p99 %v; then everywhere p50 %v p99 %v", c.what, acked[50], acked[98], all[50], all[98])
		if all[50] > max(50*time.Millisecond, acked[50]) {
			t.Errorf("at %s: half of the changes took %v and more to be everywhere", c.what, all[50])
		}
	}
}

// A node that missed what the log no longer has gets a snapshot, in mid-life, and its
// consumer all that changed, deletions too.
func TestLaggingNodeGetsASnapshotAndTheRightChanges(t *testing.T) {
	s := begin(t, 3, func(c *Config) {
		c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs = 20, 10*time.Millisecond, 5
	})
	s.write(s.leader(), "goes")
	s.write(s.leader(), "stays")
	last := s.write(s.leader(), "old")
	s.waitAll(last)
	n := s.follower()
	n.kill()
	leader := s.leader()
	s.apply(leader, &state.DeleteSecurityGroup{Account: albert, Region: region, Group: state.GroupSelector{Name: "goes"}})
	for i := range 60 {
		last = s.write(leader, fmt.Sprint("new", i))
	}
	await(t, "the leader has forgotten what the other missed", func() bool {
		if err := leader.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			t.Log(err)
		}
		first, err := leader.store.FirstIndex()
		return err == nil && first > last-30
	})

	// It begins alone, so that its consumer has seen the old state when the snapshot comes.
	others := s.up()
	for _, o := range others {
		o.kill()
	}
	n.start(nil)
	ctx, cancel := context.WithTimeout(t.Context(), testwait.Patience)
	defer cancel()
	view, err := n.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !hasGroup(view, "goes") || hasGroup(view, "new59") {
		t.Fatalf("the first View, at %d, is not the old one", view.Index())
	}
	for _, o := range others {
		o.start(nil)
	}
	have := map[string]bool{"goes": true, "stays": true, "old": true, "default": true}
	for !hasGroup(view, "new59") {
		if view, err = n.Next(ctx); err != nil {
			t.Fatal(err)
		}
		for _, c := range view.Changes().Groups {
			switch {
			case c.Before == nil && have[c.After.Name]:
				t.Errorf("group %s is new again", c.After.Name)
			case c.Before == nil:
				have[c.After.Name] = true
			case c.After == nil:
				delete(have, c.Before.Name)
			}
		}
	}
	for g := range view.GroupsOf(albert, region) {
		if !have[g.Name] {
			t.Errorf("no change told of group %s", g.Name)
		}
		delete(have, g.Name)
	}
	for left := range have {
		t.Errorf("no change told that group %s is gone", left)
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(n.cfg.Dir, 2, n.raftLogger())
	if err != nil {
		t.Fatal(err)
	}
	if list, err := snaps.List(); err != nil || len(list) == 0 || list[0].Index < last-30 {
		t.Errorf("it caught up without a snapshot (%v, %v): the test proves nothing", list, err)
	}
}

// Raft never takes a State back.
func TestOlderSnapshotIsNotTaken(t *testing.T) {
	c, _ := open(t, Config{Dir: t.TempDir()})
	ready(t, c)
	older := c.View()
	if _, err := createGroup(t.Context(), c, "newer"); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(older.WriteSnapshot(w)) }()
	if err := c.fsm.Restore(r); err != nil {
		t.Fatal(err)
	}
	if !hasGroup(c.View(), "newer") {
		t.Errorf("the State went back to %d", c.View().Index())
	}
}
