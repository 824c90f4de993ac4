package cluster

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
)

// startRaft brings the State to where this node's disk is, then starts Raft on it.
func (c *Cluster) startRaft() error {
	snaps, err := raft.NewFileSnapshotStoreWithLogger(c.cfg.Dir, 2, c.raftLogger())
	if err != nil {
		return fmt.Errorf("open snapshots in %s: %w", c.cfg.Dir, err)
	}
	if err := c.replay(snaps); err != nil {
		return err
	}

	if err := c.checkLog(); err != nil {
		return err
	}

	known, err := raft.HasExistingState(c.store, c.store, snaps)
	if err != nil {
		return fmt.Errorf("look for a log: %w", err)
	}
	alone := c.alone
	if !known && !c.cfg.Join {
		alone = true
	}
	cfg := c.raftConfig(alone)
	var transport raft.Transport
	if c.stream == nil {
		_, transport = raft.NewInmemTransport(raft.ServerAddress(c.cfg.Node))
	} else {
		transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			ServerAddressProvider: c.stream,
			Logger:                c.raftLogger(),
			Stream:                c.stream,
			MaxPool:               3,
			Timeout:               rpcTimeout,
		})
	}
	if !known && !c.cfg.Join {
		only := raft.Server{ID: cfg.LocalID, Address: transport.LocalAddr()}
		err := raft.BootstrapCluster(cfg, c.store, c.store, snaps, transport, raft.Configuration{Servers: []raft.Server{only}})
		if err != nil {
			return fmt.Errorf("bootstrap raft: %w", err)
		}
	}
	if c.raft, err = raft.NewRaft(cfg, c.fsm, c.store, c.store, snaps, transport); err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	if c.stream == nil || !alone {
		return nil
	}
	// A follower that is told of a shorter timeout looks at once whether it has a leader.
	return c.pace(electionTimeout)
}

// pace changes Raft's timeouts. Of a leader they are ten heartbeats, of a follower what it
// waits for one.
func (c *Cluster) pace(timeout time.Duration) error {
	return c.raft.ReloadConfig(raft.ReloadableConfig{
		TrailingLogs: c.cfg.TrailingLogs, SnapshotInterval: c.cfg.SnapshotInterval, SnapshotThreshold: c.cfg.SnapshotThreshold,
		HeartbeatTimeout: timeout, ElectionTimeout: timeout,
	})
}

// checkLog refuses a disk that lost what this node had. It would vote again where it has
// voted, and take back what it acknowledged: with an empty log it may be the very voter
// whose word made a change permanent.
func (c *Cluster) checkLog() error {
	last, err := c.store.LastIndex()
	if err != nil {
		return err
	}
	if c.cfg.Join && c.cfg.Decided > 0 && last == 0 && c.View().Index() == 0 {
		return fmt.Errorf("%s enforced entry %d and its log in %s is gone: fence or remove the node, and let it join again", c.cfg.Node, c.cfg.Decided, c.cfg.Dir)
	}
	return nil
}

