package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

// The methods that members call of each other.
const (
	methodApply    = "cluster.apply"    // of the leader: propose this command
	methodRead     = "cluster.read"     // of the leader: which index has every acknowledged change?
	methodApplied  = "cluster.applied"  // of any node: have you applied this index?
	methodEnforced = "cluster.enforced" // of any node: do you enforce this index?
	methodMembers  = "cluster.members"  // of any node that is current: who are the members?
)

// A question is the body of a call of any method but methodApply, whose body is a command.
type question struct {
	Index  uint64        `json:"index,omitempty"`
	Within time.Duration `json:"within,omitempty"` // how long to wait for the index, in ns
}

// An answer is the result of every call.
type answer struct {
	Index     uint64       `json:"index"` // of the new entry (apply), of the newest change (read), or the index that the node has applied or enforces
	OK        bool         `json:"ok,omitempty"`
	Result    state.Result `json:"result,omitzero"`
	Error     *ec2.Error   `json:"error,omitempty"`
	Refused   string       `json:"refused,omitempty"` // why the call was refused
	NotLeader bool         `json:"not_leader,omitempty"`
	Unknown   string       `json:"unknown,omitempty"` // why the outcome is unknown

	Members []vouchedNode `json:"members,omitempty"`
}

func (a answer) err() error {
	switch {
	case a.Refused != "":
		return errors.New(a.Refused)
	case a.NotLeader:
		return ErrNotLeader
	case a.Unknown != "":
		return fmt.Errorf("%w: %s", ErrOutcomeUnknown, a.Unknown)
	case a.Error != nil:
		return a.Error
	}
	return nil
}

// callLeader calls a method of the leader and returns its answer. It gives up leaderGrace after
// this node has lost that leader, because behind a partition the connection itself does not fail.
func (c *Cluster) callLeader(ctx context.Context, leader ec2.NodeID, method string, body []byte) (answer, error) {
	data, err := c.callRaw(ctx, leader, method, body)
	if err != nil {
		return answer{}, err
	}
	return decodeAnswer(data)
}

func (c *Cluster) callRaw(ctx context.Context, leader ec2.NodeID, method string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !c.tasks.start(func() { c.runGrace(ctx, leader, cancel) }) {
		return nil, ErrStopped
	}
	return c.cfg.Peer.Call(ctx, string(leader), method, body)
}

// runGrace returns when ctx ends. It calls giveUp before, if leader has not been this node's leader
// for leaderGrace, or if Run is ending.
func (c *Cluster) runGrace(ctx context.Context, leader ec2.NodeID, giveUp func()) {
	tick := time.NewTicker(leaderGrace / 10)
	defer tick.Stop()
	for lost := 0; lost < 10; lost++ {
		select {
		case <-ctx.Done():
			return
		case <-c.ending:
			giveUp()
			return
		case <-tick.C:
		}
		if now, _ := c.Leader(); now == leader {
			lost = 0
		}
	}
	giveUp()
}

func (c *Cluster) call(ctx context.Context, node ec2.NodeID, method string, q question) (answer, error) {
	if c.cfg.Peer == nil {
		return answer{}, fmt.Errorf("%s is a cluster of one and cannot call %s", c.cfg.Node, node)
	}
	body, err := json.Marshal(q)
	if err != nil {
		return answer{}, err
	}
	data, err := c.cfg.Peer.Call(ctx, string(node), method, body)
	if err != nil {
		return answer{}, err
	}
	a, err := decodeAnswer(data)
	if err != nil {
		return answer{}, err
	}
	return a, a.err()
}

func decodeAnswer(data []byte) (a answer, err error) {
	if err := json.Unmarshal(data, &a); err != nil {
		return answer{}, fmt.Errorf("decode answer: %w", err)
	}
	return a, nil
}

// addHandlers adds the methods that other members call.
func (c *Cluster) addHandlers() {
	for method, h := range map[string]func(context.Context, ec2.NodeID, []byte) answer{
		methodApply:    c.answerApply,
		methodRead:     c.answerRead,
		methodApplied:  c.answerApplied,
		methodEnforced: c.answerEnforced,
		methodMembers:  c.answerMembers,
	} {
		c.cfg.Peer.Handle(method, func(ctx context.Context, from string, body []byte) ([]byte, error) {
			a := answer{Refused: fmt.Sprintf("%s is no member in the state of %s", from, c.cfg.Node)}
			if n, ok := c.View().Node(ec2.NodeID(from)); method == methodApplied || ok && n.Member() {
				a = h(ctx, ec2.NodeID(from), body)
			}
			return json.Marshal(a)
		})
	}
}

func (c *Cluster) answerApply(ctx context.Context, from ec2.NodeID, body []byte) answer {
	if !c.leads() || ctx.Err() != nil { // leads() returns false once Run is ending
		return answer{NotLeader: true}
	}
	cmd, err := state.DecodeCommand(body)
	if err != nil {
		return answer{Refused: err.Error()}
	}
	if ctx.Err() != nil { // ctx ends with the Peer: the caller must ask the next leader
		return answer{NotLeader: true}
	}
	if cmd, err = c.handedIn(from, cmd); err != nil {
		c.refused.note(c.cfg.Logger, from, fmt.Sprintf("%T", cmd.Request), err)
		refusal, _ := errors.AsType[*ec2.Error](err)
		return answer{Error: refusal}
	}
	result, index, err := c.propose(ctx, cmd)
	a := answer{Result: result, Index: index}
	refused, ok := errors.AsType[*ec2.Error](err)
	switch {
	case ok:
		a.Error = refused
	case errors.Is(err, ErrNotLeader):
		a.NotLeader = true
	case err != nil:
		a.Unknown = err.Error()
	}
	return a
}

func (c *Cluster) answerRead(ctx context.Context, _ ec2.NodeID, _ []byte) answer {
	if !c.leads() {
		return answer{NotLeader: true}
	}
	index, err := c.readIndex(ctx)
	return answer{Index: index, NotLeader: err != nil}
}

func (c *Cluster) answerApplied(ctx context.Context, _ ec2.NodeID, body []byte) answer {
	held := func() uint64 { return c.View().Index() }
	wait := func(ctx context.Context, index uint64) bool { return c.waitIndex(ctx, index) == nil }
	return answerQuestion(ctx, body, held, wait)
}

func (c *Cluster) answerEnforced(ctx context.Context, _ ec2.NodeID, body []byte) answer {
	return answerQuestion(ctx, body, c.cfg.Enforced, c.cfg.WaitEnforced)
}

func answerQuestion(ctx context.Context, body []byte, now func() uint64, wait func(context.Context, uint64) bool) answer {
	var q question
	if err := json.Unmarshal(body, &q); err != nil {
		return answer{Refused: fmt.Sprintf("decode question: %v", err)}
	}
	return waitFor(ctx, q, now, wait)
}

// waitFor waits up to q.Within for q.Index and returns the index that was reached. now returns the
// present index; wait waits for one, and reports false if ctx ends before.
func waitFor(ctx context.Context, q question, now func() uint64, wait func(context.Context, uint64) bool) answer {
	if at := now(); at >= q.Index || q.Within <= 0 {
		return answer{Index: at, OK: at >= q.Index}
	}
	ctx, cancel := context.WithTimeout(ctx, q.Within)
	defer cancel()
	ok := wait(ctx, q.Index)
	return answer{Index: now(), OK: ok}
}
