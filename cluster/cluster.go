// Package cluster makes one ec2.State of many nodes: it replicates commands through
// Raft and hands out Views. It is the only importer of hashicorp/raft.
//
// It decides nothing: what a command does is ec2's, and who may propose one is
// ec2/query's. Gossip will join here, behind the same Views.
//
// Read Cluster first, then fsm, which stands between Raft and the State, then store,
// which keeps the log on disk. An Apply that returned is on disk: kill -9 loses nothing
// that was acknowledged.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
)

// maxCommand bounds one log entry, in bytes. A RunInstances with all the user-data it
// may carry is a fiftieth of it.
const maxCommand = 1 << 20

// ErrNotLeader is returned by Apply and ReadView on a node that does not lead.
var ErrNotLeader = errors.New("this node is not the leader")

// ErrStopped is returned when the Cluster's Run has ended.
var ErrStopped = errors.New("the cluster has stopped on this node")

// Config says where a node's part of the cluster lives.
type Config struct {
	// Node is this member's name. Required.
	Node ec2.NodeID
	// Dir holds the log and the snapshots; Run makes it. One process at a time. Required.
	Dir string
	// Bootstrap is applied as one entry, all or nothing, when the log holds no command.
	Bootstrap []ec2.Command
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
	stopped chan struct{} // closed when Run has returned

	started chan struct{} // closed when raft is set
	raft    *raft.Raft
	store   *store

	tasks tasks

	leading struct {
		sync.Mutex
		term uint64 // the term whose earlier entries are all applied; 0: not leader
	}

	next struct {
		sync.Mutex
		last *ec2.View // the View that Next returned last
	}
}

// New checks cfg and fills its defaults. It touches nothing; Run does.
func New(cfg Config) (*Cluster, error) {
	if cfg.Node == "" || cfg.Dir == "" {
		return nil, errors.New("new cluster: a node needs a name and a directory")
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
	return &Cluster{
		cfg:     cfg,
		fsm:     newFSM(),
		ready:   make(chan struct{}),
		stopped: make(chan struct{}),
		started: make(chan struct{}),
	}, nil
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
	defer func() {
		cancel()
		stop := c.raft.Shutdown().Error()
		c.tasks.stop()
		if failed := c.fsm.err(); failed != nil {
			stop = failed
		}
		err = errors.Join(err, stop)
	}()
	c.tasks.start(func() { c.runSweep(ctx) })
	return c.lead(ctx)
}

// lead follows this node's leadership until ctx ends or the State cannot go on.
func (c *Cluster) lead(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.fsm.failed:
			return nil // Run reports why
		case leader := <-c.raft.LeaderCh():
			c.setLeading(0)
			if !leader {
				continue
			}
			err := c.takeOver(ctx)
			if _, refused := errors.AsType[*ec2.Error](err); refused {
				return err // of Config.Bootstrap: it will not do better next time
			}
			if err != nil && ctx.Err() == nil {
				c.cfg.Logger.Warn("leader cannot take over", "node", c.cfg.Node, "err", err)
			}
		}
	}
}

// takeOver brings a new leader up to its log and, the first time ever, bootstraps.
func (c *Cluster) takeOver(ctx context.Context) error {
	term := c.raft.CurrentTerm()
	if err := c.wait(ctx, c.raft.Barrier(0)); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	if c.fsm.err() != nil {
		return c.fsm.err()
	}
	if c.fsm.view().Index() == 0 && len(c.cfg.Bootstrap) > 0 {
		batch := &ec2.Batch{}
		for _, cmd := range c.cfg.Bootstrap {
			batch.Requests = append(batch.Requests, cmd.Request)
		}
		if _, _, err := c.propose(ctx, ec2.Command{Request: batch}); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
	}
	c.setLeading(term)
	select {
	case <-c.ready:
	default:
		close(c.ready)
	}
	return nil
}

func (c *Cluster) setLeading(term uint64) {
	c.leading.Lock()
	defer c.leading.Unlock()
	c.leading.term = term
}

func (c *Cluster) leadingTerm() uint64 {
	c.leading.Lock()
	defer c.leading.Unlock()
	return c.leading.term
}

