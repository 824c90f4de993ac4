package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

// member returns node's row, with change made.
func (s *circle) member(node ec2.NodeID, change func(*ec2.Node)) *state.PutNode {
	s.t.Helper()
	row, ok := s.View().Node(node)
	if !ok {
		s.t.Fatalf("%s is not in the node table", node)
	}
	now := *row
	change(&now)
	return &state.PutNode{Node: now}
}

// A voter is expelled only if more than half of the other voters, which are left to decide, are reached.
func TestExpulsionNeedsAMajorityOfTheOthers(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, tt := range []struct {
		voters  int
		node    ec2.NodeID
		down    []ec2.NodeID
		gone    []state.Request // expulsions that Raft has not followed yet
		refused bool
	}{
		{4, "node2", nil, nil, false},
		{4, "node2", nodeIDs("node3"), nil, false},
		{4, "node2", nodeIDs("node2", "node3"), nil, false},
		{4, "node2", nodeIDs("node3", "node4"), nil, true},
		{3, "node2", nil, nil, false},
		{3, "node2", nodeIDs("node3"), nil, true},
		{4, "node2", nodeIDs("node3"), []state.Request{&state.FenceNode{Node: "node4"}}, true},
		{5, "node2", nil, []state.Request{&state.FenceNode{Node: "node3"}, &state.RemoveNode{Node: "node4"}}, false},
		{5, "node2", nil, []state.Request{&state.FenceNode{Node: "node3"}, &state.FenceNode{Node: "node4"}}, false},
		{3, "node9", nodeIDs("node2", "node3"), nil, false},
		{1, "node1", nil, nil, false}, // the State refuses it
	} {
		var asked atomic.Value
		s := newCircle(t, tt.voters, func(_ ec2.NodeID, p *peer.Peer) {
			p.Handle(methodApply, func(_ context.Context, _ string, body []byte) ([]byte, error) {
				cmd, err := state.DecodeCommand(body)
				asked.Store(fmt.Sprintf("%T %+v", cmd.Request, cmd.Request))
				return []byte("{}"), err
			})
		})
		for _, n := range tt.down {
			s.neighbours[n].stop()
		}
		for _, r := range tt.gone {
			s.put(r)
		}
		if tt.voters == 1 {
			testwait.For(t, "node1 takes over", func() bool { return s.takeOver(t.Context()) == nil })
			if err := s.Fence(t.Context(), "node1", nil); err == nil || strings.Contains(err.Error(), "of 0 voters") {
				t.Errorf("fence the last voter: %v, want an error of the State", err)
			}
			continue
		}
		leader := ec2.NodeID(name(tt.voters)) // is up, or the call is refused before
		if tt.node == "node9" || slices.Contains(tt.down, leader) {
			leader = "node1"
		}
		s.lead(leader)
		for _, expel := range []struct {
			do   func(context.Context, ec2.NodeID, *ec2.Audit) error
			want string
		}{{s.Fence, "*state.FenceNode"}, {s.Remove, "*state.RemoveNode"}} {
			if leader == "node1" && !tt.refused {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				if err := expel.do(ctx, tt.node, nil); !errors.Is(err, ErrNoLeader) {
					t.Errorf("%+v: %v, want it to be handed to the leader", tt, err)
				}
				cancel()
				continue
			}
			asked.Store("")
			err := expel.do(t.Context(), tt.node, nil)
			got := asked.Load().(string)
			if tt.refused != isCode(err, "IncorrectState") || !tt.refused && (err != nil || !strings.HasPrefix(got, expel.want) || !strings.Contains(got, "Rotate:true")) || tt.refused && got != "" {
				t.Errorf("%+v: error %v, the leader got %q", tt, err, got)
			}
		}
	}
}

