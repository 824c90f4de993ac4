package cluster

import (
	"context"
	"errors"
	"time"

	"palisade/ec2"
)

// sweepEvery is how often the leader looks for something to sweep, so an address rests
// up to that much longer than the settings say.
const sweepEvery = 5 * time.Second

// runSweep proposes a Sweep when the State has something to sweep, on the leader. It
// looks through the State only if that has changed, or what was found has come due.
func (c *Cluster) runSweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var due time.Time
	var pending bool
	var seen uint64 // index of the View that due is of
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if c.leadingTerm() == 0 {
			continue
		}
		view := c.View()
		if view.Index() != seen {
			seen = view.Index()
			due, pending = view.SweepDue()
		}
		if !pending || c.cfg.Now().Before(due) {
			continue
		}
		sweep := &ec2.Sweep{}
		if c.cfg.Peer != nil {
			// What waits for a node's word is not due, however long it has rested.
			sweep.Confirmed = c.confirmed(ctx)
			if by, ok := view.SweepDueWith(sweep.Confirmed); !ok || c.cfg.Now().Before(by) {
				continue
			}
		}
		if _, _, err := c.Apply(ctx, ec2.Command{Request: sweep}); err != nil && ctx.Err() == nil && !errors.Is(err, ErrNoLeader) {
			c.cfg.Logger.Warn("sweep", "node", c.cfg.Node, "err", err)
		}
	}
}
