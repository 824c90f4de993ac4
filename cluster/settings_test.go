package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"palisade/cluster/gossip"
	"palisade/ec2/state"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

// The timeouts of a node among others are those of its role; a cluster of one has one kind.
func TestTimeoutsFollowTheRole(t *testing.T) {
	s := newCircle(t, 2, nil)
	heartbeat := func(c *Cluster) time.Duration { return c.raft.ReloadableConfig().HeartbeatTimeout }
	for _, leader := range []bool{true, false, true} {
		want := electionTimeout
		if leader {
			want = leaderTimeout
		}
		if err := s.setTimeouts(leader); err != nil || heartbeat(s.Cluster) != want {
			t.Errorf("leader: %v, the timeout is %v, error %v; want %v", leader, heartbeat(s.Cluster), err, want)
		}
	}
	if err := s.reloadTimeouts(time.Nanosecond); err == nil {
		t.Error("Raft accepted a timeout of a nanosecond")
	}
	one, _ := open(t, Config{Dir: t.TempDir()})
	ready(t, one)
	if err := one.setTimeouts(true); err != nil || heartbeat(one) != 50*time.Millisecond {
		t.Errorf("a cluster of one: the timeout is %v, error %v; want 50ms", heartbeat(one), err)
	}
	for _, tt := range []struct {
		c                        *Cluster
		alone                    bool
		heartbeat, lease, commit time.Duration
	}{
		{one, true, 50 * time.Millisecond, 50 * time.Millisecond, 10 * time.Millisecond},
		{s.Cluster, false, electionTimeout, leaseTimeout, commitTimeout},
		{s.Cluster, true, 2 * electionTimeout, leaseTimeout, commitTimeout},
	} {
		tt.c.cfg.SnapshotThreshold, tt.c.cfg.TrailingLogs, tt.c.cfg.SnapshotInterval = 7, 8, 9*time.Second
		got := tt.c.raftConfig(tt.alone)
		if got.HeartbeatTimeout != tt.heartbeat || got.ElectionTimeout != tt.heartbeat || got.LeaderLeaseTimeout != tt.lease || got.CommitTimeout != tt.commit {
			t.Errorf("alone: %v: timeouts %v, %v, %v, %v; want %v, the same, %v, %v", tt.alone, got.HeartbeatTimeout, got.ElectionTimeout, got.LeaderLeaseTimeout, got.CommitTimeout, tt.heartbeat, tt.lease, tt.commit)
		}
		if got.LocalID != "node1" || got.ShutdownOnRemove || got.MaxAppendEntries != 1024 || got.SnapshotThreshold != 7 || got.TrailingLogs != 8 || got.SnapshotInterval != 9*time.Second ||
			!got.RestoreCommittedLogs || !got.NoSnapshotRestoreOnStart || !got.NoLegacyTelemetry || got.Logger == nil {
			t.Errorf("Raft's configuration is %+v", got)
		}
	}
}

// Every entry on disk is committed if this node is the only voter; else those up to the commit index on disk,
// or up to what its switch enforced.
func TestDecidedEntriesDependOnTheVoters(t *testing.T) {
	s := logOf(t, 1, 5)
	if err := errors.Join(s.StageCommitIndex(3), s.StoreLog(&raft.Log{Index: 6})); err != nil {
		t.Fatal(err)
	}
	server := func(id raft.ServerID, suffrage raft.ServerSuffrage) raft.Server {
		return raft.Server{ID: id, Suffrage: suffrage}
	}
	for _, tt := range []struct {
		servers []raft.Server
		decided uint64
		want    uint64
		alone   bool
	}{
		{[]raft.Server{server("node1", raft.Voter)}, 0, 1<<64 - 1, true},
		{[]raft.Server{server("node1", raft.Voter), server("node2", raft.Nonvoter)}, 0, 1<<64 - 1, true},
		{[]raft.Server{server("node1", raft.Voter), server("node2", raft.Voter)}, 0, 3, false},
		{[]raft.Server{server("node1", raft.Nonvoter), server("node2", raft.Voter)}, 5, 5, false},
		{[]raft.Server{server("node2", raft.Voter)}, 2, 3, false},
		{nil, 0, 3, false},
	} {
		c := &Cluster{store: s, cfg: Config{Node: "node1", Decided: tt.decided}}
		if got, err := c.decided(raft.Configuration{Servers: tt.servers}); err != nil || got != tt.want || c.alone != tt.alone {
			t.Errorf("%+v: decided up to %d, alone: %v, error %v", tt, got, c.alone, err)
		}
	}
}