// A leader that would expel itself hands over first, so it does not propose that.
func TestLeaderDoesNotProposeItsOwnExpulsion(t *testing.T) {
	alone, s := startLeader(t), newCircle(t, 2, nil)
	for _, tt := range []struct {
		at   *circle
		r    state.Request
		over bool
	}{
		{alone, &state.FenceNode{Node: "node1"}, false}, {s, &state.FenceNode{Node: "node1"}, true}, {s, &state.RemoveNode{Node: "node1"}, true},
		{s, &state.FenceNode{Node: "node2"}, false}, {s, &state.RemoveNode{Node: "node2"}, false}, {s, &state.Sweep{}, false},
	} {
		// The Raft of s does not lead, so it refuses to hand over.
		if err := tt.at.handOverFirst(t.Context(), tt.r); (err != nil) != tt.over {
			t.Errorf("%T %+v: %v, want a hand-over: %v", tt.r, tt.r, err, tt.over)
		}
	}
}

func TestUnwiseNumberOfVotersIsLoggedOnce(t *testing.T) {
	for voters, want := range map[int]string{1: "", 2: "an even number", 3: "", 5: "", 6: "an even number", 7: "more than five"} {
		s := newCircle(t, voters, nil)
		begin := len(s.log.String())
		warned := s.warnVoters("")
		text := s.log.String()
		if want != "" && !strings.Contains(text, want) || want == "" && strings.Contains(text, "voters") {
			t.Errorf("%d voters: %s, want a warning %q", voters, text[min(begin, len(text)):], want)
		}
		if again := s.warnVoters(warned); again != warned || again != fmt.Sprint(votersOf(s.servers())) || strings.Count(s.log.String(), "voters") != strings.Count(text, "voters") {
			t.Errorf("%d voters: %q, then %q, and a second warning: %s", voters, warned, again, s.log)
		}
	}
}

func (s *circle) serverText() string {
	var all []string
	for _, s := range s.servers().Servers {
		all = append(all, fmt.Sprintf("%s %s %s", s.ID, s.Address, s.Suffrage))
	}
	return strings.Join(all, ", ")
}

// A voter loses its vote and gets it back, and keeps what it has when its address changes.
func TestVoteIsTakenAndGivenBack(t *testing.T) {
	s := newCircle(t, 2, nil)
	s.elect()
	if err := s.takeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.neighbours["node2"].caughtUp.Store(true)
	for _, tt := range []struct {
		change memberChange
		want   string
	}{
		{memberChange{stepDemote, "node2", ""}, "node2 node2 Nonvoter"},
		{memberChange{stepMove, "node2", "moved"}, "node2 moved Nonvoter"},
		{memberChange{stepMove, "node2", "node2"}, "node2 node2 Nonvoter"},
		{memberChange{stepPromote, "node2", "node2"}, "node2 node2 Voter"},
		{memberChange{stepMove, "node2", "moved"}, "node2 moved Voter"},
	} {
		if err := s.makeChange(t.Context(), tt.change); err != nil || s.serverText() != "node1 node1 Voter, "+tt.want {
			t.Errorf("%s: servers %s, error %v; want %s", tt.change, s.serverText(), err, tt.want)
		}
	}
}

// Each step changes one server of Raft. A node gets a vote when it has caught up, not before.
func TestEachStepChangesOneServer(t *testing.T) {
	s := startLeader(t)
	s.addNeighbour("node2", filepath.Join(t.TempDir(), "node2"), nil)
	const one = "node1 node1 Voter"
	for _, tt := range []struct {
		change memberChange
		want   string
		err    string
	}{
		{memberChange{stepAdd, "node2", "a:1"}, one + ", node2 a:1 Nonvoter", ""},
		{memberChange{stepMove, "node2", "b:1"}, one + ", node2 b:1 Nonvoter", ""},
		{memberChange{stepPromote, "node2", "b:1"}, one + ", node2 b:1 Nonvoter", "still catching up"},
		{memberChange{stepPromote, "node4", "b:1"}, one + ", node2 b:1 Nonvoter", "address is unknown"},
		{memberChange{stepAdd, "node3", "c:1"}, one + ", node2 b:1 Nonvoter, node3 c:1 Nonvoter", ""},
		{memberChange{stepRemove, "node2", ""}, one + ", node3 c:1 Nonvoter", ""},
		{memberChange{stepDemote, "node3", ""}, one + ", node3 c:1 Nonvoter", ""},
		{memberChange{stepHandOver, "node1", ""}, one + ", node3 c:1 Nonvoter", "cannot find peer"},
		{memberChange{stepMove, "node1", "d:1"}, "node1 d:1 Voter, node3 c:1 Nonvoter", ""},
	} {
		err := s.makeChange(t.Context(), tt.change)
		if got := s.serverText(); got != tt.want || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: error %v, servers %s; want error %q, servers %s", tt.change, err, got, tt.err, tt.want)
		}
	}
	if err := s.makeChange(ended(t), memberChange{stepAdd, "node5", "e:1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a step for a caller that has ended: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("an unknown step did not panic")
		}
	}()
	_ = s.makeChange(t.Context(), memberChange{"dance with", "node2", ""})
}

