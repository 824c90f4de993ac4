package cluster

import (
	"context"
	"fmt"

	"palisade/ec2"
	"palisade/ec2/state"
)

// Fence excludes a node, which need not run: its leases end, the other nodes no longer talk to it,
// and the keys that it had are replaced. Fence returns an error for the last voter, and for a voter
// without which the reachable voters would be no majority, because the cluster could then never
// change anything again. by is the operator, for the audit log.
func (c *Cluster) Fence(ctx context.Context, node ec2.NodeID, by *ec2.Audit) error {
	return c.expel(ctx, node, state.Command{Request: &state.FenceNode{Node: node, Rotate: true}, Audit: by})
}

// Remove deletes a node from the node table. A node with instances must be fenced first.
func (c *Cluster) Remove(ctx context.Context, node ec2.NodeID, by *ec2.Audit) error {
	return c.expel(ctx, node, state.Command{Request: &state.RemoveNode{Node: node, Rotate: true}, Audit: by})
}

func (c *Cluster) expel(ctx context.Context, node ec2.NodeID, cmd state.Command) error {
	if err := c.waitChan(ctx, c.started); err != nil {
		return err
	}
	view := c.View()
	var others []ec2.NodeID
	votes := false
	for _, v := range votersOf(c.servers()) {
		if n, ok := view.Node(v); v == node {
			votes = true
		} else if ok && n.Member() { // an expelled node does not count: the leader removes it from Raft soon
			others = append(others, v)
		}
	}
	if votes && len(others) > 0 {
		reachable := 0
		for _, err := range c.ping(ctx, others) {
			if err == nil {
				reachable++
			}
		}
		if reachable <= len(others)/2 {
			return ec2.Errorf("IncorrectState", "without %s only %d of %d voters would be reachable, too few to decide anything ever again", node, reachable, len(others))
		}
	}
	_, _, err := c.Apply(ctx, cmd)
	return err
}

// handOverFirst is called before a command is proposed. If the command expels this node, which
// leads, it hands over leadership and returns ErrNotLeader; else it returns nil. Without this, the
// other nodes would disconnect their leader when they apply the command, and might be too few to
// elect another.
func (c *Cluster) handOverFirst(ctx context.Context, r state.Request) error {
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
	return ErrNotLeader
}
