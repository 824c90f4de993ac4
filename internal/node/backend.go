package node

import (
	"context"
	"time"

	"palisade/ec2"
)

// enforceWait bounds how long an answer waits for this node's switch. What takes longer
// is in the log; the change is made whatever happens here.
const enforceWait = 2 * time.Second

// backend is what the API changes and reads: the cluster, and behind each change this
// node's switch, so that an answer means that the rule is in force here.
type backend struct{ *Node }

func (b backend) Apply(ctx context.Context, cmd ec2.Command) (ec2.Result, uint64, error) {
	result, index, err := b.cluster.Apply(ctx, cmd)
	if err == nil && !b.plane.wait(ctx, index, enforceWait) {
		b.log.Warn("a change is not in force yet", "index", index, "enforced", b.sw.Enforced())
	}
	return result, index, err
}

func (b backend) ReadView(ctx context.Context) (*ec2.View, error) { return b.cluster.ReadView(ctx) }
