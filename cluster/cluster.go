// Package cluster makes one state.State of many nodes: it replicates commands through
// Raft and hands out Views. It is the only importer of hashicorp/raft. Which interfaces are
// up is spread beside Raft, by cluster/gossip.
//
// It decides nothing: what a command does is ec2's, and who may propose one is
// ec2/query's.
//
// Read Cluster first, then lead.go, what a node does when it becomes the leader, then
// forward.go, by which every node can write and read, then fsm, which stands between Raft
// and the State, then store, which keeps the log on disk.
// members.go makes Raft's voters follow the State's nodes, enforcement.go asks what
// they enforce, backup.go carries a State over to a new cluster. An Apply that returned
// is on the disks of most voters: kill -9 loses nothing that was acknowledged.
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
	// ErrNoLeader is returned by Apply and ReadView when no leader answers. What wraps it
	// says which voters this node reaches. A command was not proposed, and never will be.
	ErrNoLeader = errors.New("this node knows no leader")

	// ErrOutcomeUnknown is returned by Apply when the leader was lost after the command
	// may have been proposed: it may or may not take effect.
	ErrOutcomeUnknown = errors.New("the leader was lost while it decided: the change may or may not take effect")

	// ErrStopped is returned when the Cluster's Run has ended.
	ErrStopped = errors.New("the cluster has stopped on this node")
)

// Config says where a node's part of the cluster lives.
type Config struct {
	// Node is this member's name. Required.
	Node ec2.NodeID
	// Dir holds the log and the snapshots; Run makes it. One process at a time. Required.
	Dir string
	// Bootstrap is applied as one entry, all or nothing, when the log holds no command.
	Bootstrap []state.Command

	// Peer carries Raft between nodes; New adds its handlers, so its Run comes later.
	// Default nil: a cluster of one, for ever.
	Peer *peer.Peer
	// PeerAddress is where the others reach Peer, "192.0.2.11:7400". Required with Peer.
	PeerAddress string
	// Identity is this node's among the others. Required with Peer.
	Identity *peer.Identity
	// GossipAddr is where this node gossips, the port above PeerAddress. Default: it does
	// not, and no address is down.
	GossipAddr netip.AddrPort
	// Join says that this node never begins a cluster: without a log it waits for the
	// leader of the one it was admitted to.
	Join bool
	// Decided is the newest index that this node ever enforced: its log is decided up to
	// there, and no View that Next returns is older.
	Decided uint64
	// Enforced is the newest index that this node's switch enforces, and WaitEnforced
	// waits for one. Default: what the State holds is enforced.
	Enforced     func() uint64
	WaitEnforced func(ctx context.Context, index uint64) bool

	// Logger gets what operators need to know. Default: nothing is logged.
	Logger *slog.Logger
	// Now is the clock that stamps commands. Default time.Now.
	Now func() time.Time
	// SnapshotThreshold is how many entries make a snapshot worth while. Default 4096.
	SnapshotThreshold uint64
	// SnapshotInterval is how often that is looked at. Default 30 s.
	SnapshotInterval time.Duration
	// TrailingLogs is how many entries stay behind a snapshot for peers that lag.
	// Default 1024.
	TrailingLogs uint64
}

// Cluster is one node's member of the replicated State.
//
// Run owns every goroutine. Apply, View and ReadView may be called from any; Next has
// one consumer, the node, which sees every change exactly once.
type Cluster struct {
	cfg     Config
	fsm     *fsm
	ready   chan struct{} // closed when the leader has the whole log and the bootstrap is in
	ending  chan struct{} // closed when Run begins to end
	outcast chan error    // of runOutcast, once
	halted  chan struct{} // closed when Raft has ended
	stopped chan struct{} // closed when Run has returned

	stream  *stream        // nil in a cluster of one
	gossip  *gossip.Gossip // nil in a cluster of one
	started chan struct{}  // closed when raft is set
	raft    *raft.Raft
	store   *store
	alone   bool // when it started, this node was the only voter

	committed chan struct{} // holds one: an entry was committed here, tell the followers

	tasks tasks

	leading struct {
		sync.Mutex
		term uint64 // the term whose earlier entries are all applied; 0: not leader
	}

	trust   directory
	raftlog sink

	next struct {
		sync.Mutex
		last *state.View // the View that Next returned last
	}
}

