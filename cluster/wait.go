package cluster

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"
)

// waitIndex waits until this node has applied an index. It returns an error if ctx or Run ends
// before.
func (c *Cluster) waitIndex(ctx context.Context, index uint64) error {
	for {
		changed := c.fsm.changed()
		if c.View().Index() >= index {
			return nil
		}
		if err := c.waitChan(ctx, changed); err != nil {
			return err
		}
	}
}

// waitChan waits until done is closed. It returns an error if ctx or Run ends before.
func (c *Cluster) waitChan(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-c.stopped: // checked first, because done may be closed as well
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

// wait waits for a future of Raft and returns its error, or an error if ctx or Raft ends before.
// When Raft shuts down, it never completes the futures of entries that are committed but not
// applied; the goroutine that waits for such a future stays until the process ends.
func (c *Cluster) wait(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.raftEnded:
		select {
		case err = <-done:
		default:
			return ErrStopped
		}
	}
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipLost):
		return ErrOutcomeUnknown
	case errors.Is(err, raft.ErrRaftShutdown):
		return ErrStopped
	}
	return err
}
