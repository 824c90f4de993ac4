package cluster

//lint:file-ignore SA1019 Raft still uses the deprecated fields if a header has no name, so they are checked too.

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

// as returns a neighbour that calls Raft of node1.
func (s *circle) as(node ec2.NodeID) *raft.NetworkTransport {
	calls := raft.NewNetworkTransport(hostile{&testNode{name: node, peer: s.neighbours[node].peer}}, 1, rpcTimeout, io.Discard)
	s.t.Cleanup(func() { calls.Close() })
	return calls
}

// named is the header of a call of node.
func named(node ec2.NodeID) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(node), Addr: []byte(node)}
}

// Raft gets the calls that a voter makes in its own name, each answer goes to its caller, and a call that is
// refused changes nothing for the next one.
func TestRaftGetsOnlyTheCallsThatANodeMayMake(t *testing.T) {
	s := newCircle(t, 3, nil)
	trans := s.newTransport()
	defer trans.Close()
	var entries atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for {
			select {
			case rpc := <-trans.Consumer():
				entries.Add(1)
				rpc.Respond(&raft.AppendEntriesResponse{Term: 7, Success: true}, nil)
			case <-ctx.Done():
				return
			}
		}
	}()
	callers := map[ec2.NodeID]*raft.NetworkTransport{"node2": s.as("node2"), "node3": s.as("node3")}
	call := func(caller, in ec2.NodeID, entry bool) error {
		r := &raft.AppendEntriesRequest{RPCHeader: named(in), Leader: []byte(in), Term: 7}
		if entry {
			r.PrevLogEntry = 1
		}
		var a raft.AppendEntriesResponse
		err := callers[caller].AppendEntries("node1", "node1", r, &a)
		if err == nil && (a.Term != 7 || !a.Success) {
			t.Errorf("%s got the answer %+v", caller, a)
		}
		return err
	}
	if err := call("node2", "node2", false); err == nil || !strings.Contains(err.Error(), "starting") {
		t.Errorf("a heartbeat before Raft takes heartbeats: %v, want an error that says so", err)
	}
	var beats atomic.Int64
	trans.SetHeartbeatHandler(func(rpc raft.RPC) {
		beats.Add(1)
		rpc.Respond(&raft.AppendEntriesResponse{Term: 7, Success: true}, nil)
	})
	for _, tt := range []struct {
		caller, in ec2.NodeID
		refused    bool
	}{{"node2", "node2", false}, {"node2", "node3", true}, {"node2", "node2", false}, {"node3", "node2", true}, {"node3", "node3", false}} {
		for _, entry := range []bool{false, true} {
			got := entries.Load() + beats.Load()
			err := call(tt.caller, tt.in, entry)
			if arrived := entries.Load()+beats.Load() > got; (err != nil) != tt.refused || arrived == tt.refused {
				t.Errorf("%s calls in the name of %s, with an entry: %v: error %v, it arrived: %v; want it refused: %v", tt.caller, tt.in, entry, err, arrived, tt.refused)
			}
		}
	}
	if entries.Load() != 3 || beats.Load() != 3 || len(trans.inbound) != 2 {
		t.Errorf("%d entries and %d heartbeats arrived by %d callers, want 3, 3 and 2", entries.Load(), beats.Load(), len(trans.inbound))
	}
	want := []Refusal{{"node2", "*raft.AppendEntriesRequest", 2}, {"node3", "*raft.AppendEntriesRequest", 2}}
	if got := s.Refused(); !slices.Equal(got, want) {
		t.Errorf("the refused calls are %v, want %v", got, want)
	}
	s.put(s.member("node3", func(n *ec2.Node) { n.Role = ec2.NonVoter }))
	if err := call("node3", "node3", true); err == nil || !strings.Contains(err.Error(), "no voter") {
		t.Errorf("a call of a node that has lost its vote: %v", err)
	}
	if conn, err := s.neighbours["node3"].peer.Dial(t.Context(), "node1", peer.ProtocolRaft); !errors.Is(err, peer.ErrNotAdmitted) {
		t.Errorf("a connection for Raft of a node that has lost its vote: %v, error %v; want ErrNotAdmitted", conn, err)
	}
	if err := call("node2", "node2", true); err != nil {
		t.Errorf("a call of a voter: %v", err)
	}
}

