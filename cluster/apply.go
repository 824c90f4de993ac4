package cluster

import (
	"context"
	"errors"
	"fmt"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
)

// maxCommand bounds one encoded command, in bytes. The largest RunInstances, with all the
// user-data that EC2 allows, has a fiftieth of this size.
const maxCommand = 1 << 20

// ErrNotLeader means that this node does not lead and nothing was proposed, so the caller may ask
// another node.
var ErrNotLeader = errors.New("this node is not the leader")

// Apply replicates a command, on any node, and returns its result and its log index; this
// node's View then includes it. When Apply returns without error, the entry is on the disks of
// most voters. After an *ec2.Error nothing has changed; the index is that of the state that
// refused the command. ErrNoLeader means that the command was not proposed. After any
// other error, also when ctx ends, the command may or may not take effect. No command is
// proposed twice.
func (c *Cluster) Apply(ctx context.Context, cmd state.Command) (state.Result, uint64, error) {
	var a answer
	var data []byte
	err := c.withLeader(ctx, func(leader ec2.NodeID) (err error) {
		a = answer{}
		if leader == c.cfg.Node {
			a.Result, a.Index, err = c.ApplyHere(ctx, cmd)
			return err
		}
		if data == nil {
			if data, err = encode(cmd); err != nil {
				return err
			}
		}
		if a, err = c.callLeader(ctx, leader, methodApply, data); err == nil {
			return a.err()
		}
		if errors.Is(err, peer.ErrNotConnected) {
			return ErrNotLeader // the leader did not receive the command
		}
		return fmt.Errorf("apply %T at %s: %w: %w", cmd.Request, leader, ErrOutcomeUnknown, err)
	})
	refusal, refused := errors.AsType[*ec2.Error](err)
	if err != nil && !refused {
		return state.Result{}, 0, err
	}
	if refused && cmd.Audit != nil && c.cfg.Refused != nil {
		c.cfg.Refused(*cmd.Audit, refusal)
	}
	if late := c.waitIndex(ctx, a.Index); late != nil {
		return state.Result{}, 0, fmt.Errorf("apply %T: entry %d is committed but not yet applied on this node: %w", cmd.Request, a.Index, late)
	}
	return a.Result, a.Index, err
}

// ApplyHere is like Apply, but only proposes the command if this node leads, else it returns
// ErrNotLeader. So no other node can change the command on its way.
func (c *Cluster) ApplyHere(ctx context.Context, cmd state.Command) (state.Result, uint64, error) {
	cmd.From = c.cfg.Node
	if !c.leads() {
		return state.Result{}, 0, ErrNotLeader
	}
	result, index, err := c.propose(ctx, cmd)
	if _, refused := errors.AsType[*ec2.Error](err); err != nil && !refused {
		return state.Result{}, 0, err
	}
	return result, index, err
}

// ReadView returns a View with every change that any node acknowledged before the call. A node
// that does not lead asks the leader for the index of that View, and waits until it has applied it.
func (c *Cluster) ReadView(ctx context.Context) (*state.View, error) {
	var index uint64
	err := c.withLeader(ctx, func(leader ec2.NodeID) (err error) {
		if leader == c.cfg.Node {
			index, err = c.readIndex(ctx)
			return err
		}
		a, err := c.callLeader(ctx, leader, methodRead, nil)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return ErrNotLeader // repeating a read does no harm
		}
		index = a.Index
		return a.err()
	})
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if err := c.waitIndex(ctx, index); err != nil {
		return nil, fmt.Errorf("read the state of index %d: %w", index, err)
	}
	return c.View(), nil
}

// readIndex returns, on the leader, the index of a state that has every acknowledged change.
// Once a leader has applied all entries of earlier terms, it has itself applied every entry
// that was acknowledged since. So it only has to verify that it still leads (Raft
// dissertation, §6.4).
func (c *Cluster) readIndex(ctx context.Context) (uint64, error) {
	term, index := c.leadingTerm(), c.View().Index()
	return index, c.stillLeads(ctx, term)
}

// stillLeads returns nil if this node leads in a term, and has led since.
func (c *Cluster) stillLeads(ctx context.Context, term uint64) error {
	if err := c.wait(ctx, c.raft.VerifyLeader()); err != nil {
		if errors.Is(err, ErrOutcomeUnknown) {
			return ErrNotLeader
		}
		return err
	}
	if term != c.raft.CurrentTerm() { // it is 0 before the takeover; a leader's term in Raft is not
		return ErrNotLeader
	}
	return nil
}

// refuse returns the error that a caller's command would have, and the index of the state that
// refuses it. Such a command is not proposed, so that a caller cannot fill the log with requests
// that change nothing. Commands of nodes are proposed without this check.
func (c *Cluster) refuse(ctx context.Context, cmd state.Command) (uint64, error) {
	if cmd.Audit == nil {
		return 0, nil
	}
	term, view := c.leadingTerm(), c.View()
	refusal, ok := errors.AsType[*ec2.Error](view.TryCommand(cmd))
	if !ok {
		return 0, nil
	}
	if err := c.stillLeads(ctx, term); err != nil { // only then has view every acknowledged change
		return 0, err
	}
	return view.Index(), refusal
}

// encode encodes a command, and returns an error if it is too large.
func encode(cmd state.Command) ([]byte, error) {
	data, err := state.EncodeCommand(cmd)
	if err != nil {
		return nil, err
	}
	if len(data) > maxCommand {
		return nil, ec2.Errorf("RequestEntityTooLarge", "The request is larger than %d bytes", maxCommand)
	}
	return data, nil
}

// propose stamps a command, replicates it and returns its result and its log index. ErrNotLeader
// means that the command was not proposed.
func (c *Cluster) propose(ctx context.Context, cmd state.Command) (state.Result, uint64, error) {
	cmd.Time = c.cfg.Now()
	if index, err := c.refuse(ctx, cmd); err != nil {
		return state.Result{}, index, err
	}
	data, err := encode(cmd)
	if err != nil {
		return state.Result{}, 0, err
	}
	r := cmd.Request
	if err := c.handOverFirst(ctx, r); err != nil {
		return state.Result{}, 0, err
	}
	future := c.raft.Apply(data, 0)
	if err := c.wait(ctx, future); err != nil {
		return state.Result{}, 0, fmt.Errorf("apply %T: %w", r, err)
	}
	select {
	case c.committed <- struct{}{}:
	default: // a barrier is already due, and covers this entry too
	}
	switch a := future.Response().(type) {
	case applied:
		return a.result, future.Index(), a.err
	case error:
		return state.Result{}, 0, fmt.Errorf("apply %T: %w", r, a)
	default:
		panic(fmt.Sprintf("cluster: the fsm returned a %T", a))
	}
}
