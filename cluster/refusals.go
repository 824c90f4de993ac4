package cluster

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"time"

	"palisade/ec2"
)

// A Refusal is a kind of call that a node made and may not make, and how often this node refused it.
type Refusal struct {
	Node  ec2.NodeID `json:"node"`
	Call  string     `json:"call"`
	Count uint64     `json:"count"`
}

// maxRefusals bounds the kinds that are counted. Only members call, and the kinds are few.
const maxRefusals = 1024

// refusals counts refused calls. It logs at most one a second. mu guards the fields below it and is
// a leaf.
type refusals struct {
	mu      sync.Mutex
	counts  map[Refusal]uint64 // the Count of each key is 0
	logged  time.Time
	skipped int
}

func (r *refusals) note(log *slog.Logger, node ec2.NodeID, call string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kind := Refusal{Node: node, Call: call}
	if _, ok := r.counts[kind]; ok || len(r.counts) < maxRefusals {
		if r.counts == nil {
			r.counts = make(map[Refusal]uint64)
		}
		r.counts[kind]++
	}
	if now := time.Now(); now.Sub(r.logged) >= time.Second {
		log.Warn("call of another node refused", "from", node, "call", call, "err", err, "not_logged", r.skipped)
		r.logged, r.skipped = now, 0
		return
	}
	r.skipped++
}

// Refused returns what other nodes asked of this node since it started, and may not do.
func (c *Cluster) Refused() []Refusal {
	c.refused.mu.Lock()
	defer c.refused.mu.Unlock()
	var all []Refusal
	for kind, count := range c.refused.counts {
		kind.Count = count
		all = append(all, kind)
	}
	slices.SortFunc(all, func(a, b Refusal) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Call, b.Call)) })
	return all
}
