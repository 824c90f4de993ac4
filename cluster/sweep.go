package cluster

import (
	"context"
	"errors"
	"time"

	"palisade/ec2/state"
)

// sweepEvery is how often the leader looks for something to sweep, so an address rests
// up to that much longer than the settings say.
const sweepEvery = 5 * time.Second

// runSweep proposes a Sweep when the State has something to sweep, on the leader.
func (c *Cluster) runSweep(ctx context.Context) {
	var s sweeper
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat(sweepEvery):
		}
		if c.leadingTerm() == 0 {
			continue
		}
		if err := s.sweep(ctx, c); err != nil && ctx.Err() == nil && !errors.Is(err, ErrNoLeader) {
			c.cfg.Logger.Warn("sweep", "node", c.cfg.Node, "err", err)
		}
	}
}

// started is when the beats of this process count from.
var started = time.Now()

// beat sends at the next whole multiple of every since the process started. Loops that
// wait for beats wake an idle machine together: a wake costs more than what they do then.
func beat(every time.Duration) <-chan time.Time {
	return time.After(every - time.Since(started)%every)
}

// sweeper remembers when something comes due, so that it looks through the State only if
// that has changed.
type sweeper struct {
	due     time.Time
	pending bool
	seen    uint64 // index of the View that due is of
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
		// What waits for a node's word is not due, however long it has rested.
		r.Confirmed = c.confirmed(ctx)
		if due, ok := view.SweepDueWith(r.Confirmed); !ok || c.cfg.Now().Before(due) {
			return nil
		}
	}
	_, _, err := c.Apply(ctx, state.Command{Request: r})
	return err
}
