package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
	"palisade/ec2/state"
)

// The State says who the members are; this file makes everything else follow: Raft's
// servers, on the leader, and on every node the connections with those who are out.

// membersEvery is how often the leader compares Raft's servers with the State's nodes.
const membersEvery = time.Second

// warnAfter is how many attempts at a change fail before the log says so, and again.
const warnAfter = 15

// runMembers makes Raft's servers what the State says they are, on the leader, one
// change at a time.
func (c *Cluster) runMembers(ctx context.Context) {
	var warned string
	var failures int
	for {
		moved := c.fsm.moved()
		for c.leadingTerm() != 0 && ctx.Err() == nil {
			change := nextChange(c.cfg.Node, c.cfg.PeerAddress, c.View(), c.servers())
			if change == nil {
				warned = c.warnVoters(warned)
				break
			}
			if err := c.carryOut(ctx, *change); err != nil {
				// A node that was admitted a moment ago may not run yet.
				if failures++; failures%warnAfter == 0 && ctx.Err() == nil {
					c.cfg.Logger.Warn("members", "node", c.cfg.Node, "change", change.String(), "attempts", failures, "err", err)
				}
				break
			}
			failures = 0
			c.cfg.Logger.Info("members", "node", c.cfg.Node, "change", change.String())
		}
		select {
		case <-ctx.Done():
			return
		case <-moved:
		case <-beat(membersEvery):
		}
	}
}

// A memberChange is one step of Raft's configuration.
type memberChange struct {
	kind    memberStep
	node    ec2.NodeID
	address string
}

type memberStep string

const (
	stepRemove  memberStep = "remove"
	stepAdd     memberStep = "add without a vote"
	stepPromote memberStep = "give a vote to"
	stepMove    memberStep = "change the address of"
	stepDemote  memberStep = "take the vote of"
	stepHandOff memberStep = "hand over leadership from"
)

func (m memberChange) String() string { return fmt.Sprintf("%s %s", m.kind, m.node) }

// nextChange is the first step from Raft's servers to the State's nodes. Who is out goes
// first: a dead voter counts in every majority. A leader that is out itself hands over
// before, for a leader cannot well remove itself. A new voter begins without a vote, so
// that one that nobody reaches never counts.
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
		return &memberChange{stepHandOff, self, ""}
	}
	var promote *memberChange
	for n := range view.Nodes() {
		want := n.Address
		if n.ID == self && want == "" {
			want = address // before the State knows it
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

func (c *Cluster) carryOut(ctx context.Context, m memberChange) error {
	id, address := raft.ServerID(m.node), raft.ServerAddress(m.address)
	switch m.kind {
	case stepRemove:
		return c.wait(ctx, c.raft.RemoveServer(id, 0, rpcTimeout))
	case stepAdd:
		return c.wait(ctx, c.raft.AddNonvoter(id, address, 0, rpcTimeout))
	case stepDemote:
		return c.wait(ctx, c.raft.DemoteVoter(id, 0, rpcTimeout))
	case stepHandOff:
		return c.wait(ctx, c.raft.LeadershipTransfer())
	case stepPromote:
		if err := c.caughtUp(ctx, m.node); err != nil {
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

// caughtUp waits a second for a node to hold what this one holds.
func (c *Cluster) caughtUp(ctx context.Context, node ec2.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	a, err := c.call(ctx, node, methodApplied, question{Index: c.View().Index(), Within: time.Second})
	if err != nil {
		return err
	}
	if !a.OK {
		return fmt.Errorf("it has entry %d and is still catching up", a.Index)
	}
	return nil
}

// warnVoters says once per set of voters what is unwise about their number.
func (c *Cluster) warnVoters(said string) string {
	voters := votersOf(c.servers())
	now := fmt.Sprint(voters)
	if now == said {
		return said
	}
	switch n := len(voters); {
	case n > 1 && n%2 == 0:
		c.cfg.Logger.Warn("an even number of voters stands no more failures than one fewer", "voters", n)
	case n > 5:
		c.cfg.Logger.Warn("more than five voters make every change slower", "voters", n)
	}
	return now
}
