package cluster

import (
	"context"
	"errors"
	"fmt"

	"palisade/ec2"
	"palisade/internal/peer"
)

// CodeNotLeader is the code of the peer.RemoteError with which a handler refuses what only the
// leader answers, if it has done nothing.
const CodeNotLeader = "NotLeader"

// AtLeader passes body on to a method of the leader, unread, and returns the answer. If this node
// leads, AtLeader calls here and returns no answer. If here returns ErrNotLeader, or the leader
// answers CodeNotLeader, AtLeader finds the next leader. repeatable says that the call may be made
// twice; otherwise AtLeader returns ErrOutcomeUnknown if the leader is lost before it answers.
func (c *Cluster) AtLeader(ctx context.Context, method string, body []byte, repeatable bool, here func() error) (answer []byte, err error) {
	err = c.withLeader(ctx, func(leader ec2.NodeID) (err error) {
		if leader == c.cfg.Node {
			return here()
		}
		if answer, err = c.callRaw(ctx, leader, method, body); err == nil {
			return nil
		}
		remote, refused := errors.AsType[*peer.RemoteError](err)
		switch {
		case errors.Is(err, peer.ErrNotConnected), refused && remote.Code == CodeNotLeader:
			return ErrNotLeader // the leader has done nothing
		case refused || ctx.Err() != nil:
			return err
		case repeatable:
			return ErrNotLeader
		}
		return fmt.Errorf("%s at %s: %w: %w", method, leader, ErrOutcomeUnknown, err)
	})
	return answer, err
}
