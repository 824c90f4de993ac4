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

// The calls between members.
const (
	methodApply    = "cluster.apply"    // a command, to the leader
	methodRead     = "cluster.read"     // to the leader: which index has all that was acknowledged?
	methodApplied  = "cluster.applied"  // to any: do you have this index?
	methodEnforced = "cluster.enforced" // to any: do you enforce this index?
)

// A question is the body of every call but methodApply's, which is a command.
type question struct {
	Index  uint64        `json:"index,omitempty"`
	Within time.Duration `json:"within,omitempty"` // how long the answer may take, in ns
}

// An answer is what every call returns.
type answer struct {
	Index     uint64       `json:"index"` // which one depends on the method
	OK        bool         `json:"ok,omitempty"`
	Result    state.Result `json:"result,omitzero"`
	Error     *ec2.Error   `json:"error,omitempty"`
	Refused   string       `json:"refused,omitempty"` // why it was not even tried
	NotLeader bool         `json:"not_leader,omitempty"`
	Unknown   string       `json:"unknown,omitempty"` // what left the outcome open
}

func (a answer) err() error {
	switch {
	case a.Refused != "":
		return errors.New(a.Refused)
	case a.NotLeader:
		return errNotLeader
	case a.Unknown != "":
		return fmt.Errorf("%w: %s", ErrOutcomeUnknown, a.Unknown)
	case a.Error != nil:
		return a.Error
	}
	return nil
}

// ask calls the leader, and gives up soon after this node no longer takes it for one:
// behind a partition no connection says that it is broken.
func (c *Cluster) ask(ctx context.Context, leader ec2.NodeID, method string, body []byte) (answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !c.tasks.start(func() { c.runGrace(ctx, leader, cancel) }) {
		return answer{}, ErrStopped
	}
	data, err := c.cfg.Peer.Call(ctx, string(leader), method, body)
	if err != nil {
		return answer{}, err
	}
	return decodeAnswer(data)
}

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
		return answer{}, fmt.Errorf("%s is alone and reaches no %s", c.cfg.Node, node)
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
		return answer{}, fmt.Errorf("decode an answer: %w", err)
	}
	return a, nil
}

// handle answers the other members' calls.
func (c *Cluster) handle() {
	for method, h := range map[string]func(context.Context, []byte) answer{
		methodApply:    c.answerApply,
		methodRead:     c.answerRead,
		methodApplied:  c.answerApplied,
		methodEnforced: c.answerEnforced,
	} {
		c.cfg.Peer.Handle(method, func(ctx context.Context, from string, body []byte) ([]byte, error) {
			a := answer{Refused: fmt.Sprintf("%s is no member, as far as %s knows", from, c.cfg.Node)}
			if n, ok := c.View().Node(ec2.NodeID(from)); method == methodApplied || ok && n.Member() {
				a = h(ctx, body)
			}
			return json.Marshal(a)
		})
	}
}

func (c *Cluster) answerApply(ctx context.Context, body []byte) answer {
	if !c.leads() || ctx.Err() != nil { // the door closes before Run ends
		return answer{NotLeader: true}
	}
	cmd, err := state.DecodeCommand(body)
	if err != nil {
		return answer{Refused: err.Error()}
	}
	if ctx.Err() != nil { // the door is closing: the next leader may be asked
		return answer{NotLeader: true}
	}
	result, index, err := c.propose(ctx, cmd.Request, body)
	a := answer{Result: result, Index: index}
	refused, ok := errors.AsType[*ec2.Error](err)
	switch {
	case ok:
		a.Error = refused
	case errors.Is(err, errNotLeader):
		a.NotLeader = true
	case err != nil:
		a.Unknown = err.Error()
	}
	return a
}

func (c *Cluster) answerRead(ctx context.Context, _ []byte) answer {
	if !c.leads() {
		return answer{NotLeader: true}
	}
	index, err := c.readIndex(ctx)
	return answer{Index: index, NotLeader: err != nil}
}

func (c *Cluster) answerApplied(ctx context.Context, body []byte) answer {
	held := func() uint64 { return c.View().Index() }
	wait := func(ctx context.Context, index uint64) bool { return c.waitIndex(ctx, index) == nil }
	return answerQuestion(ctx, body, held, wait)
}

func (c *Cluster) answerEnforced(ctx context.Context, body []byte) answer {
	return answerQuestion(ctx, body, c.cfg.Enforced, c.cfg.WaitEnforced)
}

func answerQuestion(ctx context.Context, body []byte, now func() uint64, wait func(context.Context, uint64) bool) answer {
	var q question
	if err := json.Unmarshal(body, &q); err != nil {
		return answer{Refused: fmt.Sprintf("decode a question: %v", err)}
	}
	return answerWhen(ctx, q, now, wait)
}

func answerWhen(ctx context.Context, q question, now func() uint64, wait func(context.Context, uint64) bool) answer {
	if at := now(); at >= q.Index || q.Within <= 0 {
		return answer{Index: at, OK: at >= q.Index}
	}
	ctx, cancel := context.WithTimeout(ctx, q.Within)
	defer cancel()
	ok := wait(ctx, q.Index)
	return answer{Index: now(), OK: ok}
}