// A node asks the other voters of its State who the members are; without a State, those that admitted it.
func TestNodeAsksTheVotersThatItKnows(t *testing.T) {
	asked := newScript(t, methodMembers)
	s := asked.s
	if got := s.knownVoters(); !slices.Equal(got, nodeIDs("node2", "node3")) {
		t.Errorf("known voters %v, want node2 and node3", got)
	}
	empty, err := New(Config{Node: "node2", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	empty.cfg.Identity = s.neighbours["node2"].id
	if got := empty.knownVoters(); !slices.Equal(got, nodeIDs("node1", "older")) {
		t.Errorf("known voters of a node without a State %v, want node1 and older", got)
	}
	for node, want := range map[string]string{"node1": s.cfg.PeerAddress, "other": "192.0.2.9:7400", "nobody": ""} {
		if got, ok := empty.Directory().Address(node); got != want || ok != (want != "") {
			t.Errorf("the address of %s at a node without a State is %q, known: %v; want %q", node, got, ok, want)
		}
	}
	if d := &empty.directory; d.Check("other", []byte("other")) != nil || d.mayLead("other", []byte("other")) == nil || d.mayLead("older", []byte("older")) != nil || d.Check("nobody", nil) == nil {
		t.Error("a node without a State does not believe what the members that admitted it are, or believes more")
	}
	empty.directory.setCurrent(true) // it is the first of its cluster, which has no State yet
	if at, ok := empty.Directory().Address("other"); at != "192.0.2.9:7400" || !ok || empty.Directory().Check("other", []byte("other")) == nil {
		t.Errorf("a node that is current and has no State knows the address %q of a member that admitted it, %v; want the address alone", at, ok)
	}

	stranger := vouchedNode{Node: "stranger", PublicKey: []byte("s"), Address: "192.0.2.7:7400"}
	for _, tt := range []struct {
		what   string
		answer scripted
		admits bool
	}{
		{"refused", fixed(answer{Refused: "I have no leader", Members: []vouchedNode{stranger}}), false},
		{"no members", fixed(answer{}), false},
		{"lost", func(context.Context, int, ec2.NodeID) (answer, bool) { return answer{}, false }, false},
		{"one answers", func(ctx context.Context, _ int, at ec2.NodeID) (answer, bool) {
			if at == "node2" {
				return answer{Members: []vouchedNode{stranger}}, true
			}
			<-ctx.Done()
			return answer{}, true
		}, true},
	} {
		s.directory.setCurrent(true)
		s.directory.setCurrent(false)
		asked.set(tt.answer)
		s.askMembers(t.Context())
		if calls := s.noted(); !strings.Contains(calls, "node2") || !tt.admits && !strings.Contains(calls, "node3") {
			t.Errorf("%s: calls of %s, want node2, and node3 unless node2 has answered", tt.what, calls)
		}
		if err := s.Directory().Check("stranger", []byte("s")); (err == nil) != tt.admits {
			t.Errorf("%s: the node that was named is admitted: %v, want %v", tt.what, err == nil, tt.admits)
		}
	}
	if at, ok := s.Directory().Address("stranger"); at != stranger.Address || !ok {
		t.Errorf("the address of a node that was named is %q, known: %v", at, ok)
	}
	if at, ok := s.Directory().Address("nobody"); ok {
		t.Errorf("the address of nobody is %q", at)
	}
	s.put(s.member("node3", func(n *ec2.Node) { n.Role = ec2.NonVoter }))
	if got := s.knownVoters(); !slices.Equal(got, nodeIDs("node2")) {
		t.Errorf("known voters %v, want node2: node3 has lost its vote", got)
	}
}

// Only a node that leads or is current names the members, and which of them vote.
func TestMembersAreNamedByANodeThatKnowsThem(t *testing.T) {
	s := newCircle(t, 4, nil)
	s.put(s.member("node3", func(n *ec2.Node) { n.Role = ec2.NonVoter }))
	s.put(&state.FenceNode{Node: "node4"})
	for _, tt := range []struct {
		leads, current bool
	}{{false, false}, {true, false}, {false, true}, {true, true}} {
		s.directory.setCurrent(tt.current)
		s.setLeading(0)
		if tt.leads {
			s.setLeading(5)
		}
		a := s.answerMembers(t.Context(), "node2", nil)
		var got []string
		for _, m := range a.Members {
			got = append(got, fmt.Sprint(m.Node, m.Votes, m.Address != "", len(m.PublicKey) > 0))
		}
		want := []string{"node1true true true", "node2true true true", "node3false true true"}
		if known := tt.leads || tt.current; known != (a.Refused == "") || known && !slices.Equal(got, want) || !known && len(got) > 0 {
			t.Errorf("%+v: it names %v, refuses with %q; want %v", tt, got, a.Refused, want)
		}
	}
}

// A node becomes current by a read at each new leader, asks no more while that one leads, and is not current
// without a leader or if the cluster's log is older than what it enforced.
func TestNodeIsCurrentOnlyUnderALeaderThatItHasReadFrom(t *testing.T) {
	t.Parallel() // it mostly waits
	asked := newScript(t, methodRead, methodMembers)
	s := asked.s
	asked.set(func(context.Context, int, ec2.NodeID) (answer, bool) { return answer{Index: 1}, true })
	ctx, cancel := context.WithCancel(t.Context())
	defer s.tasks.stop()
	defer cancel()
	s.lead("node2")
	s.cfg.Decided = 1000
	s.tasks.start(func() { s.runCatchUp(ctx) })
	testwait.For(t, "the node says that the log is older", func() bool { return strings.Contains(s.log.String(), "the log of the cluster is older") })
	select {
	case <-s.Ready():
		t.Error("a node is ready under a leader that lacks what the node enforced")
	default:
	}
	if s.directory.isCurrent() {
		t.Error("a node is current under a leader that lacks what the node enforced")
	}
	cancel()
	s.tasks.wg.Wait()

	s.cfg.Decided = 0
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	s.tasks.start(func() { s.runCatchUp(ctx) })
	testwait.For(t, "the node is current", s.directory.isCurrent)
	ready(t, s.Cluster)
	s.noted()
	<-onBeat(currentEvery)
	time.Sleep(currentEvery / 4)
	if calls := s.noted(); calls != "[]" {
		t.Errorf("a node that is current under node2 asked %s again", calls)
	}
	s.lead("node3")
	testwait.For(t, "the node reads from the new leader", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return slices.Contains(s.calls, "node3") })
	s.lead("")
	testwait.For(t, "the node is not current", func() bool { return !s.directory.isCurrent() })
	s.noted()
	testwait.For(t, "the node asks who the members are", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.calls) > 0 })
	s.lead("node3") // it leads again
	testwait.For(t, "the node is current again", s.directory.isCurrent)
}

