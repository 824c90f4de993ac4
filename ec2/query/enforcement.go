package query

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// enforcementActions are ours alone.
var enforcementActions = map[string]handler{
	"DescribeEnforcement": action(describeEnforcement),
}

// An Enforcer is a Backend that can tell which nodes go by a change. A Backend need not
// be one; DescribeEnforcement is then refused.
type Enforcer interface {
	// Enforcement asks the nodes whether they go by the state of index, until all do
	// or ctx ends. That some do not is no error.
	Enforcement(ctx context.Context, index uint64) (EnforcementReport, error)
}

// An EnforcementReport says of each node of the cluster whether it goes by the state of
// an index.
type EnforcementReport struct {
	Index uint64
	Nodes []NodeEnforcement
}

// A NodeEnforcement is one node's part of a report.
type NodeEnforcement struct {
	Node  ec2.NodeID
	State EnforcementState
	Why   string // for people, if it is not Enforced
}

// EnforcementState is what a change has come to.
type EnforcementState string

const (
	Enforced EnforcementState = "enforced" // every packet is judged by it
	Pending  EnforcementState = "pending"  // not confirmed
	Excluded EnforcementState = "excluded" // the node is fenced and carries nothing
)

// state sums a report up. Pending says that a packet may still be judged by older rules;
// Excluded, that none is, but that some node was not asked.
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

	// askTime is what a request gets that does not want to wait: a question has to
	// travel there and back.
	askTime = 250 * time.Millisecond
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

// describeEnforcement waits until every node goes by a change, and says who does not. It
// is ours; EC2 has nothing like it. It waits no longer than it was told to, but for
// askTime.
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
		wait = max(time.Duration(s*float64(time.Second)), askTime)
	}
	if c.dryRun {
		return nil, dryRunSucceeded()
	}
	ctx, cancel := context.WithTimeout(c.ctx, wait)
	defer cancel()
	report, err := enforcer.Enforcement(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("ask for enforcement of %d: %w", index, err)
	}
	answer := &describeEnforcementAnswer{Index: strconv.FormatUint(report.Index, 10), State: report.state()}
	for _, n := range report.Nodes {
		answer.Nodes = append(answer.Nodes, nodeEnforcementItem{n.Node, n.State, n.Why})
	}
	return answer, nil
}