// Close ends the connections with all callers, and no later one is taken.
func TestClosedTransportTakesNoConnection(t *testing.T) {
	s := newCircle(t, 3, nil)
	trans := s.newTransport()
	open := func(node ec2.NodeID) net.Conn {
		t.Helper()
		conn, err := s.neighbours[node].peer.Dial(t.Context(), "node1", peer.ProtocolRaft)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	counted := func() int {
		s.stream.open.Lock()
		defer s.stream.open.Unlock()
		return len(s.stream.open.conns)
	}
	conn, other := open("node2"), open("node3")
	testwait.For(t, "both are open", func() bool { return counted() == 2 })
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "the closed connection is forgotten", func() bool { return counted() == 1 })
	trans.mu.Lock()
	inbound := trans.inbound["node2"]
	trans.mu.Unlock()
	if err := trans.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(testwait.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection after Close: %v, want it closed", err)
	}
	if trans.inboundOf("node2") != nil || trans.inboundOf("node4") != nil {
		t.Error("a closed transport takes connections")
	}
	for what, accept := range map[string]func() (net.Conn, error){"inbound": inbound.Accept, "dialing": dialing{s.stream, trans.done}.Accept, "stream": s.stream.Accept} {
		if conn, err := accept(); conn != nil || !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept of the closed %s: connection %v, error %v; want net.ErrClosed", what, conn, err)
		}
	}
	if conn, node, err := s.stream.accept(); conn != nil || node != "" || err == nil {
		t.Errorf("a closed stream accepted %v of %q", conn, node)
	}
	_ = trans.Close() // does not panic
	if addr := s.stream.Addr(); addr.Network() != "tcp" || addr.String() != s.cfg.PeerAddress {
		t.Errorf("the address is %s %s, want tcp %s", addr.Network(), addr, s.cfg.PeerAddress)
	}
	if conn, err := s.stream.Dial("nobody", time.Second); conn != nil || err == nil {
		t.Errorf("dial nobody: connection %v, error %v", conn, err)
	}
}

// A connection that arrives while the stream closes is closed too.
func TestStreamThatClosesTakesNoConnection(t *testing.T) {
	s := newCircle(t, 2, nil)
	s.stream.open.Lock()
	s.stream.open.conns = nil
	s.stream.open.Unlock()
	conn, err := s.neighbours["node2"].peer.Dial(t.Context(), "node1", peer.ProtocolRaft)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := s.stream.Accept(); got != nil || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: connection %v, error %v; want net.ErrClosed", got, err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(testwait.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection: %v, want it closed", err)
	}
}

// After tasks have stopped, a new caller finds nobody who would take its calls.
func TestEndingNodeTakesNoCaller(t *testing.T) {
	s := newCircle(t, 2, nil)
	trans := s.newTransport()
	if trans.inboundOf("node2") == nil {
		t.Fatal("no inbound")
	}
	if err := trans.Close(); err != nil {
		t.Fatal(err)
	}
	s.tasks.stop()
	if s.tasks.start(func() { t.Error("it ran") }) {
		t.Error("a task started after the end")
	}
	later := &transport{c: s.Cluster, calls: make(chan raft.RPC), done: make(chan struct{}), inbound: make(map[ec2.NodeID]*inbound)}
	if later.inboundOf("node3") != nil || len(later.inbound) != 0 {
		t.Error("a node that ends takes the calls of another")
	}
}

// raftAnswers makes a circle of three whose neighbours answer each call of Raft with the AppendEntriesResponse
// in answer.
func raftAnswers(t *testing.T, answer *atomic.Value) *circle {
	t.Helper()
	respond := func(rpc raft.RPC) {
		a := answer.Load().(raft.AppendEntriesResponse)
		if _, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok {
			_, _ = io.Copy(io.Discard, rpc.Reader)
			rpc.Respond(&raft.InstallSnapshotResponse{Term: a.Term, Success: a.Success}, nil)
			return
		}
		rpc.Respond(&a, nil)
	}
	return newCircle(t, 3, func(node ec2.NodeID, p *peer.Peer) {
		far := raft.NewNetworkTransport(listening{p.Listener(peer.ProtocolRaft), hostile{&testNode{name: node, peer: p}}}, 1, rpcTimeout, io.Discard)
		far.SetHeartbeatHandler(respond)
		t.Cleanup(func() { far.Close() })
		go func() {
			for {
				select {
				case rpc := <-far.Consumer():
					respond(rpc)
				case <-t.Context().Done():
					return
				}
			}
		}()
	})
}

