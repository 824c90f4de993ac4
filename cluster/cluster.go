// Package cluster replicates one State over many nodes: it sends commands through Raft and
// returns Views. It is the only importer of hashicorp/raft. Package cluster/gossip spreads,
// beside Raft, which interfaces are up.
//
// It decides nothing about EC2: ec2/state defines what a command does, and ec2/query who may
// propose one.
//
// Read Cluster first, then apply.go (how any node writes and reads), leader.go (how it finds
// the leader), takeover.go (what a new leader does), fsm.go (the State behind Raft), raft.go
// and store.go (how Raft starts, and its log on disk). members.go makes Raft's voters follow
// the State's nodes, enforcement.go asks which nodes enforce an index, and backup.go moves a
// State to a new cluster.
//
// When Apply has returned without error, its entry is on the disks of most voters: kill -9
// loses no acknowledged change.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"palisade/cluster/gossip"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
)

var (
	// ErrNoLeader is returned by Apply and ReadView when no leader answers. The error that
	// wraps it says which voters this node reaches. The command was not proposed.
	ErrNoLeader = errors.New("this node knows no leader")

	// ErrOutcomeUnknown is returned by Apply when the leader may have proposed the command
	// and was then lost: the command may still take effect.
	ErrOutcomeUnknown = errors.New("the leader was lost before it answered: the change may or may not take effect")

	// ErrStopped is returned after the Cluster's Run has ended.
	ErrStopped = errors.New("the cluster has stopped on this node")
)

// Config configures one member of a cluster.
type Config struct {
	// Node is this member's name. Required.
	Node ec2.NodeID
	// Dir holds the log and the snapshots. Required; Run creates it. Only one process may
	// use it at a time: Run fails in a second one.
	Dir string
	// Bootstrap is applied as one entry, all or nothing, when a new cluster's log is empty.
	// If it is refused, Run ends. Default: none.
	Bootstrap []state.Command

	// Peer carries Raft between nodes. New adds its handlers, so its Run must come later.
	// Default nil: a cluster of one that no node can join.
	Peer *peer.Peer
	// PeerAddress is where the other nodes reach Peer, such as "192.0.2.11:7400". Required
	// with Peer. If it is wrong, no other node can replicate to this node.
	PeerAddress string
	// Identity has this node's key and certificate. Required with Peer.
	Identity *peer.Identity
	// GossipAddr is where this node gossips: PeerAddress with the next port. Default: it does
	// not gossip, and every address counts as up.
	GossipAddr netip.AddrPort
	// GossipKeys returns the gossip keys of a View that this node has, the one to encrypt with first.
	// Without one it does not gossip. GossipKeysChanged signals that it has others. Default: the key
	// that an earlier release kept in the State.
	GossipKeys        func(*state.View) [][]byte
	GossipKeysChanged <-chan struct{}
	// Join forbids this node to begin a cluster: without a log it waits for the leader of the
	// cluster that admitted it. Default false. If it is wrongly false, an empty node begins a
	// second cluster.
	Join bool
	// Decided is the newest index that this node's switch ever enforced. The log is
	// committed up to this index, and Next returns no older View. Default 0: revoked rules
	// may be enforced again for a moment after a restart.
	Decided uint64
	// Enforced returns the newest index that this node's switch enforces. WaitEnforced waits
	// until it enforces an index, and returns false if ctx ends before. Default: every
	// applied index counts as enforced.
	Enforced     func() uint64
	WaitEnforced func(ctx context.Context, index uint64) bool

	// Refused gets each command of a caller that Apply refused. Default: none is called.
	Refused func(ec2.Audit, *ec2.Error)

	// Logger receives elections, changes of members and failures. Default: nothing is logged.
	Logger *slog.Logger
	// Now is the clock that stamps commands. Default time.Now.
	Now func() time.Time
	// SnapshotThreshold is how many entries since the last snapshot cause a new one. Default
	// 4096. With a low value the node often writes snapshots, with a high one a restart
	// replays more entries.
	SnapshotThreshold uint64
	// SnapshotInterval is how often the threshold is checked. Default 30 s. With a
	// long interval the log grows beyond the threshold.
	SnapshotInterval time.Duration
	// TrailingLogs is how many entries before a snapshot stay in the log, for followers that
	// lag. Default 1024. With a low value, a follower that was away receives the
	// whole snapshot.
	TrailingLogs uint64
}

// Cluster is one node's member of the replicated State.
//
// The node owns it: Run starts and ends every goroutine. All methods except Run and Next may
// be called from any goroutine. Only one goroutine may call Next; it receives every change exactly
// once.
//
// raft and store are set before started is closed, and not changed afterwards. The mutexes
// of leading, next, fsm, directory, tasks, refused and raftLog each guard the fields beside them. Locks
// are taken in this order: next, then fsm; directory, then fsm. The others are leaves.
type Cluster struct {
	cfg       Config
	fsm       *fsm
	ready     chan struct{} // see Ready
	ending    chan struct{} // closed when Run begins to end
	expelled  chan error    // receives runExpulsionCheck's error, once
	raftEnded chan struct{} // closed when Raft has ended
	stopped   chan struct{} // closed when Run has returned

	stream  *stream        // nil in a cluster of one
	gossip  *gossip.Gossip // nil without Config.GossipAddr
	started chan struct{}  // closed when raft is set
	raft    *raft.Raft
	store   *store
	alone   bool // this node was the only voter when it started; only startRaft reads it

	committed chan struct{} // capacity 1; wakes runBarriers after an entry was committed

	tasks taskGroup

	leading struct {
		sync.Mutex        // setReady holds it too
		term       uint64 // the current term if this node leads and has applied all earlier entries, else 0
	}

	directory directory
	refused   refusals
	raftLog   logSink

	next struct {
		sync.Mutex
		last *state.View // the View that Next returned last
	}
}

