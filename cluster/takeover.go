package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

// lead follows this node's leadership until ctx ends or the State cannot go on.
func (c *Cluster) lead(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.fsm.failed:
			return nil // Run reports why
		case err := <-c.outcast:
			return err
		case leader := <-c.raft.LeaderCh():
			c.setLeading(0)
			if err := c.setPace(leader); err != nil {
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
				return err // of Config.Bootstrap: it will not do better next time
			}
			if err != nil && ctx.Err() == nil {
				c.cfg.Logger.Warn("leader cannot take over", "node", c.cfg.Node, "err", err)
			}
		}
	}
}

// setPace makes Raft's timeouts those of a leader or a follower, where there are both.
func (c *Cluster) setPace(leader bool) error {
	switch {
	case c.stream == nil:
		return nil
	case leader:
		return c.pace(leaderTimeout)
	}
	return c.pace(electionTimeout)
}

// takeOver brings a new leader up to its log and, the first time ever, bootstraps.
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
		data, err := encode(state.Command{Request: batch})
		if err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
		if _, _, err := c.propose(ctx, batch, data); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
	}
	c.setLeading(term)
	c.setReady()
	c.cfg.Logger.Info("leads", "node", c.cfg.Node, "term", term, "index", c.fsm.view().Index(), "after", time.Since(elected).Round(time.Millisecond))
	return nil
}

// ErrLogLost ends Run: the log has lost entries, for this node enforced what the whole cluster does not know.
var ErrLogLost = errors.New("what this node enforced is not in the log of its cluster")

// checkDecided is asked when this node has all that its cluster decided.
func (c *Cluster) checkDecided() error {
	if index := c.View().Index(); index < c.cfg.Decided && (index > 0 || !c.cfg.Join) {
		return fmt.Errorf("%w: it enforced entry %d and the log ends at %d; was the log in %s replaced by an older one?", ErrLogLost, c.cfg.Decided, index, c.cfg.Dir)
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

// Ready is closed once this node has all that its cluster had decided: a leader the whole
// log, bootstrap included, another node what its leader had when it first asked.
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
