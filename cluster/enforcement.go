package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"palisade/ec2"
)

// An Enforcement says which nodes enforce an index.
type Enforcement struct {
	Index    uint64       `json:"index"`
	Enforced []ec2.NodeID `json:"enforced"`
	Pending  []Pending    `json:"pending"`
	Excluded []ec2.NodeID `json:"excluded"` // fenced: no other node talks to them
}

// Pending is a member that does not enforce an index, or does not answer, and why.
type Pending struct {
	Node ec2.NodeID `json:"node"`
	Why  string     `json:"why"`
}

// enforcedWait is how long one call waits for a node to enforce an index. enforcedAt checks before
// each call whether the node is still a member.
const enforcedWait = 2 * time.Second

// enforcedRetry is the pause between two calls to the same node.
const enforcedRetry = 100 * time.Millisecond

// Enforcement asks every member whether it enforces an index, and waits until all do or ctx ends.
// Members that do not enforce the index by then are listed in Pending, with a reason; this is no
// error.
func (c *Cluster) Enforcement(ctx context.Context, index uint64) (Enforcement, error) {
	if err := c.waitChan(ctx, c.started); err != nil {
		return Enforcement{}, err
	}
	e := Enforcement{Index: index}
	var mu sync.Mutex
	var wg sync.WaitGroup
	nodes := c.View().Nodes()
	var order []ec2.NodeID
	found := make(map[ec2.NodeID]string)
	for n := range nodes {
		order = append(order, n.ID)
		wg.Go(func() {
			reason := c.enforcedAt(ctx, n.ID, index)
			mu.Lock()
			defer mu.Unlock()
			found[n.ID] = reason
		})
	}
	wg.Wait()
	for _, id := range order {
		switch reason := found[id]; reason {
		case "":
			e.Enforced = append(e.Enforced, id)
		case fencedReason:
			e.Excluded = append(e.Excluded, id)
		default:
			e.Pending = append(e.Pending, Pending{id, reason})
		}
	}
	return e, nil
}

// fencedReason is enforcedAt's answer for a node that is no longer a member.
const fencedReason = "fenced"

// enforcedAt waits until a node enforces an index and returns "". If ctx ends before, it returns
// the reason; for a node that is no member it returns fencedReason.
func (c *Cluster) enforcedAt(ctx context.Context, node ec2.NodeID, index uint64) string {
	why := "does not answer"
	for {
		if n, ok := c.View().Node(node); !ok || !n.Member() {
			return fencedReason
		}
		a, err := c.callEnforced(ctx, node, index)
		switch {
		case err == nil && a.OK:
			return ""
		case err == nil:
			why = fmt.Sprintf("enforces %d", a.Index)
		case ctx.Err() == nil: // else keep the last reason
			why = "does not answer"
		}
		select {
		case <-ctx.Done():
			return why
		case <-c.stopped:
			return why
		case <-time.After(enforcedRetry):
		}
	}
}

// callEnforced asks a node whether it enforces an index. The node answers before ctx ends, also if
// it does not enforce the index yet.
func (c *Cluster) callEnforced(ctx context.Context, node ec2.NodeID, index uint64) (answer, error) {
	within := enforcedWait
	if end, ok := ctx.Deadline(); ok {
		left := time.Until(end)
		within = min(within, left-min(left/4, 200*time.Millisecond))
	}
	q := question{Index: index, Within: within}
	if node == c.cfg.Node {
		return waitFor(ctx, q, c.cfg.Enforced, c.cfg.WaitEnforced), nil
	}
	ctx, cancel := context.WithTimeout(ctx, within+time.Second)
	defer cancel()
	return c.call(ctx, node, methodEnforced, q)
}

// confirmTimeout is how long enforcedByMembers waits for answers.
const confirmTimeout = time.Second

// enforcedByMembers returns the index that each member enforces. A member that does not answer is
// not in the map.
func (c *Cluster) enforcedByMembers(ctx context.Context) map[ec2.NodeID]uint64 {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	all := make(map[ec2.NodeID]uint64)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n := range c.View().Nodes() {
		if !n.Member() {
			continue
		}
		wg.Go(func() {
			index := c.cfg.Enforced()
			if n.ID != c.cfg.Node {
				a, err := c.call(ctx, n.ID, methodEnforced, question{})
				if err != nil {
					return
				}
				index = a.Index
			}
			mu.Lock()
			defer mu.Unlock()
			all[n.ID] = index
		})
	}
	wg.Wait()
	return all
}
