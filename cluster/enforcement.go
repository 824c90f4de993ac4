package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"palisade/ec2"
)

// An Enforcement says where a change is in force.
type Enforcement struct {
	Index    uint64       `json:"index"`
	Enforced []ec2.NodeID `json:"enforced"`
	Pending  []Pending    `json:"pending"`
	Excluded []ec2.NodeID `json:"excluded"` // fenced: nobody talks to them any more
}

// Pending is a member that does not enforce an index, as far as is known.
type Pending struct {
	Node ec2.NodeID `json:"node"`
	Why  string     `json:"why"`
}

// enforcedStep is how long one question may wait for its answer. After it, whether the
// node is a member is looked at again.
const enforcedStep = 2 * time.Second

// enforcedAgain is the pause before a node that did not answer is asked again.
const enforcedAgain = 100 * time.Millisecond

// Enforcement asks every member whether it enforces an index and waits for those that
// do not yet, until ctx ends and no longer. Who is still missing then is Pending, with
// the reason; that is no error.
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
			what := c.enforcedAt(ctx, n.ID, index)
			mu.Lock()
			defer mu.Unlock()
			found[n.ID] = what
		})
	}
	wg.Wait()
	for _, id := range order {
		switch what := found[id]; what {
		case "":
			e.Enforced = append(e.Enforced, id)
		case outOfCluster:
			e.Excluded = append(e.Excluded, id)
		default:
			e.Pending = append(e.Pending, Pending{id, what})
		}
	}
	return e, nil
}

// outOfCluster is what enforcedAt answers for a node that does not count any more.
const outOfCluster = "fenced"

// enforcedAt waits for one node. "" is success, else the reason why not.
func (c *Cluster) enforcedAt(ctx context.Context, node ec2.NodeID, index uint64) string {
	why := "does not answer"
	for {
		if n, ok := c.View().Node(node); !ok || !n.Member() {
			return outOfCluster
		}
		a, err := c.askEnforced(ctx, node, index)
		switch {
		case err == nil && a.OK:
			return ""
		case err == nil:
			why = fmt.Sprintf("enforces %d", a.Index)
		case ctx.Err() == nil: // an answer that ctx cut off says nothing new
			why = "does not answer"
		}
		select {
		case <-ctx.Done():
			return why
		case <-c.stopped:
			return why
		case <-time.After(enforcedAgain):
		}
	}
}

// askEnforced asks one node, so that its answer, be it no, is here before ctx ends.
func (c *Cluster) askEnforced(ctx context.Context, node ec2.NodeID, index uint64) (answer, error) {
	within := enforcedStep
	if end, ok := ctx.Deadline(); ok {
		left := time.Until(end)
		within = min(within, left-min(left/4, 200*time.Millisecond))
	}
	q := question{Index: index, Within: within}
	if node == c.cfg.Node {
		return answerWhen(ctx, q, c.cfg.Enforced, c.cfg.WaitEnforced), nil
	}
	ctx, cancel := context.WithTimeout(ctx, within+time.Second)
	defer cancel()
	return c.call(ctx, node, methodEnforced, q)
}

// confirmTimeout is how long a sweep waits for what the members enforce.
const confirmTimeout = time.Second

// confirmed asks every member what it enforces. Who does not answer is not in it.
func (c *Cluster) confirmed(ctx context.Context) map[ec2.NodeID]uint64 {
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
