package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
)

// The calls between members.
const (
	methodApply    = "cluster.apply"    // a command, to the leader
	methodRead     = "cluster.read"     // to the leader: which index has all that was acknowledged?
	methodApplied  = "cluster.applied"  // to any: do you have this index?
	methodEnforced = "cluster.enforced" // to any: do you enforce this index?
)

const (
	// leaderPatience is how long a call waits for a leader: an election takes about one
	// second, and half of one is kept to find out why there is none.
	leaderPatience = 1500 * time.Millisecond
	// leaderGrace is how long the answer of a leader is waited for when this node no
	// longer takes it for one.
	leaderGrace = time.Second
	// leaderPoll is how often a call that waits looks again.
	leaderPoll = 10 * time.Millisecond
	// pingTimeout bounds the question whether a node is there.
	pingTimeout = 500 * time.Millisecond
)

// errNotLeader says that nothing was proposed: another node may be asked.
var errNotLeader = errors.New("this node is not the leader")

// Apply stamps a command, replicates it and returns what it did and its log index, on
// any node; the View of this one then holds it. When it returns without error, or with
// an *ec2.Error, the entry is on the disks of most voters. ErrNoLeader says that it was
// not proposed. After any other error, ctx's included, the command may or may not take
// effect; it is never proposed twice.
func (c *Cluster) Apply(ctx context.Context, cmd ec2.Command) (ec2.Result, uint64, error) {
	cmd.Time = time.Time{} // the leader's to say
	data, err := ec2.EncodeCommand(cmd)
	if err != nil {
		return ec2.Result{}, 0, err
	}
	if len(data) > maxCommand {
		return ec2.Result{}, 0, ec2.Errorf("RequestEntityTooLarge", "The request is larger than %d bytes", maxCommand)
	}
	var a answer
	err = c.withLeader(ctx, func(leader ec2.NodeID) (err error) {
		a = answer{}
		if leader == c.cfg.Node {
			a.Result, a.Index, err = c.propose(ctx, cmd)
			return err
		}
		if a, err = c.ask(ctx, leader, methodApply, data); err == nil {
			return a.err()
		}
		if unsent(err) {
			return errNotLeader
		}
		return fmt.Errorf("apply %T at %s: %w: %w", cmd.Request, leader, ErrOutcomeUnknown, err)
	})
	if _, refused := errors.AsType[*ec2.Error](err); err != nil && !refused {
		return ec2.Result{}, 0, err
	}
	if late := c.waitIndex(ctx, a.Index); late != nil {
		return ec2.Result{}, 0, fmt.Errorf("apply %T: entry %d is decided and not yet here: %w", cmd.Request, a.Index, late)
	}
	return a.Result, a.Index, err
}

// ReadView returns a state that holds every change acknowledged, by whichever node,
// before the call. A node that does not lead asks the leader how far that is.
func (c *Cluster) ReadView(ctx context.Context) (*ec2.View, error) {
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

// Leader is the node that leads, as far as this one knows.
func (c *Cluster) Leader() (ec2.NodeID, bool) {
	select {
	case <-c.started:
	default:
		return "", false
	}
	_, id := c.raft.LeaderWithID()
	return ec2.NodeID(id), id != ""
}

// Role is "leader", "follower", "candidate", "non-voter", or "" while this node does
// not take part.
func (c *Cluster) Role() string {
	select {
	case <-c.stopped:
		return ""
	case <-c.started:
	default:
		return ""
	}
	switch c.raft.State() {
	case raft.Leader:
		return "leader"
	case raft.Candidate:
		return "candidate"
	case raft.Shutdown:
		return ""
	}
	for _, s := range c.servers().Servers {
		if ec2.NodeID(s.ID) == c.cfg.Node && s.Suffrage == raft.Voter {
			return "follower"
		}
	}
	return "non-voter"
}

// withLeader calls do with the leader, again while it returns errNotLeader. Without a
// leader it gives up after two seconds.
func (c *Cluster) withLeader(ctx context.Context, do func(ec2.NodeID) error) error {
	if c.cfg.Peer == nil {
		if err := c.waitChan(ctx, c.ready); err != nil {
			return err
		}
		return noLeader(do(c.cfg.Node))
	}
	if err := c.waitChan(ctx, c.started); err != nil {
		return err
	}
	tick := time.NewTicker(leaderPoll)
	defer tick.Stop()
	for until := time.Now().Add(leaderPatience); ; {
		leader, ok := c.Leader()
		if ok && (leader != c.cfg.Node || c.leadingTerm() != 0) {
			if err := do(leader); !errors.Is(err, errNotLeader) {
				return err
			}
		}
		select {
		case <-c.stopped:
			return ErrStopped
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrNoLeader, ctx.Err())
		case <-tick.C:
		}
		if time.Now().After(until) {
			return c.whyNoLeader(ctx)
		}
	}
}

