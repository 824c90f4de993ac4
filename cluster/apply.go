package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
)

// maxCommand bounds one log entry, in bytes. A RunInstances with all the user-data it
// may carry is a fiftieth of it.
const maxCommand = 1 << 20

// errNotLeader says that nothing was proposed: another node may be asked.
var errNotLeader = errors.New("this node is not the leader")

// Apply stamps a command, replicates it and returns what it did and its log index, on
// any node; the View of this one then holds it. When it returns without error, or with
// an *ec2.Error, the entry is on the disks of most voters. ErrNoLeader says that it was
// not proposed. After any other error, ctx's included, the command may or may not take
// effect; it is never proposed twice.
func (c *Cluster) Apply(ctx context.Context, cmd state.Command) (state.Result, uint64, error) {
	data, err := encode(cmd)
	if err != nil {
		return state.Result{}, 0, err
	}
	var a answer
	err = c.withLeader(ctx, func(leader ec2.NodeID) (err error) {
		a = answer{}
		if leader == c.cfg.Node {
			a.Result, a.Index, err = c.propose(ctx, cmd.Request, data)
			return err
		}
		if a, err = c.ask(ctx, leader, methodApply, data); err == nil {
			return a.err()
		}
		if errors.Is(err, peer.ErrNotConnected) {
			return errNotLeader // the leader has not heard of it
		}
		return fmt.Errorf("apply %T at %s: %w: %w", cmd.Request, leader, ErrOutcomeUnknown, err)
	})
	if _, refused := errors.AsType[*ec2.Error](err); err != nil && !refused {
		return state.Result{}, 0, err
	}
	if late := c.waitIndex(ctx, a.Index); late != nil {
		return state.Result{}, 0, fmt.Errorf("apply %T: entry %d is decided and not yet here: %w", cmd.Request, a.Index, late)
	}
	return a.Result, a.Index, err
}

// ReadView returns a state that holds every change acknowledged, by whichever node,
// before the call. A node that does not lead asks the leader how far that is.
func (c *Cluster) ReadView(ctx context.Context) (*state.View, error) {
	var index uint64
	err := c.withLeader(ctx, func(leader ec2.NodeID) (err error) {
		if leader == c.cfg.Node {
			index, err = c.readIndex(ctx)
			return err
		}
		a, err := c.ask(ctx, leader, methodRead, nil)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return errNotLeader // a question can be asked twice
		}
		index = a.Index
		return a.err()
	})
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if err := c.waitIndex(ctx, index); err != nil {
		return nil, fmt.Errorf("read at %d: %w", index, err)
	}
	return c.View(), nil
}

// readIndex is, on the leader, the index of a state that has all that was acknowledged.
// A leader that has applied all entries of earlier terms has acknowledged all later ones
// itself, after applying them; what is left to find out is that it still leads (Raft
// dissertation, §6.4).
func (c *Cluster) readIndex(ctx context.Context) (uint64, error) {
	term, index := c.leadingTerm(), c.View().Index()
	if err := c.wait(ctx, c.raft.VerifyLeader()); err != nil {
		if errors.Is(err, ErrOutcomeUnknown) {
			return 0, errNotLeader
		}
		return 0, err
	}
	if term == 0 || term != c.raft.CurrentTerm() {
		return 0, errNotLeader
	}
	return index, nil
}

// encode encodes a command that has no time yet, and checks its size. Every command is
// encoded here once, on the node that received it.
func encode(cmd state.Command) ([]byte, error) {
	cmd.Time = time.Time{}
	data, err := state.EncodeCommand(cmd)
	if err != nil {
		return nil, err
	}
	if len(data) > maxCommand {
		return nil, ec2.Errorf("RequestEntityTooLarge", "The request is larger than %d bytes", maxCommand)
	}
	return data, nil
}

// propose stamps an encoded command that holds r, replicates it and returns its result and
// its log index. errNotLeader means that it was not proposed.
func (c *Cluster) propose(ctx context.Context, r state.Request, data []byte) (state.Result, uint64, error) {
	data, err := state.StampCommand(data, c.cfg.Now())
	if err != nil {
		return state.Result{}, 0, err
	}
	if err := c.handOff(ctx, r); err != nil {
		return state.Result{}, 0, err
	}
	future := c.raft.Apply(data, 0)
	if err := c.wait(ctx, future); err != nil {
		return state.Result{}, 0, fmt.Errorf("apply %T: %w", r, err)
	}
	select {
	case c.committed <- struct{}{}:
	default: // the next barrier tells of this one too
	}
	switch a := future.Response().(type) {
	case applied:
		return a.result, future.Index(), a.err
	case error:
		return state.Result{}, 0, fmt.Errorf("apply %T: %w", r, a)
	default:
		panic(fmt.Sprintf("cluster: fsm answered %T", a))
	}
}
