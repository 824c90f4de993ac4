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

// startRaft applies the committed entries on disk to the State, then starts Raft.
func (c *Cluster) startRaft() (err error) {
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
		return fmt.Errorf("check for an existing log: %w", err)
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
		guarded := c.newTransport()
		transport = guarded
		defer func() {
			if err != nil {
				_ = guarded.Close()
			}
		}()
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
	// A follower whose timeout gets shorter checks at once whether it has a leader.
	return c.reloadTimeouts(electionTimeout)
}

// reloadTimeouts changes Raft's timeouts. A leader sends at least five heartbeats within timeout; a
// follower that gets none for that long becomes a candidate.
func (c *Cluster) reloadTimeouts(timeout time.Duration) error {
	return c.raft.ReloadConfig(raft.ReloadableConfig{
		TrailingLogs: c.cfg.TrailingLogs, SnapshotInterval: c.cfg.SnapshotInterval, SnapshotThreshold: c.cfg.SnapshotThreshold,
		HeartbeatTimeout: timeout, ElectionTimeout: timeout,
	})
}

// checkLog returns an error if this node's log is gone from the disk. Without its log the node
// could vote twice in a term. The cluster could also lose an acknowledged change, because an entry
// that was on most disks may now be on fewer.
func (c *Cluster) checkLog() error {
	last, err := c.store.LastIndex()
	if err != nil {
		return err
	}
	if c.cfg.Join && c.cfg.Decided > 0 && last == 0 && c.View().Index() == 0 {
		return fmt.Errorf("%s enforced entry %d, but its log in %s is gone: fence or remove the node, and let it join again", c.cfg.Node, c.cfg.Decided, c.cfg.Dir)
	}
	return nil
}

// replay applies the newest snapshot and the committed entries after it. With one voter, all
// entries are committed. With more voters, replay applies the entries up to the commit index in the
// store, or up to the index that the switch enforced; the leader later says which others are
// committed. replay fails if the newest snapshot is unreadable, because Raft itself would then
// restore an older snapshot, which may have rules that were revoked since.
func (c *Cluster) replay(snaps raft.SnapshotStore) error {
	list, err := snaps.List()
	if err != nil {
		return fmt.Errorf("list snapshots in %s: %w", c.cfg.Dir, err)
	}
	var covered uint64
	var servers raft.Configuration
	if len(list) > 0 {
		covered, servers = list[0].Index, list[0].Configuration
		_, r, err := snaps.Open(list[0].ID)
		if err != nil {
			return fmt.Errorf("open snapshot %s: %w", list[0].ID, err)
		}
		defer r.Close()
		if err := c.fsm.Restore(r); err != nil {
			return fmt.Errorf("snapshot %s: %w", list[0].ID, err)
		}
	}
	first, err := c.store.FirstIndex()
	if err != nil {
		return err
	}
	if first > covered+1 {
		return fmt.Errorf("the log in %s begins at entry %d, but its newest snapshot ends at %d: the entries between are lost; restore a backup", c.cfg.Dir, first, covered)
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
		c.cfg.Logger.Warn("log on disk ends before the enforced index; the node waits for its leader",
			"node", c.cfg.Node, "index", index, "enforced", c.cfg.Decided)
	}
	return nil
}

// decided returns the index up to which the entries on disk are known to be committed, and sets
// c.alone. Raft uses a configuration as soon as it is in the log: if this node is the only voter in
// the newest one, every entry is committed.
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
	// electionTimeout is how long a follower waits for its leader before it becomes a
	// candidate: a random time from once to twice this.
	electionTimeout = 900 * time.Millisecond
	// leaderTimeout is a leader's heartbeat timeout. Raft sends the next heartbeat after a
	// random tenth to fifth of it: 0.4 to 0.8 s. So a follower misses at least one heartbeat
	// before it becomes a candidate, and nodes that have a leader do not vote for it.
	// Heartbeats are most of the load of an idle cluster, because each wakes two processes.
	leaderTimeout = 4 * time.Second
	// leaseTimeout is how long a leader without contact to most voters remains leader.
	leaseTimeout = 900 * time.Millisecond
	// commitTimeout is how often an idle leader repeats its commit index: after a random time
	// from once to twice this. Only a follower that missed the barrier (see runBarriers) needs
	// the repetition.
	commitTimeout = time.Second
)

// raftConfig returns Raft's configuration, with timeouts for nodes on one network. alone says that
// this node is the only voter. Without a Peer no node can join, so the timeouts are shorter: an
// election takes 0.1 s, and a restart less than 0.5 s. With a Peer they cannot be so short, because
// other nodes may join, and Raft's lease timeout cannot change while Raft runs.
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
			cfg.HeartbeatTimeout *= 2 // startRaft shortens it again
		}
	}
	cfg.ElectionTimeout = cfg.HeartbeatTimeout
	cfg.ShutdownOnRemove = false // a leader that removes itself still serves its State
	cfg.MaxAppendEntries = 1024
	cfg.SnapshotThreshold = c.cfg.SnapshotThreshold
	cfg.SnapshotInterval = c.cfg.SnapshotInterval
	cfg.TrailingLogs = c.cfg.TrailingLogs
	cfg.RestoreCommittedLogs = true     // makes Raft call StageCommitIndex
	cfg.NoSnapshotRestoreOnStart = true // replay has restored the snapshot
	cfg.NoLegacyTelemetry = true
	cfg.Logger = c.raftLogger()
	return cfg
}

// runBarriers, on the leader, proposes a barrier (an empty entry) after committed entries, so that
// every node enforces an acknowledged change at once. Raft's followers learn that an entry is
// committed only with the next entry, or up to two commitTimeouts later. At most one barrier is
// under way, and none while nothing is written.
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
			c.cfg.Logger.Debug("barrier failed", "node", c.cfg.Node, "err", err)
		}
	}
}
