package query

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// enforcementActions show when a change is enforced. EC2 has no such Actions.
var enforcementActions = map[string]handler{
	"DescribeEnforcement": action(describeEnforcement),
}

// An Enforcer is a Backend that knows which nodes enforce a change. With a Backend that is
// no Enforcer, DescribeEnforcement is refused.
type Enforcer interface {
	// Enforcement asks the nodes whether they enforce the state at index, until all do or
	// ctx ends. The report, not an error, says which nodes do not.
	Enforcement(ctx context.Context, index uint64) (EnforcementReport, error)
}

// An EnforcementReport says for each node of the cluster whether it enforces the state at
// an index.
type EnforcementReport struct {
	Index uint64
	Nodes []NodeEnforcement
}

// A NodeEnforcement is the part of a report about one node.
type NodeEnforcement struct {
	Node  ec2.NodeID
	State EnforcementState
	Why   string // the reason, for people, unless State is Enforced
}

// EnforcementState tells whether a change is enforced.
type EnforcementState string

const (
	Enforced EnforcementState = "enforced" // every packet is checked against the change
	Pending  EnforcementState = "pending"  // the node has not confirmed the change
	Excluded EnforcementState = "excluded" // the node is fenced and forwards nothing
)

// state returns one state for the whole cluster. Pending means that packets may still be
// checked against older rules. Excluded means that they are not, but that a fenced node was
// not asked.
func (r *EnforcementReport) state() EnforcementState {
	state := Enforced
	for _, n := range r.Nodes {
		switch n.State {
		case Enforced:
		case Excluded:
			if state == Enforced {
				state = Excluded
			}
		default:
			state = Pending
		}
	}
	return state
}

const (
	defaultEnforcementWait = 5 * time.Second
	maxEnforcementWait     = 60 * time.Second

	// minEnforcementWait is the shortest wait, because the question and the answer of a
	// node take some time on the network.
	minEnforcementWait = 250 * time.Millisecond
)

type describeEnforcementRequest struct {
	Index   string `wire:"Index"`
	Timeout string `wire:"Timeout"` // seconds, "0.5"
}

type describeEnforcementAnswer struct {
	Index string                `wire:"index"`
	State EnforcementState      `wire:"state"`
	Nodes []nodeEnforcementItem `wire:"nodeSet"`
}

type nodeEnforcementItem struct {
	Node   ec2.NodeID       `wire:"node"`
	State  EnforcementState `wire:"state"`
	Reason string           `wire:"reason"`
}

// describeEnforcement waits until every node enforces a change, at most for the longer of
// Timeout and minEnforcementWait. It shows which nodes do not enforce the change.
func describeEnforcement(c *call, r *describeEnforcementRequest) (*describeEnforcementAnswer, error) {
	enforcer, ok := c.server.cfg.Backend.(Enforcer)
	if !ok {
		return nil, ec2.Errorf("UnsupportedOperation", "This endpoint does not know what is enforced")
	}
	index, wait := c.view.Index(), defaultEnforcementWait
	if r.Index != "" {
		n, err := strconv.ParseUint(r.Index, 10, 64)
		if err != nil || n > index {
			return nil, ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for Index. It must be the index of a change, at most %d.", wire.Quote(r.Index), index)
		}
		index = n
	}
	if r.Timeout != "" {
		s, err := strconv.ParseFloat(r.Timeout, 64)
		if err != nil || math.IsNaN(s) || s < 0 || s > maxEnforcementWait.Seconds() {
			return nil, ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for Timeout. It must be seconds, 0 to %.0f.", wire.Quote(r.Timeout), maxEnforcementWait.Seconds())
		}
		wait = max(time.Duration(s*float64(time.Second)), minEnforcementWait)
	}
	if c.dryRun {
		return nil, dryRunSucceeded()
	}
	ctx, cancel := context.WithTimeout(c.ctx, wait)
	defer cancel()
	var report EnforcementReport
	var err error
	late := c.pause(func() { report, err = enforcer.Enforcement(ctx, index) })
	if err = cmp.Or(err, late); err != nil {
		return nil, fmt.Errorf("ask the nodes for the enforcement of index %d: %w", index, err)
	}
	answer := &describeEnforcementAnswer{Index: strconv.FormatUint(report.Index, 10), State: report.state()}
	for _, n := range report.Nodes {
		answer.Nodes = append(answer.Nodes, nodeEnforcementItem{n.Node, n.State, n.Why})
	}
	return answer, nil
}
