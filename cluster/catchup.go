package cluster

import (
	"bytes"
	"context"
	"time"

	"palisade/ec2"
)

// How often a node looks whether it has become current, and whether it still is.
const (
	followEvery  = 250 * time.Millisecond
	currentEvery = time.Second
)

// runFollow finds out, for each leader, when this node has all that was decided before.
func (c *Cluster) runFollow(ctx context.Context) {
	var with ec2.NodeID // the leader it became current with
	for {
		leader, ok := c.Leader()
		switch {
		case !ok:
			c.trust.setCurrent(false)
		case leader != with || !c.trust.isCurrent():
			if err := c.catchUp(ctx); err != nil {
				break
			}
			with = leader
			c.trust.setCurrent(true)
			c.setReady()
		}
		every := followEvery
		if c.trust.isCurrent() {
			every = currentEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-beat(every):
		}
	}
}

func (c *Cluster) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := c.ReadView(ctx); err != nil {
		return err
	}
	if err := c.checkDecided(); err != nil {
		c.cfg.Logger.Error("this node enforces what its cluster has lost, and takes nothing older", "node", c.cfg.Node, "err", err)
		return err
	}
	return nil
}

// runDrops ends the connections with every node that a change puts out, and with a
// name's former bearer.
func (c *Cluster) runDrops(ctx context.Context) {
	known := make(map[ec2.NodeID][]byte) // members, and their keys
	for {
		moved := c.fsm.moved()
		now := make(map[ec2.NodeID][]byte)
		for n := range c.View().Nodes() {
			if n.Member() {
				now[n.ID] = n.PublicKey
			}
		}
		for id, key := range known {
			if was, ok := now[id]; !ok || !bytes.Equal(was, key) {
				c.cfg.Logger.Info("dropped a node that was fenced or removed", "node", c.cfg.Node, "dropped", id)
				c.cfg.Peer.Drop(string(id))
			}
		}
		known = now
		if c.waitChan(ctx, moved) != nil {
			return
		}
	}
}
