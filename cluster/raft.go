package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/hashicorp/go-hclog"
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

	cfg := c.raftConfig()
	_, transport := raft.NewInmemTransport(raft.ServerAddress(c.cfg.Node))
	known, err := raft.HasExistingState(c.store, c.store, snaps)
	if err != nil {
		return fmt.Errorf("look for a log: %w", err)
	}
	if !known {
		alone := raft.Configuration{Servers: []raft.Server{{ID: cfg.LocalID, Address: transport.LocalAddr()}}}
		if err := raft.BootstrapCluster(cfg, c.store, c.store, snaps, transport, alone); err != nil {
			return fmt.Errorf("bootstrap raft: %w", err)
		}
	}
	if c.raft, err = raft.NewRaft(cfg, c.fsm, c.store, c.store, snaps, transport); err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	return nil
}

// replay applies the newest snapshot and the decided entries behind it: with one voter,
// all there are. More voters will stop at store.commitIndex and learn the rest from
// their leader. Left to itself, Raft would take an older snapshot when it cannot read
// the newest; that is a state in which revoked rules are back.
func (c *Cluster) replay(snaps raft.SnapshotStore) error {
	kept, err := snaps.List()
	if err != nil {
		return fmt.Errorf("list snapshots in %s: %w", c.cfg.Dir, err)
	}
	var covered uint64
	if len(kept) > 0 {
		covered = kept[0].Index
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
	return c.store.commands(max(first, covered+1), math.MaxUint64, func(e *raft.Log) error {
		if err, failed := c.fsm.Apply(e).(error); failed {
			return err
		}
		return nil
	})
}

// raftConfig has the timeouts of a cluster of one: nobody can be slow to answer, so an
// election takes a tenth of a second and a restart less than half of one.
func (c *Cluster) raftConfig() *raft.Config {
	cfg := raft.DefaultConfig()
	cfg.LocalID = raft.ServerID(c.cfg.Node)
	cfg.HeartbeatTimeout = 50 * time.Millisecond
	cfg.ElectionTimeout = 50 * time.Millisecond
	cfg.LeaderLeaseTimeout = 50 * time.Millisecond
	cfg.CommitTimeout = 10 * time.Millisecond
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

// sweepEvery is how often the leader looks for something to sweep, so an address rests
// up to that much longer than the settings say.
const sweepEvery = 5 * time.Second

// runSweep proposes a Sweep when the State has something to sweep, on the leader. It
// looks through the State only if that has changed, or what was found has come due.
func (c *Cluster) runSweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var due time.Time
	var pending bool
	var seen uint64 // index of the View that due is of
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if c.leadingTerm() == 0 {
			continue
		}
		if view := c.View(); view.Index() != seen {
			seen = view.Index()
			due, pending = view.SweepDue()
		}
		if !pending || c.cfg.Now().Before(due) {
			continue
		}
		if _, _, err := c.Apply(ctx, ec2.Command{Request: &ec2.Sweep{}}); err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotLeader) {
			c.cfg.Logger.Warn("sweep", "node", c.cfg.Node, "err", err)
		}
	}
}

// raftLogger hands raft's warnings to the node's log.
func (c *Cluster) raftLogger() hclog.Logger {
	log := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Off})
	log.RegisterSink(sink{c.cfg.Logger})
	return log
}

type sink struct{ log *slog.Logger }

// Accept keeps raft's chatter at debug level.
func (s sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch {
	case msg == "skipping application of old log": // GetCommitIndex has nothing to replay
	case level == hclog.Warn:
		to = slog.LevelWarn
	case level == hclog.Error:
		to = slog.LevelError
	}
	for i, a := range args { // hclog.Fmt is a format and its operands
		if f, ok := a.(hclog.Format); ok {
			args[i] = fmt.Sprintf(f[0].(string), f[1:]...)
		}
	}
	s.log.Log(context.Background(), to, "raft: "+msg, args...)
}