// New checks cfg, fills its defaults and adds handlers to cfg.Peer. It starts nothing and opens
// no file; Run does.
func New(cfg Config) (*Cluster, error) {
	if cfg.Node == "" || cfg.Dir == "" {
		return nil, errors.New("new cluster: Node and Dir are required")
	}
	if cfg.Peer != nil && (cfg.PeerAddress == "" || cfg.Identity == nil) {
		return nil, errors.New("new cluster: PeerAddress and Identity are required with Peer")
	}
	if cfg.Join && (cfg.Peer == nil || len(cfg.Bootstrap) > 0) {
		return nil, errors.New("new cluster: Join needs Peer, and allows no Bootstrap")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.SnapshotThreshold == 0 {
		cfg.SnapshotThreshold = 4096
	}
	if cfg.SnapshotInterval == 0 {
		cfg.SnapshotInterval = 30 * time.Second
	}
	if cfg.TrailingLogs == 0 {
		cfg.TrailingLogs = 1024
	}
	c := &Cluster{
		cfg:       cfg,
		fsm:       newFSM(),
		ready:     make(chan struct{}),
		ending:    make(chan struct{}),
		expelled:  make(chan error, 1),
		raftEnded: make(chan struct{}),
		stopped:   make(chan struct{}),
		started:   make(chan struct{}),
		committed: make(chan struct{}, 1),
	}
	c.directory.c = c
	c.raftLog.log = cfg.Logger
	if c.cfg.Enforced == nil {
		c.cfg.Enforced = func() uint64 { return c.View().Index() }
	}
	if c.cfg.WaitEnforced == nil {
		c.cfg.WaitEnforced = func(ctx context.Context, index uint64) bool { return c.waitIndex(ctx, index) == nil }
	}
	if cfg.Peer != nil {
		c.stream = newStream(cfg.Peer, cfg.PeerAddress)
		cfg.Peer.Limit(peer.ProtocolRaft, func(node string, key []byte) error { return c.directory.mayLead(ec2.NodeID(node), key) })
		c.addHandlers()
	}
	if cfg.Peer != nil && cfg.GossipAddr.IsValid() {
		var err error
		c.gossip, err = gossip.New(gossip.Config{
			Node: cfg.Node, Identity: cfg.Identity, Address: cfg.GossipAddr, Peer: cfg.Peer,
			View: c.View, ViewChanged: c.fsm.changed, Keys: cfg.GossipKeys, KeysChanged: cfg.GossipKeysChanged, Enforced: c.cfg.Enforced, Logger: cfg.Logger,
		})
		if err != nil {
			return nil, fmt.Errorf("new cluster: %w", err)
		}
	}
	return c, nil
}

// Run opens the log, takes part in the cluster, and returns when ctx ends or when the node
// must stop: its State failed, its log lost entries, or the cluster expelled it. Call it only
// once.
func (c *Cluster) Run(ctx context.Context) (err error) {
	defer close(c.stopped)
	c.store, err = openStore(filepath.Join(c.cfg.Dir, "raft.db"))
	if err != nil {
		return fmt.Errorf("run cluster: %w", err)
	}
	defer func() { err = errors.Join(err, c.store.Close()) }()
	if err := c.startRaft(); err != nil {
		return fmt.Errorf("run cluster: %w", err)
	}
	close(c.started)

	ctx, cancel := context.WithCancel(ctx)
	var gossipErr error
	defer func() {
		cancel()
		close(c.ending)
		if c.stream != nil {
			c.stream.stopDialing()
		}
		stop := c.raft.Shutdown().Error()
		close(c.raftEnded)
		c.tasks.stop()
		if failed := c.fsm.err(); failed != nil {
			stop = failed
		}
		err = errors.Join(err, stop, gossipErr)
	}()
	c.tasks.start(func() { c.runSweep(ctx) })
	if c.cfg.Peer != nil {
		c.tasks.start(func() { c.runBarriers(ctx) })
		c.tasks.start(func() { c.runMembers(ctx) })
		c.tasks.start(func() { c.runDisconnect(ctx) })
		c.tasks.start(func() { c.runCatchUp(ctx) })
		c.tasks.start(func() { c.runExpulsionCheck(ctx) })
		c.tasks.start(func() { c.runNATGateways(ctx) })
	}
	if c.gossip != nil {
		c.tasks.start(func() {
			if gossipErr = c.gossip.Run(ctx); gossipErr != nil {
				cancel()
			}
		})
	}
	return c.followLeadership(ctx)
}

// View returns the newest state of this node.
func (c *Cluster) View() *state.View { return c.fsm.view() }

// Next blocks until the state is newer than the View that Next returned last, and returns the
// newest View with everything that changed in between. The first View lists everything as
// new. It is not older than Config.Decided, because an older state may still have rules that
// were revoked later. If the log on disk ends earlier, Next waits for the leader.
func (c *Cluster) Next(ctx context.Context) (*state.View, error) {
	if err := c.waitChan(ctx, c.started); err != nil {
		return nil, err
	}
	c.next.Lock()
	defer c.next.Unlock()
	for {
		changed := c.fsm.changed()
		view := c.fsm.viewSince(c.next.last)
		if c.next.last == nil && view.Index() >= c.cfg.Decided || c.next.last != nil && view.Index() > c.next.last.Index() {
			c.next.last = view
			return view, nil
		}
		if err := c.waitChan(ctx, changed); err != nil {
			return nil, err
		}
	}
}
