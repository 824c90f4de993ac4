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
	// leaderPatience is how long a call waits for a leader: an election takes about one
	// second, and half of one is kept to find out why there is none.
	leaderPatience = 1500 * time.Millisecond
	// leaderGrace is how long the answer of a leader is waited for when this node no
	// longer takes it for one.
	leaderGrace = time.Second
	// leaderPoll is how often a call that waits looks again.
	leaderPoll = 10 * time.Millisecond
	// pingTimeout bounds the question whether a node is there.
	pingTimeout = 500 * time.Millisecond
)

// Leader is the node that leads, as far as this one knows.
func (c *Cluster) Leader() (ec2.NodeID, bool) {
	select {
	case <-c.started:
	default:
		return "", false
	}
	_, id := c.raft.LeaderWithID()
	return ec2.NodeID(id), id != ""
}

// Role is "leader", "follower", "candidate", "non-voter", or "" while this node does
// not take part.
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

// withLeader calls do with the leader, again while it returns errNotLeader. Without a
// leader it gives up after two seconds.
func (c *Cluster) withLeader(ctx context.Context, do func(ec2.NodeID) error) error {
	if c.cfg.Peer == nil {
		if err := c.waitChan(ctx, c.ready); err != nil {
			return err
		}
		return noLeader(do(c.cfg.Node))
	}
	if err := c.waitChan(ctx, c.started); err != nil {
		return err
	}
	tick := time.NewTicker(leaderPoll)
	defer tick.Stop()
	for until := time.Now().Add(leaderPatience); ; {
		leader, ok := c.Leader()
		if ok && (leader != c.cfg.Node || c.leadingTerm() != 0) {
			if err := do(leader); !errors.Is(err, errNotLeader) {
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

func noLeader(err error) error {
	if errors.Is(err, errNotLeader) {
		return fmt.Errorf("%w: %w", ErrNoLeader, err)
	}
	return err
}

// whyNoLeader finds out which voters this node reaches, and makes an error of it.
func (c *Cluster) whyNoLeader(ctx context.Context) error {
	voters := votersOf(c.servers())
	if len(voters) == 0 {
		return fmt.Errorf("%w: none has called it yet, since it joined", ErrNoLeader)
	}
	came := c.ping(ctx, voters)
	var reached, lost, refused []string
	for _, v := range voters {
		switch {
		case came[v] == nil:
			reached = append(reached, string(v))
		case errors.Is(came[v], peer.ErrNotAdmitted):
			refused = append(refused, string(v))
		default:
			lost = append(lost, string(v))
		}
	}
	text := fmt.Sprintf("it reaches %d of %d voters (%s)", len(reached), len(voters), strings.Join(reached, ", "))
	if len(lost) > 0 {
		text += fmt.Sprintf(", not %s", strings.Join(lost, ", "))
	}
	if len(refused) > 0 {
		text += fmt.Sprintf("; %s refuse it: was it fenced or removed?", strings.Join(refused, ", "))
	}
	return fmt.Errorf("%w: %s", ErrNoLeader, text)
}

// leads reports whether commands may be proposed here. They may not while Run ends: the next
// leader may decide what this one could only leave open.
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

// servers is the newest configuration of Raft's.
func (c *Cluster) servers() raft.Configuration {
	f := c.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return raft.Configuration{}
	}
	return f.Configuration()
}