func noLeader(err error) error {
	if errors.Is(err, errNotLeader) {
		return fmt.Errorf("%w: %w", ErrNoLeader, err)
	}
	return err
}

// whyNoLeader finds out which voters this node reaches, and makes an error of it.
func (c *Cluster) whyNoLeader(ctx context.Context) error {
	voters := votersOf(c.servers())
	if len(voters) == 0 {
		return fmt.Errorf("%w: none has called it yet, since it joined", ErrNoLeader)
	}
	there := c.reach(ctx, voters)
	var reached, lost []string
	for _, v := range voters {
		if there[v] {
			reached = append(reached, string(v))
		} else {
			lost = append(lost, string(v))
		}
	}
	text := fmt.Sprintf("it reaches %d of %d voters (%s)", len(reached), len(voters), strings.Join(reached, ", "))
	if len(lost) > 0 {
		text += fmt.Sprintf(", not %s", strings.Join(lost, ", "))
	}
	return fmt.Errorf("%w: %s", ErrNoLeader, text)
}

// reach asks nodes whether they are there, all at once.
func (c *Cluster) reach(ctx context.Context, nodes []ec2.NodeID) map[ec2.NodeID]bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	there := make(map[ec2.NodeID]bool)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			ok := n == c.cfg.Node
			if !ok {
				_, err := c.call(ctx, n, methodApplied, question{})
				ok = err == nil
			}
			mu.Lock()
			defer mu.Unlock()
			there[n] = ok
		})
	}
	wg.Wait()
	return there
}

// A question is the body of every call but methodApply's, which is a command.
type question struct {
	Index  uint64        `json:"index,omitempty"`
	Within time.Duration `json:"within,omitempty"` // how long the answer may take, in ns
}

// An answer is what every call returns.
type answer struct {
	Index     uint64     `json:"index"` // which one depends on the method
	OK        bool       `json:"ok,omitempty"`
	Result    ec2.Result `json:"result,omitzero"`
	Error     *ec2.Error `json:"error,omitempty"`
	Refused   string     `json:"refused,omitempty"` // why it was not even tried
	NotLeader bool       `json:"not_leader,omitempty"`
	Unknown   string     `json:"unknown,omitempty"` // what left the outcome open
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

// unsent reports whether a call ended before the far end can have heard of it.
func unsent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
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
	if !c.leads() {
		return answer{NotLeader: true}
	}
	cmd, err := ec2.DecodeCommand(body)
	if err != nil {
		return answer{Refused: err.Error()}
	}
	result, index, err := c.propose(ctx, cmd)
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

// leads reports whether commands may be proposed here.
func (c *Cluster) leads() bool {
	select {
	case <-c.stopped:
		return false
	case <-c.started:
		return c.leadingTerm() != 0
	default:
		return false
	}
}

// servers is the newest configuration of Raft's.
func (c *Cluster) servers() raft.Configuration {
	f := c.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return raft.Configuration{}
	}
	return f.Configuration()
}

// waitIndex waits until the State holds an index.
func (c *Cluster) waitIndex(ctx context.Context, index uint64) error {
	for {
		moved := c.fsm.moved()
		if c.View().Index() >= index {
			return nil
		}
		if err := c.waitChan(ctx, moved); err != nil {
			return err
		}
	}
}

// waitChan waits for a channel to close.
func (c *Cluster) waitChan(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-c.stopped: // checked first: a stopped cluster was ready once
		return ErrStopped
	default:
	}
	select {
	case <-done:
		return nil
	case <-c.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}