// The answer of a node that is no voter cannot make the leader step down: neither a later term nor a refused
// heartbeat reaches Raft. The answers of voters do.
func TestAnswersOfNonVotersKeepTheLeadersTerm(t *testing.T) {
	var answer atomic.Value
	s := raftAnswers(t, &answer)
	s.put(s.member("node3", func(n *ec2.Node) { n.Role = ec2.NonVoter }))
	near := &transport{NetworkTransport: s.newNetworkTransport(dialing{s.stream, t.Context().Done()}), c: s.Cluster}
	defer near.NetworkTransport.Close()
	heartbeat := raft.AppendEntriesRequest{RPCHeader: named("node1"), Term: 5}
	after, afterTerm, committed := heartbeat, heartbeat, heartbeat
	after.PrevLogEntry, afterTerm.PrevLogTerm, committed.LeaderCommitIndex = 1, 1, 1
	entry := heartbeat
	entry.Entries = []*raft.Log{{Index: 1, Term: 1}}
	wrong := uint64(0)
	for name, call := range map[string]raft.AppendEntriesRequest{"heartbeat": heartbeat, "after an entry": after, "after a term": afterTerm, "committed": committed, "entry": entry} {
		for _, a := range []raft.AppendEntriesResponse{{Term: 5, Success: true}, {Term: 5}, {Term: 6, Success: true}, {Term: 6}, {Term: 4, Success: true}} {
			answer.Store(a)
			for _, node := range []raft.ServerID{"node2", "node3"} {
				var got raft.AppendEntriesResponse
				err := near.AppendEntries(node, raft.ServerAddress(node), &call, &got)
				refused := node == "node3" && (a.Term > 5 || name == "heartbeat" && !a.Success)
				if refused {
					wrong++
				}
				if (err != nil) != refused || err == nil && (got.Term != a.Term || got.Success != a.Success) {
					t.Errorf("%s of term 5: %s answers %+v: Raft gets %+v, error %v; want an error: %v", name, node, a, got, err, refused)
				}
			}
		}
	}
	for term, refused := range map[uint64]bool{4: false, 5: false, 6: true} {
		answer.Store(raft.AppendEntriesResponse{Term: term})
		for _, node := range []raft.ServerID{"node2", "node3"} {
			var got raft.InstallSnapshotResponse
			err := near.InstallSnapshot(node, raft.ServerAddress(node), &raft.InstallSnapshotRequest{RPCHeader: named("node1"), Term: 5, Size: 1}, &got, strings.NewReader("x"))
			if refused && node == "node3" {
				wrong++
			}
			if (err != nil) != (refused && node == "node3") || err == nil && got.Term != term {
				t.Errorf("snapshot of term 5: %s answers term %d: Raft gets %+v, error %v", node, term, got, err)
			}
		}
	}
	if got, want := s.Refused(), []Refusal{{"node3", "answer of a term", wrong}}; !slices.Equal(got, want) {
		t.Errorf("the refused answers are %v, want %v", got, want)
	}
	for node, voter := range map[raft.ServerID]bool{"node2": true, "node3": false, "nobody": false} {
		pipeline, err := near.AppendEntriesPipeline(node, raft.ServerAddress(node))
		if (err == nil) != voter || (pipeline != nil) != voter || !voter && !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
			t.Errorf("pipeline to %s: %v, error %v; want one: %v", node, pipeline, err, voter)
		}
		if pipeline != nil {
			pipeline.Close()
		}
	}
	s.neighbours["node2"].stop()
	s.neighbours["node3"].stop()
	for _, node := range []raft.ServerID{"node2", "node3"} {
		err := near.AppendEntries(node, raft.ServerAddress(node), &heartbeat, &raft.AppendEntriesResponse{})
		err2 := near.InstallSnapshot(node, raft.ServerAddress(node), &raft.InstallSnapshotRequest{RPCHeader: named("node1"), Size: 1}, &raft.InstallSnapshotResponse{}, strings.NewReader("x"))
		if err == nil || err2 == nil {
			t.Errorf("calls of %s, which does not run: errors %v and %v", node, err, err2)
		}
	}
}

// A node that is no member in the State gets one answer alone: which index this node has applied.
func TestStrangerIsAnsweredOnlyWhatIsApplied(t *testing.T) {
	s := newCircle(t, 2, nil)
	n := s.neighbours["node2"]
	ask := func(method string) (answer, error) {
		data, err := n.peer.Call(t.Context(), "node1", method, []byte("{}"))
		if err != nil {
			return answer{}, err
		}
		return decodeAnswer(data)
	}
	for _, member := range []bool{true, false} {
		if !member { // a voter named it, and the State does not have it
			s.put(&state.RemoveNode{Node: "node2"})
			s.fsm.mu.Lock()
			s.fsm.state = state.NewState()
			s.fsm.mu.Unlock()
			s.directory.vouch([]vouchedNode{{Node: "node2", PublicKey: n.id.PublicKey()}})
		}
		for _, method := range []string{methodApply, methodRead, methodApplied, methodEnforced, methodMembers} {
			a, err := ask(method)
			if stranger := strings.Contains(a.Refused, "is no member in the state"); err != nil || stranger != (!member && method != methodApplied) {
				t.Errorf("member: %v: %s answers %+v, error %v", member, method, a, err)
			}
			if method == methodApplied && (a.Index != s.View().Index() || !a.OK) {
				t.Errorf("member: %v: index %d, want %d", member, a.Index, s.View().Index())
			}
		}
	}
	if _, err := n.peer.Call(t.Context(), "node1", methodApplied, []byte("{")); err != nil {
		t.Errorf("a question that cannot be decoded: %v, want a refusal in the answer", err)
	}
	if a := answerQuestion(t.Context(), []byte("{"), nil, nil); a.Refused == "" {
		t.Errorf("a question that cannot be decoded: %+v, want a refusal", a)
	}
	if a, err := (&Cluster{cfg: Config{Node: "node1"}}).call(t.Context(), "node2", methodApplied, question{}); err == nil {
		t.Errorf("a cluster of one called another node: %+v", a)
	}
}

