package cluster

import (
	"context"
	"errors"
	"time"

	"palisade/ec2/state"
)

// sweepEvery is how often the leader checks whether a Sweep is due. So a freed address may stay
// reserved for this much longer than the settings say.
const sweepEvery = 5 * time.Second

// runSweep, on the leader, proposes a Sweep whenever one is due, until ctx ends.
func (c *Cluster) runSweep(ctx context.Context) {
	var s sweeper
	for {
		select {
		case <-ctx.Done():
			return
		case <-onBeat(sweepEvery):
		}
		if c.leadingTerm() == 0 {
			continue
		}
		if err := s.sweep(ctx, c); err != nil && ctx.Err() == nil && !errors.Is(err, ErrNoLeader) {
			c.cfg.Logger.Warn("sweep failed", "node", c.cfg.Node, "err", err)
		}
	}
}

// processStart is the time from which onBeat counts its multiples.
var processStart = time.Now()

// onBeat returns a channel that receives once, at the next multiple of every after processStart. So
// all loops with the same period run at the same moment: on an idle machine, waking the CPU costs
// more than their work.
func onBeat(every time.Duration) <-chan time.Time {
	return time.After(every - time.Since(processStart)%every)
}

// sweeper computes when the next Sweep is due, only once for each View. Only runSweep uses it.
type sweeper struct {
	due     time.Time
	pending bool
	seen    uint64 // index of the View that due was computed from
}

func (s *sweeper) sweep(ctx context.Context, c *Cluster) error {
	view := c.View()
	if view.Index() != s.seen {
		s.seen = view.Index()
		s.due, s.pending = view.SweepDue()
	}
	if !s.pending || c.cfg.Now().Before(s.due) {
		return nil
	}
	r := &state.Sweep{}
	if c.cfg.Peer != nil {
		// A Sweep may not release an address while a member may still enforce its old lease.
		r.Confirmed = c.enforcedByMembers(ctx)
		if due, ok := view.SweepDueWith(r.Confirmed); !ok || c.cfg.Now().Before(due) {
			return nil
		}
	}
	_, _, err := c.Apply(ctx, state.Command{Request: r})
	return err
}
