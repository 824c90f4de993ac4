package cluster

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"palisade/ec2"
	"palisade/internal/peer"
)

// ErrExpelled is returned by Run when the cluster has fenced or removed this node. The node cannot
// learn this from the log, because the other nodes no longer send it entries.
var ErrExpelled = errors.New("this node is no member of its cluster any more")

const (
	expulsionEvery = time.Second
	// refusalsInARow is how many checks in a row must find this node refused. One is not
	// enough: the voters may not yet have applied the entry that admitted a new node.
	refusalsInARow = 5
)

// runExpulsionCheck asks the voters, while this node has no leader, whether they still admit it. An
// expelled node must stop, because the cluster may lease its addresses to other instances.
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
			c.expelled <- fmt.Errorf("%w: these voters refuse it: %s. It was fenced or removed. To bring the machine back, empty its data directory and join with a new token",
				ErrExpelled, strings.Join(refused, ", "))
			return
		}
	}
}

// refusals returns the voters that refuse this node because it is no member. enough is true if
// they are at least half of the voters that this node knows, itself included: then the cluster has a
// majority without this node.
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

// ping calls all nodes at once, for at most pingTimeout, and returns the error of each call.
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
			// The fence of this node may have replaced the authority, so that it cannot check the
			// certificate. A renewal checks the keys of both nodes instead.
			if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
				if _, refused := c.cfg.Peer.AskRenewal(ctx, string(n), nil); errors.Is(refused, peer.ErrNotAdmitted) {
					err = refused
				}
			}
			mu.Lock()
			defer mu.Unlock()
			result[n] = err
		})
	}
	wg.Wait()
	return result
}