// Ready is closed once there is a leader that has applied its whole log, bootstrap
// included.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

// Apply stamps a command, replicates it and returns what it did and its log index. When
// it returns without error, or with an *ec2.Error, the entry is on disk. After any
// other error, ctx's included, the command may or may not take effect.
func (c *Cluster) Apply(ctx context.Context, cmd ec2.Command) (ec2.Result, uint64, error) {
	if err := c.waitReady(ctx); err != nil {
		return ec2.Result{}, 0, err
	}
	return c.propose(ctx, cmd)
}

func (c *Cluster) propose(ctx context.Context, cmd ec2.Command) (ec2.Result, uint64, error) {
	cmd.Time = c.cfg.Now()
	data, err := ec2.EncodeCommand(cmd)
	if err != nil {
		return ec2.Result{}, 0, err
	}
	if len(data) > maxCommand {
		return ec2.Result{}, 0, ec2.Errorf("RequestEntityTooLarge", "The request is larger than %d bytes", maxCommand)
	}
	future := c.raft.Apply(data, 0)
	if err := c.wait(ctx, future); err != nil {
		return ec2.Result{}, 0, fmt.Errorf("apply %T: %w", cmd.Request, err)
	}
	switch a := future.Response().(type) {
	case applied:
		return a.result, future.Index(), a.err
	case error:
		return ec2.Result{}, 0, fmt.Errorf("apply %T: %w", cmd.Request, a)
	default:
		panic(fmt.Sprintf("cluster: fsm answered %T", a))
	}
}

// View is the newest state this node has.
func (c *Cluster) View() *ec2.View { return c.fsm.view() }

// ReadView returns a state that holds every change acknowledged, by whichever node,
// before the call. A leader that has applied all entries of earlier terms has
// acknowledged all later ones itself, after applying them; what is left to find out is
// that it still leads (Raft dissertation, §6.4).
func (c *Cluster) ReadView(ctx context.Context) (*ec2.View, error) {
	if err := c.waitReady(ctx); err != nil {
		return nil, err
	}
	term := c.leadingTerm()
	if err := c.wait(ctx, c.raft.VerifyLeader()); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if term == 0 || term != c.raft.CurrentTerm() {
		return nil, fmt.Errorf("read: %w", ErrNotLeader)
	}
	return c.fsm.view(), nil
}

// Next blocks until the state has moved beyond the View it returned last, and returns
// the newest with everything that changed in between. The first View has everything as
// new, and is not older than what this node had decided when it went down: an older
// state may be one in which revoked rules still stand.
func (c *Cluster) Next(ctx context.Context) (*ec2.View, error) {
	select {
	case <-c.started:
	case <-c.stopped:
		return nil, ErrStopped
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.next.Lock()
	defer c.next.Unlock()
	for {
		moved := c.fsm.moved()
		view := c.fsm.viewSince(c.next.last)
		if c.next.last == nil || view.Index() > c.next.last.Index() {
			c.next.last = view
			return view, nil
		}
		select {
		case <-moved:
		case <-c.stopped:
			return nil, ErrStopped
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *Cluster) waitReady(ctx context.Context) error {
	select {
	case <-c.stopped: // checked first: a stopped cluster was ready once
		return ErrStopped
	default:
	}
	select {
	case <-c.ready:
		return nil
	case <-c.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait waits for a future of raft's, or for ctx; raft resolves every future when it
// shuts down, and Run waits for those that are still open.
func (c *Cluster) wait(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	if !c.tasks.start(func() { done <- f.Error() }) {
		return ErrStopped
	}
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost):
		return ErrNotLeader
	case errors.Is(err, raft.ErrRaftShutdown):
		return ErrStopped
	}
	return err
}

// tasks are the goroutines beside Run's own. After stop none starts.
type tasks struct {
	sync.Mutex
	stopping bool
	wg       sync.WaitGroup
}

func (t *tasks) start(f func()) bool {
	t.Lock()
	defer t.Unlock()
	if t.stopping {
		return false
	}
	t.wg.Go(f)
	return true
}

func (t *tasks) stop() {
	t.Lock()
	t.stopping = true
	t.Unlock()
	t.wg.Wait()
}
