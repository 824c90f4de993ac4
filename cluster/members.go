package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
	"palisade/ec2/state"
)

// The State says which nodes are members and voters. This file changes the servers in Raft's
// configuration to match.

// membersEvery is how often the leader compares Raft's servers with the State's nodes.
const membersEvery = time.Second

// warnAfter is how many failed attempts at a change cause one warning in the log.
const warnAfter = 15

// runMembers, on the leader, changes Raft's servers one at a time until they match the State's
// nodes. It runs until ctx ends.
func (c *Cluster) runMembers(ctx context.Context) {
	var warned string
	var failures int
	for {
		changed := c.fsm.changed()
		for c.leadingTerm() != 0 && ctx.Err() == nil {
			change := nextChange(c.cfg.Node, c.cfg.PeerAddress, c.View(), c.servers())
			if change == nil {
				warned = c.warnVoters(warned)
				break
			}
			if err := c.makeChange(ctx, *change); err != nil {
				// A few failures are normal: a node that was just admitted may not run yet.
				if failures++; failures%warnAfter == 0 && ctx.Err() == nil {
					c.cfg.Logger.Warn("change of Raft's servers failed", "node", c.cfg.Node, "change", change.String(), "attempts", failures, "err", err)
				}
				break
			}
			failures = 0
			c.cfg.Logger.Info("changed Raft's servers", "node", c.cfg.Node, "change", change.String())
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-onBeat(membersEvery):
		}
	}
}

// A memberChange is one change of Raft's configuration.
type memberChange struct {
	kind    memberStep
	node    ec2.NodeID
	address string
}

type memberStep string

const (
	stepRemove   memberStep = "remove"
	stepAdd      memberStep = "add without a vote"
	stepPromote  memberStep = "give a vote to"
	stepMove     memberStep = "change the address of"
	stepDemote   memberStep = "take the vote of"
	stepHandOver memberStep = "hand over leadership from"
)

func (m memberChange) String() string { return fmt.Sprintf("%s %s", m.kind, m.node) }

// nextChange returns the next change that makes Raft's servers match the State's nodes, or nil if
// they match. self and address are the leader's. Nodes that are no members are removed first,
// because a dead voter counts in every majority. A leader that is no member hands over leadership,
// because it cannot remove itself. A new voter starts without a vote, so that a node that never
// answered does not count in a majority.
func nextChange(self ec2.NodeID, address string, view *state.View, servers raft.Configuration) *memberChange {
	in := make(map[ec2.NodeID]raft.Server)
	for _, s := range servers.Servers {
		id := ec2.NodeID(s.ID)
		in[id] = s
		if n, ok := view.Node(id); !ok || !n.Member() {
			if id != self {
				return &memberChange{stepRemove, id, ""}
			}
		}
	}
	if n, ok := view.Node(self); ok && !n.Member() || !ok && hasOtherMember(view, self) {
		return &memberChange{stepHandOver, self, ""}
	}
	var promote *memberChange
	for n := range view.Nodes() {
		want := n.Address
		if n.ID == self && want == "" {
			want = address // its row in the node table has no address yet
		}
		if !n.Member() || want == "" {
			continue
		}
		s, ok := in[n.ID]
		switch {
		case !ok:
			return &memberChange{stepAdd, n.ID, want}
		case string(s.Address) != want:
			return &memberChange{stepMove, n.ID, want}
		case s.Suffrage == raft.Voter && !n.Votes():
			return &memberChange{stepDemote, n.ID, want}
		case s.Suffrage != raft.Voter && n.Votes() && promote == nil:
			promote = &memberChange{stepPromote, n.ID, want}
		}
	}
	return promote
}

func hasOtherMember(view *state.View, self ec2.NodeID) bool {
	for n := range view.Nodes() {
		if n.ID != self && n.Member() {
			return true
		}
	}
	return false
}

func (c *Cluster) makeChange(ctx context.Context, m memberChange) error {
	id, address := raft.ServerID(m.node), raft.ServerAddress(m.address)
	switch m.kind {
	case stepRemove:
		return c.wait(ctx, c.raft.RemoveServer(id, 0, rpcTimeout))
	case stepAdd:
		return c.wait(ctx, c.raft.AddNonvoter(id, address, 0, rpcTimeout))
	case stepDemote:
		return c.wait(ctx, c.raft.DemoteVoter(id, 0, rpcTimeout))
	case stepHandOver:
		return c.wait(ctx, c.raft.LeadershipTransfer())
	case stepPromote:
		if err := c.waitCaughtUp(ctx, m.node); err != nil {
			return err
		}
		return c.wait(ctx, c.raft.AddVoter(id, address, 0, rpcTimeout))
	case stepMove:
		for _, s := range c.servers().Servers {
			if s.ID == id && s.Suffrage == raft.Voter {
				return c.wait(ctx, c.raft.AddVoter(id, address, 0, rpcTimeout))
			}
		}
		return c.wait(ctx, c.raft.AddNonvoter(id, address, 0, rpcTimeout))
	}
	panic(fmt.Sprintf("cluster: unknown step %q", m.kind))
}

// waitCaughtUp waits a second for a node to apply what this node has applied, else it returns an
// error.
func (c *Cluster) waitCaughtUp(ctx context.Context, node ec2.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	a, err := c.call(ctx, node, methodApplied, question{Index: c.View().Index(), Within: time.Second})
	if err != nil {
		return err
	}
	if !a.OK {
		return fmt.Errorf("the node has applied entry %d and is still catching up", a.Index)
	}
	return nil
}

// warnVoters logs a warning if the number of voters is unwise. It returns the present voters as
// text; if that equals warned, it logs nothing.
func (c *Cluster) warnVoters(warned string) string {
	voters := votersOf(c.servers())
	now := fmt.Sprint(voters)
	if now == warned {
		return warned
	}
	switch n := len(voters); {
	case n > 1 && n%2 == 0:
		c.cfg.Logger.Warn("an even number of voters survives no more failures than one voter less", "voters", n)
	case n > 5:
		c.cfg.Logger.Warn("more than five voters make every change slower", "voters", n)
	}
	return now
}