// New checks cfg and fills its defaults. It touches nothing; Run does.
func New(cfg Config) (*Cluster, error) {
	if cfg.Node == "" || cfg.Dir == "" {
		return nil, errors.New("new cluster: a node needs a name and a directory")
	}
	if cfg.Peer != nil && (cfg.PeerAddress == "" || cfg.Identity == nil) {
		return nil, errors.New("new cluster: a node among others needs an address and an identity")
	}
	if cfg.Join && (cfg.Peer == nil || len(cfg.Bootstrap) > 0) {
		return nil, errors.New("new cluster: a node that joins needs others, and bootstraps nothing")
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
		outcast:   make(chan error, 1),
		halted:    make(chan struct{}),
		stopped:   make(chan struct{}),
		started:   make(chan struct{}),
		committed: make(chan struct{}, 1),
	}
	c.trust.c = c
	c.raftlog.log = cfg.Logger
	if c.cfg.Enforced == nil {
		c.cfg.Enforced = func() uint64 { return c.View().Index() }
	}
	if c.cfg.WaitEnforced == nil {
		c.cfg.WaitEnforced = func(ctx context.Context, index uint64) bool { return c.waitIndex(ctx, index) == nil }
	}
	if cfg.Peer != nil {
		c.stream = newStream(cfg.Peer, cfg.PeerAddress)
		c.handle()
	}
	if cfg.Peer != nil && cfg.GossipAddr.IsValid() {
		var err error
		c.gossip, err = gossip.New(gossip.Config{
			Node: cfg.Node, Identity: cfg.Identity, Address: cfg.GossipAddr, Peer: cfg.Peer,
			View: c.View, ViewChanged: c.fsm.moved, Enforced: c.cfg.Enforced, Logger: cfg.Logger,
		})
		if err != nil {
			return nil, fmt.Errorf("new cluster: %w", err)
		}
	}
	return c, nil
}

// Run is the member's life: it opens the log, takes part, and returns when ctx ends or
// the node must not go on. It is called once.
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
	var gossiped error
	defer func() {
		cancel()
		close(c.ending)
		if c.stream != nil {
			c.stream.hangUp()
		}
		stop := c.raft.Shutdown().Error()
		close(c.halted)
		c.tasks.stop()
		if failed := c.fsm.err(); failed != nil {
			stop = failed
		}
		err = errors.Join(err, stop, gossiped)
	}()
	c.tasks.start(func() { c.runSweep(ctx) })
	if c.cfg.Peer != nil {
		c.tasks.start(func() { c.runBarriers(ctx) })
		c.tasks.start(func() { c.runMembers(ctx) })
		c.tasks.start(func() { c.runDrops(ctx) })
		c.tasks.start(func() { c.runFollow(ctx) })
		c.tasks.start(func() { c.runOutcast(ctx) })
	}
	if c.gossip != nil {
		c.tasks.start(func() {
			if gossiped = c.gossip.Run(ctx); gossiped != nil {
				cancel()
			}
		})
	}
	return c.lead(ctx)
}

// View is the newest state this node has.
func (c *Cluster) View() *state.View { return c.fsm.view() }

// Next blocks until the state has moved beyond the View it returned last, and returns
// the newest with everything that changed in between. The first View has everything as
// new, and is not older than what this node had decided when it went down: an older
// state may be one in which revoked rules still stand. A disk that does not have all of
// that waits for the leader.
func (c *Cluster) Next(ctx context.Context) (*state.View, error) {
	if err := c.waitChan(ctx, c.started); err != nil {
		return nil, err
	}
	c.next.Lock()
	defer c.next.Unlock()
	for {
		moved := c.fsm.moved()
		view := c.fsm.viewSince(c.next.last)
		if c.next.last == nil && view.Index() >= c.cfg.Decided || c.next.last != nil && view.Index() > c.next.last.Index() {
			c.next.last = view
			return view, nil
		}
		if err := c.waitChan(ctx, moved); err != nil {
			return nil, err
		}
	}
}
