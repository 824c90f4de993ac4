package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
	"palisade/internal/refusal"
)

// enforceWait bounds how long an API call that changes the state waits until this node's switch
// enforces the change. If the wait times out, the call still succeeds.
const enforceWait = 2 * time.Second

// backend gives the API access to the cluster. Apply works only on the leader: other nodes pass the request
// on (forward.go). It also waits until this node's switch enforces the change, so that the change is in
// force on the node that received the request when the client gets its answer.
type backend struct{ *Node }

func (b backend) Apply(ctx context.Context, cmd state.Command) (state.Result, uint64, error) {
	result, index, err := b.cluster.ApplyHere(ctx, cmd)
	if errors.Is(err, cluster.ErrNotLeader) {
		return result, index, fmt.Errorf("%w: %w", query.ErrElsewhere, err)
	}
	if err != nil {
		return result, index, leaderless(err)
	}
	b.awaitEnforced(ctx, index)
	return result, index, nil
}

// awaitEnforced waits until this node's switch enforces index, but no longer than enforceWait.
func (n *Node) awaitEnforced(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, enforceWait)
	defer cancel()
	if !n.plane.Wait(ctx, index) {
		n.log.Warn("change not enforced yet", "index", index, "enforced", n.plane.Enforced())
	}
}

func (b backend) ReadView(ctx context.Context) (*state.View, error) {
	view, err := b.cluster.ReadView(ctx)
	return view, leaderless(err)
}

// leaderless returns err as an unavailable if the cluster has no leader or the outcome of a change is
// unknown; otherwise err itself.
func leaderless(err error) error {
	if errors.Is(err, cluster.ErrNoLeader) || errors.Is(err, cluster.ErrOutcomeUnknown) {
		return unavailable{err}
	}
	return err
}

// An unavailable is an error that the API answers with the code Unavailable and the error's text
// (query.Unavailable).
type unavailable struct{ error }

func (u unavailable) Unwrap() error       { return u.error }
func (u unavailable) Unavailable() string { return u.Error() }

// View returns the newest state that this node has.
func (b backend) View() *state.View { return b.cluster.View() }

// Enforcement reports, for each node, whether it enforces the state of index.
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

// refused keeps a call that the API refused.
func (n *Node) refused(account ec2.AccountID, call *ec2.Audit, e *ec2.Error) {
	if call == nil {
		n.refusals.Count(cmp.Or(account, refusal.Unknown), e.Code)
		return
	}
	n.refusals.Add(time.Now(), *call, e)
}