// replay applies the newest snapshot and the decided entries behind it: with one voter,
// all there are. With more, those that the store or the switch knew to be decided when
// the node went down; the rest its leader will tell. Left to itself, Raft would take an
// older snapshot when it cannot read the newest; that is a state in which revoked rules
// are back.
func (c *Cluster) replay(snaps raft.SnapshotStore) error {
	kept, err := snaps.List()
	if err != nil {
		return fmt.Errorf("list snapshots in %s: %w", c.cfg.Dir, err)
	}
	var covered uint64
	var servers raft.Configuration
	if len(kept) > 0 {
		covered, servers = kept[0].Index, kept[0].Configuration
		_, r, err := snaps.Open(kept[0].ID)
		if err != nil {
			return fmt.Errorf("open snapshot %s: %w", kept[0].ID, err)
		}
		defer r.Close()
		if err := c.fsm.Restore(r); err != nil {
			return fmt.Errorf("snapshot %s: %w", kept[0].ID, err)
		}
	}
	first, err := c.store.FirstIndex()
	if err != nil {
		return err
	}
	if first > covered+1 {
		return fmt.Errorf("the log in %s begins at entry %d and its newest snapshot ends at %d: what lies between is lost, restore a backup", c.cfg.Dir, first, covered)
	}
	first = max(first, covered+1)
	newest, err := c.store.configuration(first)
	if err != nil {
		return err
	}
	if newest != nil {
		servers = *newest
	}
	high, err := c.decided(servers)
	if err != nil {
		return err
	}
	err = c.store.commands(first, high, func(e *raft.Log) error {
		if err, failed := c.fsm.Apply(e).(error); failed {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	if index := c.View().Index(); index < c.cfg.Decided {
		c.cfg.Logger.Warn("this node's disk ends before what it enforced: it waits for the leader",
			"node", c.cfg.Node, "index", index, "enforced", c.cfg.Decided)
	}
	return nil
}

// decided is the newest entry on disk that is known to be committed. The newest
// configuration counts from the moment it is in the log: if its only voter is this node,
// whatever is here is decided.
func (c *Cluster) decided(servers raft.Configuration) (uint64, error) {
	voters := votersOf(servers)
	if c.alone = len(voters) == 1 && voters[0] == c.cfg.Node; c.alone {
		return math.MaxUint64, nil
	}
	commit, err := c.store.commitIndex()
	return max(commit, c.cfg.Decided), err
}

func votersOf(servers raft.Configuration) []ec2.NodeID {
	var voters []ec2.NodeID
	for _, s := range servers.Servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, ec2.NodeID(s.ID))
		}
	}
	slices.Sort(voters)
	return voters
}

const (
	// electionTimeout is what a follower waits for its leader, once to twice, before it
	// stands itself.
	electionTimeout = 900 * time.Millisecond
	// leaderTimeout makes a leader's heartbeats: one every tenth to every fifth of it, so
	// that a follower that stands has missed one at least; the others do not vote for it
	// while they have a leader. Each heartbeat wakes two processes, which is most of what
	// an idle cluster costs.
	leaderTimeout = 4 * time.Second
	// leaseTimeout is what a leader goes on without most voters.
	leaseTimeout = 900 * time.Millisecond
	// commitTimeout, once to twice, is how often an idle leader repeats how far it has
	// committed. A barrier has told before (see runBarriers), so only who was cut off then
	// waits for it.
	commitTimeout = time.Second
)

// raftConfig has the timeouts of nodes on one network. In a cluster of one, nobody can
// be slow to answer, so that an election takes a tenth of a second and a restart less
// than half of one. A node that is alone until others join cannot have those: Raft's
// lease cannot be changed while it runs.
func (c *Cluster) raftConfig(alone bool) *raft.Config {
	cfg := raft.DefaultConfig()
	cfg.LocalID = raft.ServerID(c.cfg.Node)
	switch {
	case c.stream == nil:
		cfg.HeartbeatTimeout = 50 * time.Millisecond
		cfg.LeaderLeaseTimeout = 50 * time.Millisecond
		cfg.CommitTimeout = 10 * time.Millisecond
	default:
		cfg.HeartbeatTimeout = electionTimeout
		cfg.LeaderLeaseTimeout = leaseTimeout
		cfg.CommitTimeout = commitTimeout
		if alone {
			cfg.HeartbeatTimeout *= 2 // until startRaft shortens it
		}
	}
	cfg.ElectionTimeout = cfg.HeartbeatTimeout
	cfg.ShutdownOnRemove = false // a leader that removes itself still has a State to show
	cfg.MaxAppendEntries = 1024
	cfg.SnapshotThreshold = c.cfg.SnapshotThreshold
	cfg.SnapshotInterval = c.cfg.SnapshotInterval
	cfg.TrailingLogs = c.cfg.TrailingLogs
	cfg.RestoreCommittedLogs = true     // so that Raft stages the commit index
	cfg.NoSnapshotRestoreOnStart = true // replay has done it
	cfg.NoLegacyTelemetry = true
	cfg.Logger = c.raftLogger()
	return cfg
}

// runBarriers sends an empty entry after committed ones. Raft's followers learn that an
// entry is committed with the next one, or up to two commitTimeouts later; what has been
// acknowledged should be in force everywhere at once. At most one is under way, and none
// while nothing is written.
func (c *Cluster) runBarriers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.committed:
		}
		if c.leadingTerm() == 0 || len(c.servers().Servers) < 2 {
			continue
		}
		if err := c.wait(ctx, c.raft.Barrier(0)); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Debug("barrier", "node", c.cfg.Node, "err", err)
		}
	}
}
