package cluster

import (
	"context"
	"crypto/rand"
	"fmt"

	"palisade/ec2"
	"palisade/ec2/state"
)

// Fence puts a node out without its help: its leases end, nobody talks to it any more,
// and the gossip key is replaced. Not the last voter, nor one without which the others
// could decide nothing: that would be for good. by says for the log who asked.
func (c *Cluster) Fence(ctx context.Context, node ec2.NodeID, by *ec2.Audit) error {
	return c.putOut(ctx, node, state.Command{Request: &state.FenceNode{Node: node, GossipKey: newGossipKey()}, Audit: by})
}

// Remove takes a node's row away. One that carries instances must be fenced first.
func (c *Cluster) Remove(ctx context.Context, node ec2.NodeID, by *ec2.Audit) error {
	return c.putOut(ctx, node, state.Command{Request: &state.RemoveNode{Node: node, GossipKey: newGossipKey()}, Audit: by})
}

func (c *Cluster) putOut(ctx context.Context, node ec2.NodeID, cmd state.Command) error {
	if err := c.waitChan(ctx, c.started); err != nil {
		return err
	}
	view := c.View()
	var rest []ec2.NodeID
	voted := false
	for _, v := range votersOf(c.servers()) {
		if n, ok := view.Node(v); v == node {
			voted = true
		} else if ok && n.Member() { // another that is out leaves Raft at any moment
			rest = append(rest, v)
		}
	}
	if voted && len(rest) > 0 {
		there := 0
		for _, err := range c.ping(ctx, rest) {
			if err == nil {
				there++
			}
		}
		if there <= len(rest)/2 {
			return ec2.Errorf("IncorrectState", "without %s only %d of %d voters would be there, too few to decide anything ever again", node, there, len(rest))
		}
	}
	_, _, err := c.Apply(ctx, cmd)
	return err
}

// handOff is asked before a command is proposed. A leader does not put itself out: when
// the others hear of it, they hang up, and may then be too few to elect another.
func (c *Cluster) handOff(ctx context.Context, r state.Request) error {
	var node ec2.NodeID
	switch r := r.(type) {
	case *state.FenceNode:
		node = r.Node
	case *state.RemoveNode:
		node = r.Node
	}
	if node != c.cfg.Node || len(votersOf(c.servers())) < 2 {
		return nil
	}
	if err := c.wait(ctx, c.raft.LeadershipTransfer()); err != nil {
		return fmt.Errorf("hand over leadership: %w", err)
	}
	return errNotLeader
}

func newGossipKey() []byte {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		panic(fmt.Sprintf("cluster: no randomness: %v", err))
	}
	return key
}
