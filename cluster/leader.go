package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
	"palisade/internal/peer"
)

const (
	// leaderPatience is how long a call waits for a leader. An election takes about one
	// second; half a second more is left for pings that find out why there is none.
	leaderPatience = 1500 * time.Millisecond
	// leaderGrace is how long a call to the leader waits for an answer after this node has
	// lost that leader.
	leaderGrace = time.Second
	// leaderPoll is how often a call that waits for a leader checks whether there is one.
	leaderPoll = 10 * time.Millisecond
	// pingTimeout is how long ping waits for an answer.
	pingTimeout = 500 * time.Millisecond
)

// Leader returns the leader that this node knows, or false if it knows none.
func (c *Cluster) Leader() (ec2.NodeID, bool) {
	select {
	case <-c.started:
	default:
		return "", false
	}
	_, id := c.raft.LeaderWithID()
	return ec2.NodeID(id), id != ""
}

// Role returns "leader", "follower", "candidate" or "non-voter", or "" while Raft does not run
// on this node.
func (c *Cluster) Role() string {
	select {
	case <-c.stopped:
		return ""
	case <-c.started:
	default:
		return ""
	}
	switch c.raft.State() {
	case raft.Leader:
		return "leader"
	case raft.Candidate:
		return "candidate"
	case raft.Shutdown:
		return ""
	}
	for _, s := range c.servers().Servers {
		if ec2.NodeID(s.ID) == c.cfg.Node && s.Suffrage == raft.Voter {
			return "follower"
		}
	}
	return "non-voter"
}

// String returns "follower, term 3, index 17, leader node1, voters [node1 node2 node3]".
func (c *Cluster) String() string {
	role, leader := c.Role(), ec2.NodeID("unknown")
	if role == "" {
		return fmt.Sprintf("not running, index %d", c.View().Index())
	}
	if id, ok := c.Leader(); ok {
		leader = id
	}
	return fmt.Sprintf("%s, term %d, index %d, leader %s, voters %v", role, c.raft.CurrentTerm(), c.View().Index(), leader, votersOf(c.servers()))
}

// withLeader calls do with the leader, and repeats this while do returns ErrNotLeader. Without a
// leader, withLeader returns ErrNoLeader after leaderPatience and a ping of the voters: after two
// seconds.
func (c *Cluster) withLeader(ctx context.Context, do func(ec2.NodeID) error) error {
	if c.cfg.Peer == nil {
		if err := c.waitChan(ctx, c.ready); err != nil {
			return err
		}
		return wrapNotLeader(do(c.cfg.Node))
	}
	if err := c.waitChan(ctx, c.started); err != nil {
		return err
	}
	tick := time.NewTicker(leaderPoll)
	defer tick.Stop()
	for until := time.Now().Add(leaderPatience); ; {
		leader, ok := c.Leader()
		if ok && (leader != c.cfg.Node || c.leadingTerm() != 0) {
			if err := do(leader); !errors.Is(err, ErrNotLeader) {
				return err
			}
		}
		select {
		case <-c.stopped:
			return ErrStopped
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrNoLeader, ctx.Err())
		case <-tick.C:
		}
		if time.Now().After(until) {
			return c.whyNoLeader(ctx)
		}
	}
}

func wrapNotLeader(err error) error {
	if errors.Is(err, ErrNotLeader) {
		return fmt.Errorf("%w: %w", ErrNoLeader, err)
	}
	return err
}

// whyNoLeader pings the voters and returns an ErrNoLeader that says which of them answer.
func (c *Cluster) whyNoLeader(ctx context.Context) error {
	voters := votersOf(c.servers())
	if len(voters) == 0 {
		return fmt.Errorf("%w: no leader has contacted this node since it joined", ErrNoLeader)
	}
	errs := c.ping(ctx, voters)
	var reached, unreached, refused []string
	for _, v := range voters {
		switch {
		case errs[v] == nil:
			reached = append(reached, string(v))
		case errors.Is(errs[v], peer.ErrNotAdmitted):
			refused = append(refused, string(v))
		default:
			unreached = append(unreached, string(v))
		}
	}
	text := fmt.Sprintf("it reaches %d of %d voters (%s)", len(reached), len(voters), strings.Join(reached, ", "))
	if len(unreached) > 0 {
		text += fmt.Sprintf(", not %s", strings.Join(unreached, ", "))
	}
	if len(refused) > 0 {
		text += fmt.Sprintf("; refused by %s: was this node fenced or removed?", strings.Join(refused, ", "))
	}
	return fmt.Errorf("%w: %s", ErrNoLeader, text)
}

// leads reports whether this node is a leader that may propose commands. While Run is ending it
// returns false, because this node could no longer learn the outcome of a command.
func (c *Cluster) leads() bool {
	select {
	case <-c.ending:
		return false
	default:
	}
	select {
	case <-c.started:
		return c.leadingTerm() != 0
	default:
		return false
	}
}

// servers returns Raft's newest configuration, which may not be committed yet.
func (c *Cluster) servers() raft.Configuration {
	f := c.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return raft.Configuration{}
	}
	return f.Configuration()
}
