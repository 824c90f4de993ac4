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

// ErrOutcast ends Run: the cluster has fenced or removed this node while it was away, so
// that no entry of the log will ever tell it.
var ErrOutcast = errors.New("this node is no member of its cluster any more")

const (
	outcastEvery = time.Second
	// outcastFor is how many times in a row they must refuse. One that has just
	// been admitted may be ahead of those that follow.
	outcastFor = 5
)

// runOutcast asks the voters, for as long as this node has no leader, whether they still
// admit it. An address that it has may be another instance's by now.
func (c *Cluster) runOutcast(ctx context.Context) {
	for times := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-beat(outcastEvery):
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
		if times++; times == outcastFor {
			c.outcast <- fmt.Errorf("%w: %s refuse it; it was fenced or removed. To bring the machine back, empty its data directory and join with a new token",
				ErrOutcast, strings.Join(refused, ", "))
			return
		}
	}
}

// refusals are the voters that answer that this node is no member, and whether they are
// half of all that it knows: then those it does not count among decide without it.
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

// ping calls every node at once, and returns what came of it by pingTimeout.
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