// A node's connections are closed when it is fenced or removed, gets another key or loses its vote, and not
// for another reason.
func TestOnlyNodesThatLoseSomethingAreDisconnected(t *testing.T) {
	s := newCircle(t, 7, nil)
	s.put(s.member("node5", func(n *ec2.Node) { n.Role = ec2.NonVoter }))
	s.put(s.member("node6", func(n *ec2.Node) { n.Role = ec2.NonVoter }))
	conns := make(map[ec2.NodeID]net.Conn)
	for id, n := range s.neighbours {
		conn, err := n.peer.Dial(t.Context(), "node1", peer.ProtocolRPC)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[id] = conn
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer s.tasks.stop()
	defer cancel()
	s.tasks.start(func() { s.runDisconnect(ctx) })
	open := func(id ec2.NodeID, patience time.Duration) bool {
		if err := conns[id].SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		_, err := conns[id].Read(make([]byte, 1))
		return errors.Is(err, os.ErrDeadlineExceeded)
	}
	time.Sleep(20 * time.Millisecond) // it has seen the members
	s.put(s.member("node5", func(n *ec2.Node) { n.Address = "192.0.2.5:7400" }))
	s.put(s.member("node6", func(n *ec2.Node) { n.Role = ec2.Voter }))
	s.put(s.member("node7", func(n *ec2.Node) { n.Zone = "us-east-1b" }))
	s.put(s.member("node3", func(n *ec2.Node) { n.PublicKey = []byte("another") }))
	s.put(s.member("node4", func(n *ec2.Node) { n.Role = ec2.NonVoter }))
	s.put(&state.FenceNode{Node: "node2"})
	for _, id := range nodeIDs("node2", "node3", "node4") {
		if open(id, testwait.Patience) {
			t.Errorf("the connection of %s is still open", id)
		}
	}
	for _, id := range nodeIDs("node5", "node6", "node7") {
		if !open(id, 10*time.Millisecond) {
			t.Errorf("the connection of %s was closed", id)
		}
	}
}

// Enforcement says of each member whether it enforces an index, and what it said last if it does not.
func TestEnforcementSaysWhatEachNodeAnswered(t *testing.T) {
	t.Parallel() // it mostly waits
	var asked, longest atomic.Int64
	answers := map[ec2.NodeID]answer{"node2": {Index: 100, OK: true}, "node3": {Index: 4}, "node4": {Index: 100, OK: true}, "node5": {Index: 100, OK: true}, "node6": {OK: true, Refused: "not you"}, "node7": {Index: 4}}
	var again atomic.Bool
	s := newCircle(t, 7, func(node ec2.NodeID, p *peer.Peer) {
		p.Handle(methodEnforced, func(_ context.Context, _ string, body []byte) ([]byte, error) {
			var q question
			err := json.Unmarshal(body, &q)
			asked.Store(int64(q.Index))
			longest.Store(max(longest.Load(), int64(q.Within)))
			a := answers[node]
			if node == "node7" && again.Swap(true) { // it says what it enforces once
				a.Refused = "not now"
			}
			data, err2 := json.Marshal(a)
			return data, errors.Join(err, err2)
		})
	})
	s.neighbours["node5"].stop()
	s.put(&state.FenceNode{Node: "node4"})
	s.cfg.Enforced = func() uint64 { return 90 }
	s.cfg.WaitEnforced = func(context.Context, uint64) bool { return false }
	enforce := func(index uint64, timeout time.Duration) Enforcement {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		e, err := s.Enforcement(ctx, index)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	got := enforce(90, 400*time.Millisecond)
	want := Enforcement{Index: 90, Enforced: nodeIDs("node1", "node2"), Pending: []Pending{{"node3", "enforces 4"}, {"node5", "does not answer"}, {"node6", "does not answer"}, {"node7", "does not answer"}}, Excluded: nodeIDs("node4")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if asked.Load() != 90 || longest.Load() == 0 || time.Duration(longest.Load()) > 300*time.Millisecond {
		t.Errorf("the nodes were asked for index %d, to answer within %v; want 90, and three quarters of 400ms", asked.Load(), time.Duration(longest.Load()))
	}
	if got := enforce(91, 100*time.Millisecond); len(got.Pending) == 0 || got.Pending[0] != (Pending{"node1", "enforces 90"}) {
		t.Errorf("this node enforces 90, and is listed in %+v", got)
	}
	if diff := cmp.Diff(map[ec2.NodeID]uint64{"node1": 90, "node2": 100, "node3": 4}, s.enforcedByMembers(t.Context())); diff != "" {
		t.Errorf("what each member enforces (-want +got):\n%s", diff)
	}
	// The last reason stays when the time is over.
	if why := s.enforcedAt(ended(t), "node3", 90); why != "does not answer" {
		t.Errorf("a node that was not asked: %q", why)
	}
	if why := s.enforcedAt(t.Context(), "node9", 90); why != fencedReason {
		t.Errorf("a node that is no member: %q", why)
	}
}
