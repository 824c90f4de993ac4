package cluster

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"
)

// waitIndex waits until the State holds an index.
func (c *Cluster) waitIndex(ctx context.Context, index uint64) error {
	for {
		moved := c.fsm.moved()
		if c.View().Index() >= index {
			return nil
		}
		if err := c.waitChan(ctx, moved); err != nil {
			return err
		}
	}
}

// waitChan waits for a channel to close.
func (c *Cluster) waitChan(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-c.stopped: // checked first: a stopped cluster was ready once
		return ErrStopped
	default:
	}
	select {
	case <-done:
		return nil
	case <-c.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait waits for a future of raft's, or for ctx. Of what Raft has committed and not applied
// when it shuts down it resolves no future, so one that is open then stays so, and the
// goroutine that asks it; nobody waits for either.
func (c *Cluster) wait(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.halted:
		select {
		case err = <-done:
		default:
			return ErrStopped
		}
	}
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errNotLeader
	case errors.Is(err, raft.ErrLeadershipLost):
		return ErrOutcomeUnknown
	case errors.Is(err, raft.ErrRaftShutdown):
		return ErrStopped
	}
	return err
}
