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

// outcome is a group that a writer created, and the error of that call.
type outcome struct {
	group string
	err   error
}

// Changes are written at each of five nodes, and meanwhile the leader stops. Afterwards every node
// has each acknowledged change once, and no change that failed with ErrNoLeader.
func TestAcknowledgedChangesExistOnceOnEveryNode(t *testing.T) {
	s := startCluster(t, 5, nil)
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
	for w, n := range s.running() {
		c := n.Cluster // the Cluster before the restart; the restart makes another
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
		for done := range n {
			select {
			case <-acked:
			case <-ctx.Done():
				t.Fatalf("timeout: %d of the next %d changes were acknowledged", done, n)
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

	unknown, refused := s.checkOutcomes(outcomes)
	// Each time a leader is lost, each writer has one change under way, whose outcome may be
	// unknown. On a busy machine other leaders are lost besides the one that the test stops.
	lost := int(s.leader().raft.CurrentTerm() - term)
	t.Logf("%d changes, %d refused, %d with unknown outcome; %d leaders lost", len(outcomes), refused, unknown, lost)
	if limit := max(len(outcomes)/4, lost*len(s.all)); unknown > limit {
		t.Errorf("%d of %d changes have an unknown outcome, want at most %d", unknown, len(outcomes), limit)
	}
}

// checkOutcomes compares the groups of every running node with the outcomes. It returns how many
// outcomes are unknown, and how many changes were refused because there was no leader.
func (s *testCluster) checkOutcomes(outcomes []outcome) (unknown, refused int) {
	s.t.Helper()
	for _, n := range s.running() {
		have := make(map[string]int)
		for g := range n.View().GroupsOf(albert, region) {
			have[g.Name]++
		}
		unknown, refused = 0, 0
		for _, o := range outcomes {
			got := have[o.group]
			switch {
			case o.err == nil && got != 1:
				s.t.Errorf("%s has group %s %d times, want once, because it was acknowledged", n.name, o.group, got)
			case errors.Is(o.err, ErrNoLeader) && got != 0:
				s.t.Errorf("%s has group %s, whose creation failed with ErrNoLeader", n.name, o.group)
			case isCode(o.err, "InvalidGroup.Duplicate"):
				s.t.Errorf("group %s was proposed twice", o.group)
			case errors.Is(o.err, ErrNoLeader):
				refused++
			case o.err != nil:
				unknown++
			}
		}
	}
	return unknown, refused
}

// All nodes apply a change within 50 ms of its acknowledgement; Raft alone would take one to two
// seconds. On a slow disk they may take as long again as the acknowledgement took.
func TestFollowersApplyCommittedEntriesAtOnce(t *testing.T) {
	s := startCluster(t, 3, nil)
	for _, c := range []struct {
		what string
		at   *testNode
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
		t.Logf("at %s: acknowledged p50 %v p99 %v; then on all nodes p50 %v p99 %v", c.what, acked[50], acked[98], all[50], all[98])
		if limit := max(50*time.Millisecond, acked[50]); all[50] > limit {
			t.Errorf("changes at %s: all nodes applied them in %v (median), want at most %v", c.what, all[50], limit)
		}
	}
}

// A node lacks entries that the leader's log no longer has, so the leader sends it a snapshot while
// it runs. Then Next must return every change in the snapshot, including deletions.
func TestLaggingNodeCatchesUpBySnapshotWithItsChanges(t *testing.T) {
	s := startCluster(t, 3, func(c *Config) {
		c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs = 20, 10*time.Millisecond, 5
	})
	s.write(s.leader(), "deleted")
	s.write(s.leader(), "kept")
	last := s.write(s.leader(), "old")
	s.waitAll(last)
	n := s.follower()
	n.kill()
	leader := s.leader()
	s.apply(leader, &state.DeleteSecurityGroup{Account: albert, Region: region, Group: state.GroupSelector{Name: "deleted"}})
	for i := range 60 {
		last = s.write(leader, fmt.Sprint("new", i))
	}
	testwait.For(t, "the leader's log no longer has the missed entries", func() bool {
		if err := leader.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			t.Log(err)
		}
		first, err := leader.store.FirstIndex()
		return err == nil && first > last-30
	})

	// The node starts alone, so that Next returns the old state before the snapshot arrives.
	others := s.running()
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
	if !hasGroup(view, "deleted") || hasGroup(view, "new59") {
		t.Fatalf("the first View, of index %d, is not the state before the node stopped", view.Index())
	}
	for _, o := range others {
		o.start(nil)
	}
	have := map[string]bool{"deleted": true, "kept": true, "old": true, "default": true}
	for !hasGroup(view, "new59") {
		if view, err = n.Next(ctx); err != nil {
			t.Fatal(err)
		}
		for _, c := range view.Changes().Groups {
			switch {
			case c.Before == nil && have[c.After.Name]:
				t.Errorf("group %s is new in two Views, want in one", c.After.Name)
			case c.Before == nil:
				have[c.After.Name] = true
			case c.After == nil:
				delete(have, c.Before.Name)
			}
		}
	}
	for g := range view.GroupsOf(albert, region) {
		if !have[g.Name] {
			t.Errorf("group %s is in no reported change", g.Name)
		}
		delete(have, g.Name)
	}
	for name := range have {
		t.Errorf("the deletion of group %s is in no reported change", name)
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(n.cfg.Dir, 2, n.raftLogger())
	if err != nil {
		t.Fatal(err)
	}
	if list, err := snaps.List(); err != nil || len(list) == 0 || list[0].Index < last-30 {
		t.Errorf("the node got no snapshot, so the test is void: its snapshots are %v, error %v", list, err)
	}
}

// Restore keeps the State if the snapshot is older.
func TestRestoreIgnoresOlderSnapshot(t *testing.T) {
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
		t.Errorf("Restore replaced the State by an older snapshot: index %d", c.View().Index())
	}
}
