package node

import (
	"context"
	"errors"
	"time"

	"palisade/cluster"
	"palisade/ec2/query"
	"palisade/ec2/state"
)

// enforceWait bounds how long an answer waits for this node's switch. What takes longer
// is in the log; the change is made whatever happens here.
const enforceWait = 2 * time.Second

// backend is what the API changes and reads: the cluster, and behind each change this
// node's switch, so that an answer means that the rule is in force here.
type backend struct{ *Node }

func (b backend) Apply(ctx context.Context, cmd state.Command) (state.Result, uint64, error) {
	result, index, err := b.cluster.Apply(ctx, cmd)
	if err != nil {
		return result, index, leaderless(err)
	}
	ctx, cancel := context.WithTimeout(ctx, enforceWait)
	defer cancel()
	if !b.plane.Wait(ctx, index) {
		b.log.Warn("a change is not in force yet", "index", index, "enforced", b.plane.Enforced())
	}
	return result, index, nil
}

func (b backend) ReadView(ctx context.Context) (*state.View, error) {
	view, err := b.cluster.ReadView(ctx)
	return view, leaderless(err)
}

// leaderless marks an error that is for want of a leader, whose text the caller may know.
func leaderless(err error) error {
	if errors.Is(err, cluster.ErrNoLeader) || errors.Is(err, cluster.ErrOutcomeUnknown) {
		return unavailable{err}
	}
	return err
}

// An unavailable is a query.Unavailable.
type unavailable struct{ error }

func (u unavailable) Unwrap() error       { return u.error }
func (u unavailable) Unavailable() string { return u.Error() }

// View is what this node goes by itself.
func (b backend) View() *state.View { return b.cluster.View() }

// Enforcement says which nodes go by the state of index.
func (b backend) Enforcement(ctx context.Context, index uint64) (query.EnforcementReport, error) {
	e, err := b.cluster.Enforcement(ctx, index)
	if err != nil {
		return query.EnforcementReport{}, err
	}
	report := query.EnforcementReport{Index: e.Index}
	for _, n := range e.Enforced {
		report.Nodes = append(report.Nodes, query.NodeEnforcement{Node: n, State: "enforced"})
	}
	for _, p := range e.Pending {
		report.Nodes = append(report.Nodes, query.NodeEnforcement{Node: p.Node, State: "pending", Why: p.Why})
	}
	for _, n := range e.Excluded {
		report.Nodes = append(report.Nodes, query.NodeEnforcement{Node: n, State: "excluded", Why: "it is fenced"})
	}
	return report, nil
}
