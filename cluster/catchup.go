package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
			c.askMembers(ctx)
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

// askMembers asks the voters that this node knows who the members are, and believes one that is
// current. See directory.
func (c *Cluster) askMembers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, v := range c.knownVoters() {
		wg.Go(func() {
			if a, err := c.call(ctx, v, methodMembers, question{}); err == nil && len(a.Members) > 0 {
				c.directory.vouch(a.Members)
				cancel()
			}
		})
	}
	wg.Wait()
}

// knownVoters returns the voters in the State other than this node; without a State, the members
// that admitted this node.
func (c *Cluster) knownVoters() (voters []ec2.NodeID) {
	view := c.View()
	for n := range view.Nodes() {
		if n.Votes() && n.ID != c.cfg.Node {
			voters = append(voters, n.ID)
		}
	}
	if view.Index() == 0 {
		for _, m := range c.cfg.Identity.Members() {
			if m.Role != string(ec2.NonVoter) && m.Node != string(c.cfg.Node) {
				voters = append(voters, ec2.NodeID(m.Node))
			}
		}
	}
	return voters
}

// answerMembers names the members of the State, for a node that is not current. This node answers
// only if it is current itself.
func (c *Cluster) answerMembers(context.Context, ec2.NodeID, []byte) answer {
	if !c.leads() && !c.directory.isCurrent() {
		return answer{Refused: fmt.Sprintf("%s has no leader, so it does not know the members", c.cfg.Node)}
	}
	var a answer
	for n := range c.View().Nodes() {
		if n.Member() {
			a.Members = append(a.Members, vouchedNode{n.ID, n.PublicKey, n.Votes(), n.Address})
		}
	}
	return a
}

// runDisconnect, until ctx ends, closes the connections with each node that is fenced or removed,
// gets another key or loses its vote. The last one connects again, but no more to Raft.
func (c *Cluster) runDisconnect(ctx context.Context) {
	type standing struct {
		key   string
		votes bool
	}
	known := make(map[ec2.NodeID]standing) // the members
	for {
		changed := c.fsm.changed()
		now := make(map[ec2.NodeID]standing)
		for n := range c.View().Nodes() {
			if n.Member() {
				now[n.ID] = standing{string(n.PublicKey), n.Votes()}
			}
		}
		for id, was := range known {
			if is, ok := now[id]; !ok || is.key != was.key || was.votes && !is.votes {
				c.cfg.Logger.Info("disconnected a node that was fenced or removed, got another key or lost its vote", "node", c.cfg.Node, "disconnected", id)
				c.cfg.Peer.Drop(string(id))
			}
		}
		known = now
		if c.waitChan(ctx, changed) != nil {
			return
		}
	}
}
