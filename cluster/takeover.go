package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

// followLeadership calls takeOver each time this node becomes the leader, until ctx ends or the
// node must stop.
func (c *Cluster) followLeadership(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.fsm.failed:
			return nil // Run reports why
		case err := <-c.expelled:
			return err
		case leader := <-c.raft.LeaderCh():
			c.setLeading(0)
			if err := c.setTimeouts(leader); err != nil {
				return err
			}
			if !leader {
				continue
			}
			err := c.takeOver(ctx)
			if errors.Is(err, ErrLogLost) {
				return err
			}
			if _, refused := errors.AsType[*ec2.Error](err); refused {
				return err // Config.Bootstrap is invalid, so a retry would fail too
			}
			if err != nil && ctx.Err() == nil {
				c.cfg.Logger.Warn("takeover of leadership failed", "node", c.cfg.Node, "err", err)
			}
		}
	}
}

// setTimeouts gives Raft the timeouts of a leader or of a follower. In a cluster of one it does
// nothing, because both are equal.
func (c *Cluster) setTimeouts(leader bool) error {
	switch {
	case c.stream == nil:
		return nil
	case leader:
		return c.reloadTimeouts(leaderTimeout)
	}
	return c.reloadTimeouts(electionTimeout)
}

// takeOver is called when this node was elected. It waits until the node has applied its whole log
// and, if the log is empty, applies Config.Bootstrap. Then this node may propose commands.
func (c *Cluster) takeOver(ctx context.Context) error {
	term, elected := c.raft.CurrentTerm(), time.Now()
	if err := c.wait(ctx, c.raft.Barrier(0)); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	if c.fsm.err() != nil {
		return c.fsm.err()
	}
	if err := c.checkDecided(); err != nil {
		return err
	}
	if c.fsm.view().Index() == 0 && len(c.cfg.Bootstrap) > 0 {
		batch := &state.Batch{}
		for _, cmd := range c.cfg.Bootstrap {
			batch.Requests = append(batch.Requests, cmd.Request)
		}
		if _, _, err := c.propose(ctx, state.Command{Request: batch, From: c.cfg.Node}); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
	}
	c.setLeading(term)
	c.setReady()
	c.cfg.Logger.Info("node became leader", "node", c.cfg.Node, "term", term, "index", c.fsm.view().Index(), "after", time.Since(elected).Round(time.Millisecond))
	return nil
}

// ErrLogLost is returned by Run: this node enforced an entry that the cluster's log does not have,
// so the log has lost entries.
var ErrLogLost = errors.New("the cluster's log has lost entries that this node enforced")

// checkDecided returns ErrLogLost if this node enforced an entry after the end of the log. Call it
// when this node has applied everything that its cluster committed.
func (c *Cluster) checkDecided() error {
	if index := c.View().Index(); index < c.cfg.Decided && (index > 0 || !c.cfg.Join) {
		return fmt.Errorf("%w: it enforced entry %d, but the log ends at %d; was the log in %s replaced by an older one?", ErrLogLost, c.cfg.Decided, index, c.cfg.Dir)
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

// Ready returns a channel that is closed once this node is up to date. A leader is up to date when
// it has applied its whole log and the bootstrap; a follower, when it has applied all that its
// leader had committed when the follower first reached it.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

func (c *Cluster) setReady() {
	c.leading.Lock()
	defer c.leading.Unlock()
	select {
	case <-c.ready:
	default:
		close(c.ready)
	}
}
