package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

// ended returns a context that has ended.
func ended(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// A script is how the neighbours of a circle answer the methods of Cluster.
type script struct {
	s *circle

	mu     sync.Mutex
	answer scripted
}

// scripted answers the n-th call. It returns false if the answer must not arrive.
type scripted func(ctx context.Context, n int, at ec2.NodeID) (answer, bool)

func (s *script) set(answer scripted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// newScript makes a circle of three whose neighbours answer these methods as the script says.
func newScript(t *testing.T, methods ...string) *script {
	t.Helper()
	s := &script{}
	s.s = newCircle(t, 3, func(node ec2.NodeID, p *peer.Peer) {
		for _, m := range methods {
			p.Handle(m, func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
				s.mu.Lock()
				answer := s.answer
				s.mu.Unlock()
				a, arrives := answer(ctx, s.s.note(node), node)
				if !arrives {
					p.Drop("node1")
				}
				return json.Marshal(a)
			})
		}
	})
	return s
}

// fixed answers each call with a.
func fixed(a answer) scripted {
	return func(context.Context, int, ec2.NodeID) (answer, bool) { return a, true }
}

// A node that does not lead reads by asking the leader for an index and waiting for it, as often as it takes.
func TestReadWaitsForTheIndexOfTheLeader(t *testing.T) {
	asked := newScript(t, methodRead)
	s := asked.s
	late := func(context.Context, int, ec2.NodeID) (answer, bool) {
		time.AfterFunc(20*time.Millisecond, func() { s.put(&state.Bootstrap{Seed: "a seed of the cluster's tests"}) })
		return answer{Index: s.View().Index() + 1}, true
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, tt := range []struct {
		what   string
		ctx    context.Context
		answer scripted
		calls  string
		newer  uint64
		text   string // of the error
	}{
		{"it has the index", t.Context(), fixed(answer{Index: s.View().Index()}), "[node2]", 0, ""},
		{"it gets the index later", t.Context(), late, "[node2]", 1, ""},
		{"the answer is lost", t.Context(), func(_ context.Context, n int, _ ec2.NodeID) (answer, bool) { return answer{Index: 1}, n > 1 }, "[node2 node2]", 0, ""},
		{"another leads", t.Context(), func(_ context.Context, _ int, at ec2.NodeID) (answer, bool) {
			s.lead("node3")
			return answer{NotLeader: at == "node2"}, true
		}, "[node2 node3]", 0, ""},
		{"the leader refuses", t.Context(), fixed(answer{Refused: "not you"}), "[node2]", 0, "read: not you"},
		{"the caller ends while the leader thinks", ctx, func(ctx context.Context, _ int, _ ec2.NodeID) (answer, bool) {
			cancel()
			<-ctx.Done()
			return answer{}, true
		}, "[node2]", 0, "read: context canceled"},
	} {
		asked.set(tt.answer)
		s.lead("node2")
		before := s.View().Index()
		view, err := s.ReadView(tt.ctx)
		calls := s.noted()
		if calls != tt.calls || (err != nil) != (tt.text != "") || err != nil && err.Error() != tt.text || err == nil && (view == nil || view.Index() != before+tt.newer) {
			t.Errorf("%s: calls of %s, view %v, error %v; want %s, an index of %d, error %q", tt.what, calls, view, err, tt.calls, before+tt.newer, tt.text)
		}
	}
	asked.set(fixed(answer{Index: 1}))
	for decided, want := range map[uint64]error{0: nil, 1000: ErrLogLost} {
		if s.cfg.Decided = decided; !errors.Is(s.catchUp(t.Context()), want) || s.catchUp(ended(t)) == nil {
			t.Errorf("a node that enforced entry %d catches up with a leader at entry 1, want %v; or with none", decided, want)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	asked.set(fixed(answer{Index: 1000}))
	if view, err := s.ReadView(short); view != nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "index 1000") {
		t.Errorf("the index does not come: view %v, error %v; want a time-out that names index 1000", view, err)
	}
}

// A node that does not lead hands a command to the leader, once, and returns what the leader answers.
func TestApplyReturnsWhatTheLeaderAnswers(t *testing.T) {
	asked := newScript(t, methodApply)
	s := asked.s
	code := &ec2.Error{Code: "InvalidGroup.Duplicate", Message: "there is one"}
	var refused []string
	s.cfg.Refused = func(a ec2.Audit, e *ec2.Error) { refused = append(refused, a.Action+" "+e.Code) }
	now := s.View().Index()
	for _, tt := range []struct {
		what   string
		answer scripted
		audit  *ec2.Audit
		calls  string
		index  uint64
		is     error
		noted  string
	}{
		{"done", fixed(answer{Index: now}), &ec2.Audit{Action: "A"}, "[node2]", now, nil, "[]"},
		{"refused", fixed(answer{Index: now - 1, Error: code}), &ec2.Audit{Action: "A"}, "[node2]", now - 1, code, "[A InvalidGroup.Duplicate]"},
		{"refused, of a node", fixed(answer{Index: now, Error: code}), nil, "[node2]", now, code, "[]"},
		{"another leads", func(_ context.Context, _ int, at ec2.NodeID) (answer, bool) {
			s.lead("node3")
			return answer{Index: now, NotLeader: at == "node2"}, true
		}, nil, "[node2 node3]", now, nil, "[]"},
		{"the leader does not know", fixed(answer{Index: now, Unknown: "lost"}), &ec2.Audit{}, "[node2]", 0, ErrOutcomeUnknown, "[]"},
		{"the answer is lost", func(context.Context, int, ec2.NodeID) (answer, bool) { return answer{}, false }, nil, "[node2]", 0, ErrOutcomeUnknown, "[]"},
	} {
		refused = nil
		asked.set(tt.answer)
		s.lead("node2")
		_, index, err := s.Apply(t.Context(), state.Command{Request: &state.Sweep{}, Audit: tt.audit})
		if e, ok := errors.AsType[*ec2.Error](err); ok && tt.is == code && e.Code == code.Code {
			err = code
		}
		calls := s.noted()
		if calls != tt.calls || index != tt.index || (err == nil) != (tt.is == nil) || !errors.Is(err, tt.is) || fmt.Sprint(refused) != tt.noted {
			t.Errorf("%s: calls of %s, index %d, error %v, refusals %v; want %s, %d, %v, %s", tt.what, calls, index, err, refused, tt.calls, tt.index, tt.is, tt.noted)
		}
	}
	s.cfg.Refused = nil // so no function is called
	asked.set(fixed(answer{Error: code}))
	if _, _, err := s.Apply(t.Context(), state.Command{Request: &state.Sweep{}, Audit: &ec2.Audit{}}); !isCode(err, code.Code) {
		t.Errorf("refused, without a function to call: %v, want %v", err, code)
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	asked.set(fixed(answer{Index: 1000}))
	if _, index, err := s.Apply(short, state.Command{Request: &state.Sweep{}}); index != 0 || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "entry 1000 is committed but not yet applied") {
		t.Errorf("the entry does not come: index %d, error %v; want a time-out that says so", index, err)
	}
	s.noted()
	large := &state.RunInstances{Account: albert, Region: region, UserData: make([]byte, maxCommand)}
	if _, _, err := s.Apply(t.Context(), state.Command{Request: large}); !isCode(err, "RequestEntityTooLarge") || len(s.calls) > 0 {
		t.Errorf("a command that is too large: error %v, calls of %v; want RequestEntityTooLarge and no call", err, s.calls)
	}
	if _, _, err := s.ApplyHere(t.Context(), state.Command{Request: &state.Sweep{}}); err != ErrNotLeader {
		t.Errorf("ApplyHere at a node that does not lead: %v, want ErrNotLeader", err)
	}
	for what, a := range map[string]answer{"apply": s.answerApply(t.Context(), "node2", nil), "read": s.answerRead(t.Context(), "node2", nil)} {
		if !a.NotLeader {
			t.Errorf("%s at a node that does not lead: %+v, want NotLeader", what, a)
		}
	}
}

// startLeader returns a node that Raft has elected and that has not taken over yet.
func startLeader(t *testing.T) *circle {
	t.Helper()
	s := newCircle(t, 1, nil)
	testwait.For(t, "node1 is elected", func() bool { return s.raft.State() == raft.Leader })
	return s
}

// A leader that took over in another term, or has not yet, answers no read and proposes no command.
func TestOnlyALeaderThatHasTakenOverAnswers(t *testing.T) {
	s := startLeader(t)
	sweep := state.Command{Request: &state.Sweep{}}
	if _, _, err := s.ApplyHere(t.Context(), sweep); err != ErrNotLeader || s.leads() {
		t.Errorf("ApplyHere before the takeover: %v, leads: %v; want ErrNotLeader", err, s.leads())
	}
	if err := s.takeOver(ended(t)); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "barrier") || s.leadingTerm() != 0 {
		t.Errorf("a takeover that was ended: %v, term %d; want context.Canceled at the barrier, and term 0", err, s.leadingTerm())
	}
	if err := s.takeOver(t.Context()); err != nil || !s.leads() || s.leadingTerm() != s.raft.CurrentTerm() {
		t.Fatalf("takeover: %v, leads: %v in term %d; want term %d", err, s.leads(), s.leadingTerm(), s.raft.CurrentTerm())
	}
	ready(t, s.Cluster)
	term := s.leadingTerm()
	for with, want := range map[uint64]error{term: nil, 0: ErrNotLeader, term + 1: ErrNotLeader, term - 1: ErrNotLeader} {
		if err := s.stillLeads(t.Context(), with); err != want {
			t.Errorf("stillLeads(%d) in term %d: %v, want %v", with, term, err, want)
		}
		s.setLeading(with)
		if a := s.answerRead(t.Context(), "node2", nil); a.NotLeader != (want != nil) || want == nil && a.Index != s.View().Index() {
			t.Errorf("a read in term %d of a leader of term %d: %+v, want refused: %v", term, with, a, want != nil)
		}
		last := s.raft.LastIndex()
		_, index, err := s.propose(t.Context(), state.Command{Request: &state.FenceNode{Node: "nobody"}, Audit: &ec2.Audit{Action: "FenceNode"}})
		if now := s.raft.LastIndex(); now != last {
			t.Errorf("a refused command became an entry: the log grew from %d to %d", last, now)
		}
		if _, refused := errors.AsType[*ec2.Error](err); want == nil && (!refused || index != s.View().Index()) || want != nil && (err != want || index != 0) {
			t.Errorf("a refused command in term %d of a leader of term %d: index %d, error %v; want %v", term, with, index, err, want)
		}
	}
	s.setLeading(term)
	if err := s.stillLeads(ended(t), term); !errors.Is(err, context.Canceled) {
		t.Errorf("stillLeads for a caller that has ended: %v, want context.Canceled", err)
	}
	_, index, err := s.ApplyHere(t.Context(), sweep)
	if err != nil || index != s.View().Index() {
		t.Fatalf("ApplyHere: index %d, error %v; want index %d", index, err, s.View().Index())
	}
	var entry raft.Log
	if err := s.store.GetLog(index, &entry); err != nil {
		t.Fatal(err)
	}
	if cmd, err := state.DecodeCommand(entry.Data); err != nil || cmd.From != "node1" || time.Since(cmd.Time) > time.Minute {
		t.Errorf("the entry is %+v, error %v; want it from node1, with the time", cmd, err)
	}
	if _, _, err := s.ApplyHere(ended(t), sweep); !errors.Is(err, context.Canceled) {
		t.Errorf("ApplyHere for a caller that has ended: %v, want context.Canceled", err)
	}
	nobody, err := encode(state.Command{Request: &state.FenceNode{Node: "nobody"}, Audit: &ec2.Audit{Action: "FenceNode"}})
	if err != nil {
		t.Fatal(err)
	}
	if a := s.answerApply(t.Context(), "node1", nobody); a.Error == nil || a.Index < index {
		t.Errorf("a command that the State refuses: %+v, want its error, at index %d or later", a, index)
	}
	if a := s.answerApply(t.Context(), "node1", []byte("{")); a.Refused == "" {
		t.Errorf("a command that cannot be decoded: %+v, want a refusal", a)
	}
	s.end()
	if _, _, err := s.ApplyHere(t.Context(), sweep); err != ErrNotLeader {
		t.Errorf("ApplyHere while Run ends: %v, want ErrNotLeader", err)
	}
}

// fenceNode2 is what node2 hands in so that it is fenced.
func fenceNode2(t *testing.T) []byte {
	t.Helper()
	data, err := encode(state.Command{Request: &state.FenceNode{Node: "node2"}, Audit: &ec2.Audit{Action: "FenceNode"}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A leader that has lost its followers answers no read: another node may lead. Of a command that
// it had proposed it says that the outcome is unknown.
func TestLeaderThatIsLostWhileItAsksDoesNotAnswer(t *testing.T) {
	t.Parallel() // it mostly waits
	s := newCircle(t, 2, nil)
	silent := s.elect()
	if err := s.takeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	term := s.leadingTerm()
	if err := s.stillLeads(t.Context(), term); err != nil {
		t.Errorf("a leader with a follower: %v", err)
	}
	silent.Store(true)
	lost := make(chan answer, 1)
	go func() { lost <- s.answerApply(t.Context(), "node2", fenceNode2(t)) }()
	if err := s.stillLeads(t.Context(), term); err != ErrNotLeader {
		t.Errorf("a leader whose followers are silent: %v, want ErrNotLeader", err)
	}
	if a := <-lost; !errors.Is(a.err(), ErrOutcomeUnknown) {
		t.Errorf("a command of a leader whose followers are silent: %+v, want an unknown outcome", a)
	}
	if a := s.answerApply(t.Context(), "node2", fenceNode2(t)); !a.NotLeader || a.err() != ErrNotLeader {
		t.Errorf("a command after that: %+v, want NotLeader", a)
	}
}

// A new leader whose log lacks what it enforced, or whose State has failed, does not take over.
func TestLeaderWithoutItsStateDoesNotTakeOver(t *testing.T) {
	s := startLeader(t)
	at := s.View().Index()
	for _, tt := range []struct {
		decided uint64
		join    bool
		lost    bool
	}{{at, false, false}, {at + 1, false, true}, {at + 1, true, true}} {
		s.cfg.Decided, s.cfg.Join = tt.decided, tt.join
		s.setLeading(0)
		if err := s.takeOver(t.Context()); errors.Is(err, ErrLogLost) != tt.lost || (s.leadingTerm() == 0) != tt.lost {
			t.Errorf("takeover at index %d, enforced %d, join: %v: error %v, term %d; want ErrLogLost: %v", at, tt.decided, tt.join, err, s.leadingTerm(), tt.lost)
		}
	}
	s.cfg.Decided, s.cfg.Bootstrap = 0, bootstrap()
	if err := s.takeOver(t.Context()); err != nil || s.View().Index() != at {
		t.Errorf("a takeover with a State: error %v, index %d; want it not bootstrapped again, at index %d", err, s.View().Index(), at)
	}
	s.fsm.mu.Lock()
	_ = s.fsm.failLocked(errors.New("cannot decode"))
	s.fsm.mu.Unlock()
	if _, _, err := s.propose(t.Context(), state.Command{Request: &state.Sweep{}}); err == nil || !strings.Contains(err.Error(), "cannot decode") {
		t.Errorf("a command at a State that has failed: %v, want its error", err)
	}
	s.setLeading(0)
	if err := s.takeOver(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot decode") || s.leadingTerm() != 0 {
		t.Errorf("a takeover with a State that has failed: %v, term %d; want its error", err, s.leadingTerm())
	}
}

// A new cluster without a bootstrap begins with an empty State; a lost log is not taken for one.
func TestEmptyBootstrapChangesNothing(t *testing.T) {
	c, _ := open(t, Config{Dir: t.TempDir(), Bootstrap: []state.Command{}})
	ready(t, c)
	if index := c.View().Index(); index != 0 {
		t.Errorf("a cluster without a bootstrap has a State of index %d, want 0", index)
	}
	for _, tt := range []struct {
		decided uint64
		join    bool
		lost    bool
	}{{0, false, false}, {0, true, false}, {1, false, true}, {1, true, false}} {
		e := &Cluster{fsm: newFSM(), cfg: Config{Decided: tt.decided, Join: tt.join}}
		if err := e.checkDecided(); errors.Is(err, ErrLogLost) != tt.lost {
			t.Errorf("an empty State, enforced %d, join: %v: %v; want ErrLogLost: %v", tt.decided, tt.join, err, tt.lost)
		}
	}
	lost, stop := open(t, Config{Dir: t.TempDir(), Decided: 1000})
	<-lost.stopped
	if err := stop(); !errors.Is(err, ErrLogLost) {
		t.Errorf("Run of a node that enforced entry 1000: %v, want ErrLogLost", err)
	}
}

// A command has an exact limit, and one that cannot be encoded is not proposed.
func TestCommandsHaveALimit(t *testing.T) {
	create := func(n int) state.Command {
		return state.Command{Request: &state.CreateSecurityGroup{Account: albert, Region: region, Name: "g", Description: strings.Repeat("x", n)}}
	}
	empty, err := encode(create(0))
	if err != nil {
		t.Fatal(err)
	}
	fits := maxCommand - len(empty) - len(`"Description":"",`) // an empty description may be left out
	for ; ; fits++ {
		data, err := encode(create(fits))
		if err != nil {
			t.Fatalf("a command of %d bytes was refused: %v", maxCommand, err)
		}
		if len(data) == maxCommand {
			break
		}
	}
	if data, err := encode(create(fits + 1)); data != nil || !isCode(err, "RequestEntityTooLarge") {
		t.Errorf("a command of %d bytes: %v, want RequestEntityTooLarge", maxCommand+1, err)
	}
	s := newCircle(t, 2, nil)
	s.cfg.Now = func() time.Time { return time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) } // no JSON has such a year
	if _, _, err := s.propose(t.Context(), create(1)); err == nil || errors.Is(err, ErrNotLeader) {
		t.Errorf("a command that cannot be encoded: %v, want the encoder's error", err)
	}
	s.cfg.Now = time.Now
	if _, index, err := s.propose(t.Context(), state.Command{Request: &state.FenceNode{Node: "node1"}}); !errors.Is(err, ErrNotLeader) || !strings.Contains(err.Error(), "hand over") || index != 0 {
		t.Errorf("a node that does not lead expels itself: index %d, error %v; want that it could not hand over", index, err)
	}
}

// The role, the leader and the text of a node say what it is at the moment.
func TestRoleIsThatOfTheMoment(t *testing.T) {
	new, err := New(Config{Node: "node1", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, c *Cluster, role string, leader ec2.NodeID, text string) {
		t.Helper()
		now, known := c.Leader()
		if got := c.Role(); got != role || now != leader || known != (leader != "") || c.String() != text {
			t.Errorf("%s: role %q, leader %q, known: %v, text %q; want %q, %q, %q", what, got, now, known, c, role, leader, text)
		}
	}
	check("new", new, "", "", "not running, index 0")
	if new.leads() {
		t.Error("a node that does not run leads")
	}
	if err := new.withLeader(ended(t), nil); err != context.Canceled {
		t.Errorf("a call to a node that does not run: %v, want context.Canceled", err)
	}
	s := newCircle(t, 2, nil)
	check("among others", s.Cluster, "follower", "", "follower, term 1, index 2, leader unknown, voters [node1 node2]")
	s.lead("node2")
	check("led", s.Cluster, "follower", "node2", "follower, term 2, index 2, leader node2, voters [node1 node2]")
	s.candidate()
	testwait.For(t, "node1 is a candidate in its own term", func() bool { return s.raft.State() == raft.Candidate && s.raft.CurrentTerm() == 3 })
	check("a candidate", s.Cluster, "candidate", "", "candidate, term 3, index 2, leader unknown, voters [node1 node2]")
	if err := s.raft.Shutdown().Error(); err != nil {
		t.Fatal(err)
	}
	check("Raft has ended", s.Cluster, "", "", "not running, index 2")
	close(s.stopped)
	check("Run has ended", s.Cluster, "", "", "not running, index 2")
	if err := s.withLeader(t.Context(), nil); err != ErrStopped {
		t.Errorf("a call after Run has ended: %v, want ErrStopped", err)
	}
}

// A call that waits for a leader ends with its caller and with Run.
func TestWaitForALeaderEnds(t *testing.T) {
	s := newCircle(t, 0, nil)
	check := func(what string, err error, text string, is ...error) {
		t.Helper()
		for _, want := range is {
			if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want %v %s", what, err, want, text)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	check("the caller has ended", s.withLeader(ctx, nil), "", ErrNoLeader, context.Canceled)
	check("nobody has told it who votes", s.whyNoLeader(t.Context()), "no leader has contacted this node since it joined", ErrNoLeader)
	time.AfterFunc(50*time.Millisecond, func() { close(s.stopped) })
	check("Run has ended", s.withLeader(t.Context(), nil), "", ErrStopped)
	one, _ := open(t, Config{Dir: t.TempDir()})
	ready(t, one)
	check("a cluster of one that has lost itself", one.withLeader(t.Context(), func(ec2.NodeID) error { return ErrNotLeader }), "", ErrNoLeader, ErrNotLeader)
}

// failedFuture is a future of Raft with an error.
type failedFuture struct{ err error }

func (f failedFuture) Error() error { return f.err }

func TestErrorsOfRaftSayWhetherTheCommandWasProposed(t *testing.T) {
	c := &Cluster{fsm: newFSM(), stopped: make(chan struct{}), raftEnded: make(chan struct{})}
	other := errors.New("other")
	for err, want := range map[error]error{
		nil: nil, raft.ErrNotLeader: ErrNotLeader, raft.ErrLeadershipTransferInProgress: ErrNotLeader,
		raft.ErrLeadershipLost: ErrOutcomeUnknown, raft.ErrRaftShutdown: ErrStopped, other: other,
	} {
		if got := c.wait(t.Context(), failedFuture{err}); got != want {
			t.Errorf("%v becomes %v, want %v", err, got, want)
		}
	}
	never := make(openFuture)
	defer close(never)
	if err := c.wait(ended(t), never); err != context.Canceled {
		t.Errorf("wait for a caller that has ended: %v, want context.Canceled", err)
	}
	if err := c.waitIndex(ended(t), 1); err != context.Canceled {
		t.Errorf("wait for an index, for a caller that has ended: %v, want context.Canceled", err)
	}
	if err := c.waitIndex(ended(t), 0); err != nil {
		t.Errorf("wait for an index that is there: %v", err)
	}
	stopped := make(chan error)
	go func() { stopped <- c.waitIndex(t.Context(), 1) }()
	time.Sleep(10 * time.Millisecond) // it waits
	close(c.stopped)
	if err := <-stopped; err != ErrStopped {
		t.Errorf("wait for an index while Run ends: %v, want ErrStopped", err)
	}
	done := make(chan struct{})
	close(done)
	if err := c.waitChan(t.Context(), done); err != ErrStopped {
		t.Errorf("wait after Run has ended: %v, want ErrStopped", err)
	}
	close(c.raftEnded)
	if err := c.wait(t.Context(), never); err != ErrStopped {
		t.Errorf("wait after Raft has ended: %v, want ErrStopped", err)
	}
}
