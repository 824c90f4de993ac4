package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"palisade/ec2"
	"palisade/internal/peer"
)

// ErrExpelled ends Run: the cluster fenced or removed this node while it was away. No log entry
// tells it so, because the other nodes no longer send it any.
var ErrExpelled = errors.New("this node is no member of its cluster any more")

const (
	expulsionEvery = time.Second
	// refusalsInARow is how many checks in a row must fail. The voters may not yet have
	// applied the entry that admitted a new node.
	refusalsInARow = 5
)

// runExpulsionCheck asks the voters whether they still admit this node, while it has no leader.
// The cluster may have leased the addresses of an expelled node to other instances.
func (c *Cluster) runExpulsionCheck(ctx context.Context) {
	for times := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-onBeat(expulsionEvery):
		}
		if _, led := c.Leader(); led {
			times = 0
			continue
		}
		refused, enough := c.refusals(ctx)
		if !enough {
			times = 0
			continue
		}
		if times++; times == refusalsInARow {
			c.expelled <- fmt.Errorf("%w: %s refuse it; it was fenced or removed. To bring the machine back, empty its data directory and join with a new token",
				ErrExpelled, strings.Join(refused, ", "))
			return
		}
	}
}

// refusals returns the voters that answer that this node is no member. They are enough if they
// are at least half of the voters that this node knows, this node included: the cluster then
// has a majority without it.
func (c *Cluster) refusals(ctx context.Context) (refused []string, enough bool) {
	voters := votersOf(c.servers())
	for node, err := range c.ping(ctx, voters) {
		if errors.Is(err, peer.ErrNotAdmitted) {
			refused = append(refused, string(node))
		}
	}
	slices.Sort(refused)
	return refused, len(refused) > 0 && 2*len(refused) >= len(voters)
}

// ping calls all nodes at once, and returns the error of each after pingTimeout at most.
func (c *Cluster) ping(ctx context.Context, nodes []ec2.NodeID) map[ec2.NodeID]error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	result := make(map[ec2.NodeID]error)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			var err error
			if n != c.cfg.Node {
				_, err = c.call(ctx, n, methodApplied, question{})
			}
			mu.Lock()
			defer mu.Unlock()
			result[n] = err
		})
	}
	wg.Wait()
	return result
}
