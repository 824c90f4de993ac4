package cluster

import (
	"context"
	"errors"
	"time"

	"palisade/ec2/state"
)

// sweepEvery is how often the leader checks whether a Sweep is due. A freed address stays
// reserved up to that much longer than the settings say.
const sweepEvery = 5 * time.Second

// runSweep proposes a Sweep, on the leader, when one is due.
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

// processStart is the time from which onBeat counts.
var processStart = time.Now()

// onBeat returns a channel that receives at the next multiple of every since processStart. So
// loops with the same period wake an idle machine together: waking it costs more than their
// work.
func onBeat(every time.Duration) <-chan time.Time {
	return time.After(every - time.Since(processStart)%every)
}

// sweeper caches when the next Sweep is due, so that it searches a State only once. Only
// runSweep uses it.
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
		// An address is not due while a member may still enforce its old lease.
		r.Confirmed = c.enforcedByMembers(ctx)
		if due, ok := view.SweepDueWith(r.Confirmed); !ok || c.cfg.Now().Before(due) {
			return nil
		}
	}
	_, _, err := c.Apply(ctx, state.Command{Request: r})
	return err
}
