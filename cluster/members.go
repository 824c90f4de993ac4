package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
)

// The State says who the members are; this file makes everything else follow: Raft's
// servers, on the leader, and on every node the connections with those who are out.

// Fence puts a node out without its help: its leases end, nobody talks to it any more,
// and the gossip key is replaced. Not the last voter, nor one without which the others
// could decide nothing: that would be for good. by says for the log who asked.
func (c *Cluster) Fence(ctx context.Context, node ec2.NodeID, by *ec2.Audit) error {
	return c.putOut(ctx, node, ec2.Command{Request: &ec2.FenceNode{Node: node, GossipKey: newGossipKey()}, Audit: by})
}

// Remove takes a node's row away. One that carries instances must be fenced first.
func (c *Cluster) Remove(ctx context.Context, node ec2.NodeID, by *ec2.Audit) error {
	return c.putOut(ctx, node, ec2.Command{Request: &ec2.RemoveNode{Node: node, GossipKey: newGossipKey()}, Audit: by})
}

func (c *Cluster) putOut(ctx context.Context, node ec2.NodeID, cmd ec2.Command) error {
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
func (c *Cluster) handOff(ctx context.Context, r ec2.Request) error {
	var node ec2.NodeID
	switch r := r.(type) {
	case *ec2.FenceNode:
		node = r.Node
	case *ec2.RemoveNode:
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
func nextChange(self ec2.NodeID, address string, view *ec2.View, servers raft.Configuration) *memberChange {
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

func hasOtherMember(view *ec2.View, self ec2.NodeID) bool {
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