// A question is answered at once if the index is reached or need not be waited for.
func TestQuestionsWaitOnlyIfTheyMust(t *testing.T) {
	for _, tt := range []struct {
		now, index uint64
		within     time.Duration
		reach      bool
		want       answer
		waits      bool
	}{
		{5, 4, time.Second, false, answer{Index: 5, OK: true}, false},
		{5, 5, time.Second, false, answer{Index: 5, OK: true}, false},
		{5, 6, 0, false, answer{Index: 5}, false},
		{5, 6, -time.Second, false, answer{Index: 5}, false},
		{5, 6, time.Second, true, answer{Index: 6, OK: true}, true},
		{5, 6, time.Millisecond, false, answer{Index: 5}, true},
	} {
		at, waited := tt.now, false
		got := waitFor(t.Context(), question{Index: tt.index, Within: tt.within}, func() uint64 { return at }, func(ctx context.Context, index uint64) bool {
			waited = true
			if tt.reach {
				at = index
				return true
			}
			<-ctx.Done()
			return false
		})
		if got.Index != tt.want.Index || got.OK != tt.want.OK || waited != tt.waits {
			t.Errorf("%+v: answer %+v, waited: %v", tt, got, waited)
		}
	}
}

// A State that has failed applies nothing more, makes no snapshot, restores none, and wakes who waits for it.
func TestFailedStateStaysAsItIs(t *testing.T) {
	f := newFSM()
	apply := func(index uint64, r state.Request) any {
		data, err := encode(state.Command{Time: time.Now(), Request: r})
		if err != nil {
			t.Fatal(err)
		}
		return f.Apply(&raft.Log{Index: index, Data: data})
	}
	if a, ok := apply(1, &state.Bootstrap{Seed: "a seed of the cluster's tests"}).(applied); !ok || a.err != nil || f.view().Index() != 1 {
		t.Fatalf("the first entry: %+v", a)
	}
	if a, ok := apply(1, &state.FenceNode{Node: "nobody"}).(applied); !ok || a.err != nil {
		t.Errorf("an entry that was applied already: %+v, want nothing", a)
	}
	if a, ok := apply(2, &state.FenceNode{Node: "nobody"}).(applied); !ok || a.err == nil {
		t.Errorf("an entry that the State refuses: %+v, want its error", a)
	}
	good, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	changed := f.changed()
	if err, ok := f.Apply(&raft.Log{Index: 3, Data: []byte("{")}).(error); !ok || !strings.Contains(err.Error(), "entry 3") {
		t.Errorf("an entry that cannot be decoded: %v, want an error that names entry 3", err)
	}
	select {
	case <-changed:
	default:
		t.Error("who waits for the State does not learn that it has failed")
	}
	select {
	case <-f.failed:
	default:
		t.Error("Run does not learn that the State has failed")
	}
	if err, ok := apply(4, &state.Sweep{}).(error); !ok || err != f.err() || f.view().Index() != 2 {
		t.Errorf("an entry after that: %v, index %d; want the first error, and index 2", err, f.view().Index())
	}
	if s, err := f.Snapshot(); s != nil || err != f.err() {
		t.Errorf("a snapshot after that: %v, error %v", s, err)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(good.(snapshot).view.WriteSnapshot(w)) }()
	if err := f.Restore(r); err == nil || err != f.err() {
		t.Errorf("a restore after that: %v, want the first error", err)
	}
	damaged := newFSM()
	if err := damaged.Restore(io.NopCloser(strings.NewReader("damaged"))); err == nil || damaged.err() != err {
		t.Errorf("a damaged snapshot: %v, want the State failed with it", err)
	}
	whole := newFSM()
	r, w = io.Pipe()
	go func() { w.CloseWithError(good.(snapshot).view.WriteSnapshot(w)) }()
	changed = whole.changed()
	if err := whole.Restore(r); err != nil || whole.view().Index() != 2 {
		t.Errorf("a restore: %v, index %d; want index 2", err, whole.view().Index())
	}
	select {
	case <-changed:
	default:
		t.Error("a restored State wakes nobody")
	}
}