// A Config that lacks what it needs is refused, and the defaults are those of its comments.
func TestNewChecksItsConfigAndFillsDefaults(t *testing.T) {
	s := newCircle(t, 1, nil)
	id := s.cfg.Identity
	newPeer := func() *peer.Peer {
		p, err := peer.New(peer.Config{Identity: id, Listen: anyPort, Nodes: s.Directory()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	dir := t.TempDir()
	for what, tt := range map[string]struct {
		cfg Config
		ok  bool
	}{
		"nothing":              {Config{}, false},
		"no node":              {Config{Dir: dir}, false},
		"no directory":         {Config{Node: "node1"}, false},
		"one":                  {Config{Node: "node1", Dir: dir}, true},
		"one that begins":      {Config{Node: "node1", Dir: dir, Bootstrap: bootstrap()}, true},
		"join alone":           {Config{Node: "node1", Dir: dir, Join: true}, false},
		"no address":           {Config{Node: "node1", Dir: dir, Peer: newPeer(), Identity: id}, false},
		"no identity":          {Config{Node: "node1", Dir: dir, Peer: newPeer(), PeerAddress: "192.0.2.1:7400"}, false},
		"with others":          {Config{Node: "node1", Dir: dir, Peer: newPeer(), PeerAddress: "192.0.2.1:7400", Identity: id}, true},
		"join":                 {Config{Node: "node1", Dir: dir, Peer: newPeer(), PeerAddress: "192.0.2.1:7400", Identity: id, Join: true}, true},
		"join and begin":       {Config{Node: "node1", Dir: dir, Peer: newPeer(), PeerAddress: "192.0.2.1:7400", Identity: id, Join: true, Bootstrap: bootstrap()[:1]}, false},
		"gossip with no peer":  {Config{Node: "node1", Dir: dir, GossipAddr: anyPort}, true},
		"gossip on no address": {Config{Node: "node1", Dir: dir, Peer: newPeer(), PeerAddress: "192.0.2.1:7400", Identity: id}, true},
	} {
		c, err := New(tt.cfg)
		if (err == nil) != tt.ok || (c != nil) != tt.ok {
			t.Errorf("%s: %v, want accepted: %v", what, err, tt.ok)
		}
		if c == nil {
			continue
		}
		if d := c.cfg; d.SnapshotThreshold != 4096 || d.SnapshotInterval != 30*time.Second || d.TrailingLogs != 1024 || d.Logger == nil || time.Since(d.Now()) > time.Minute {
			t.Errorf("%s: the defaults are %d entries, %v, %d trailing entries", what, d.SnapshotThreshold, d.SnapshotInterval, d.TrailingLogs)
		}
		if (c.stream != nil) != (tt.cfg.Peer != nil) || c.gossip != nil {
			t.Errorf("%s: it has a stream: %v, gossip: %v", what, c.stream != nil, c.gossip != nil)
		}
	}
	c, err := New(Config{Node: "node1", Dir: dir, SnapshotThreshold: 1, SnapshotInterval: time.Hour, TrailingLogs: 1})
	if err != nil || c.cfg.SnapshotThreshold != 1 || c.cfg.SnapshotInterval != time.Hour || c.cfg.TrailingLogs != 1 {
		t.Errorf("the settings became %+v, error %v", c.cfg, err)
	}
	// By default what is applied is enforced.
	if got := s.cfg.Enforced(); got != s.View().Index() {
		t.Errorf("enforced index %d, want %d", got, s.View().Index())
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if s.cfg.WaitEnforced(short, s.View().Index()+1) || !s.cfg.WaitEnforced(short, s.View().Index()) {
		t.Errorf("index %d counts as enforced, or an older one does not", s.View().Index()+1)
	}
	if text := fmt.Sprint(c); text != "not running, index 0" {
		t.Errorf("a Cluster that does not run is %q", text)
	}
}

// After its entries the leader writes one barrier, so that all nodes apply them at once. Other nodes do not, nor
// does a leader without others.
func TestOnlyTheLeaderOfOthersWritesBarriers(t *testing.T) {
	for voters, barriers := range map[int]uint64{1: 0, 2: 1} {
		s := newCircle(t, voters, nil)
		if voters == 2 {
			s.elect()
		}
		testwait.For(t, "node1 takes over", func() bool { return s.raft.State() == raft.Leader && s.takeOver(t.Context()) == nil })
		term, last := s.leadingTerm(), s.raft.LastIndex()
		ctx, cancel := context.WithCancel(t.Context())
		s.tasks.start(func() { s.runBarriers(ctx) })
		s.setLeading(0)
		s.committed <- struct{}{}
		testwait.For(t, "the signal was read", func() bool { return len(s.committed) == 0 })
		time.Sleep(10 * time.Millisecond) // so long it may have looked at the term
		s.setLeading(term)
		if _, _, err := s.propose(t.Context(), state.Command{Request: &state.Sweep{}}); err != nil {
			t.Fatal(err)
		}
		testwait.For(t, "the barrier is written", func() bool { return s.raft.LastIndex() >= last+1+barriers && len(s.committed) == 0 })
		time.Sleep(10 * time.Millisecond) // another would be written now
		cancel()
		s.tasks.wg.Wait()
		if now := s.raft.LastIndex(); now != last+1+barriers {
			t.Errorf("%d voters: the log grew from %d to %d by one command, want %d barriers", voters, last, now, barriers)
		}
	}
}

// While a cluster runs with gossip, it knows the members and uses the keys that it was given.
func TestGossipRunsWithItsCluster(t *testing.T) {
	s := newCircle(t, 1, nil)
	if s.GossipMembers() != nil || s.GossipKeysInUse() != nil || s.GossipStats() != (gossip.Stats{}) {
		t.Error("a cluster without gossip knows of gossip")
	}
	if down, changed := s.Down(); down != nil || changed != nil {
		t.Error("a cluster without gossip knows who is down")
	}
	s.SetPresence(nil) // there is no gossip to send it
	c, stop := startGossip(t, s, true)
	defer stop()
	key := make([]byte, 32)
	testwait.For(t, "gossip uses its key", func() bool { return slices.EqualFunc(c.GossipKeysInUse(), [][]byte{key}, bytes.Equal) })
	testwait.For(t, "node1 is a member", func() bool { return len(c.GossipMembers()) == 1 && c.GossipMembers()[0].Node == "node1" })
	if down, changed := c.Down(); changed == nil || len(down) > 0 {
		t.Errorf("the epochs %v are down", down)
	}
	c.SetPresence([]gossip.Presence{{Epoch: 7}})
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// startGossip runs a cluster of one with the identity of s, which gossips on a port that is free, or is not.
func startGossip(t *testing.T, s *circle, free bool) (c *Cluster, stop func() error) {
	t.Helper()
	var p *peer.Peer
	var gossips netip.AddrPort
	var taken net.PacketConn
	for taken == nil { // until the port after the peer's is free
		var err error
		if p, err = peer.New(peer.Config{Identity: s.cfg.Identity, Listen: anyPort, Nodes: s.Directory(), Logger: slog.New(slog.DiscardHandler)}); err != nil {
			t.Fatal(err)
		}
		gossips = netip.AddrPortFrom(p.Addr().Addr(), p.Addr().Port()+1)
		if taken, err = net.ListenPacket("udp", gossips.String()); err != nil {
			runPeer(t, p)() // closes it
		}
	}
	t.Cleanup(func() { taken.Close() })
	if free {
		taken.Close()
	}
	first := bootstrap()
	for _, cmd := range first {
		if r, ok := cmd.Request.(*state.PutNode); ok {
			r.Node.Address, r.Node.PublicKey = p.Addr().String(), s.cfg.Identity.PublicKey()
		}
	}
	c, stop = open(t, Config{
		Dir: t.TempDir(), Peer: p, PeerAddress: p.Addr().String(), Identity: s.cfg.Identity, Bootstrap: first,
		GossipAddr: gossips, GossipKeys: func(*state.View) [][]byte { return [][]byte{make([]byte, 32)} },
	})
	runPeer(t, p)
	return c, stop
}

// A node that joins waits until its leader reaches it. It begins no cluster of its own.
func TestJoiningNodeBeginsNoCluster(t *testing.T) {
	s := newCircle(t, 2, nil)
	id, log := s.neighbours["node2"].id, slog.New(slog.DiscardHandler)
	p, err := peer.New(peer.Config{Identity: id, Listen: anyPort, Nodes: s.Directory(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Node: "node2", Dir: t.TempDir(), Peer: p, PeerAddress: p.Addr().String(), Identity: id, Join: true, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	select {
	case <-c.started:
		if role, servers := c.Role(), c.servers().Servers; role != "non-voter" || len(servers) > 0 {
			t.Errorf("the node has the role %q in a cluster of %v, want non-voter in none", role, servers)
		}
	case err := <-done:
		t.Fatalf("Run: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// Gossip that cannot use its address ends Run with the reason.
func TestRunEndsIfGossipCannotBegin(t *testing.T) {
	c, stop := startGossip(t, newCircle(t, 1, nil), false)
	select {
	case <-c.stopped:
	case <-time.After(15 * time.Second):
		t.Error("Run has not ended")
	}
	if err := stop(); err == nil || !strings.Contains(err.Error(), "gossip on ") {
		t.Errorf("Run: %v, want the error of gossip", err)
	}
}
