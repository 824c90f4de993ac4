package cluster

import (
	"bytes"
	"context"
	"errors"
	"time"

	"palisade/ec2"
)

// How often a node that is not current checks whether it has become current, and how often a
// current node checks whether it still is.
const (
	catchUpEvery = 250 * time.Millisecond
	currentEvery = time.Second
)

// runCatchUp marks this node as current when, under a new leader, it has applied everything that
// was committed before, and as not current when it has no leader.
func (c *Cluster) runCatchUp(ctx context.Context) {
	var caughtUpWith ec2.NodeID // leader
	for {
		leader, ok := c.Leader()
		switch {
		case !ok:
			c.directory.setCurrent(false)
		case leader != caughtUpWith || !c.directory.isCurrent():
			if err := c.catchUp(ctx); err != nil {
				if errors.Is(err, ErrLogLost) {
					c.cfg.Logger.Error("this node keeps the rules that it last enforced, because the log of the cluster is older", "node", c.cfg.Node, "err", err)
				}
				break // for example, there is no leader; the next round tries again
			}
			caughtUpWith = leader
			c.directory.setCurrent(true)
			c.setReady()
		}
		every := catchUpEvery
		if c.directory.isCurrent() {
			every = currentEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-onBeat(every):
		}
	}
}

func (c *Cluster) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := c.ReadView(ctx); err != nil {
		return err
	}
	return c.checkDecided()
}

// runDisconnect, until ctx ends, closes the connections with each node that is fenced or removed,
// or gets another key.
func (c *Cluster) runDisconnect(ctx context.Context) {
	known := make(map[ec2.NodeID][]byte) // keys of the members
	for {
		changed := c.fsm.changed()
		now := make(map[ec2.NodeID][]byte)
		for n := range c.View().Nodes() {
			if n.Member() {
				now[n.ID] = n.PublicKey
			}
		}
		for id, key := range known {
			if current, ok := now[id]; !ok || !bytes.Equal(current, key) {
				c.cfg.Logger.Info("disconnected a node that was fenced or removed, or got another key", "node", c.cfg.Node, "disconnected", id)
				c.cfg.Peer.Drop(string(id))
			}
		}
		known = now
		if c.waitChan(ctx, changed) != nil {
			return
		}
	}
}
