package cluster

//lint:file-ignore SA1019 Raft still uses the deprecated fields if a header has no name, so they are checked too.

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

// A hostile calls Raft on other nodes with the identity of a real node.
type hostile struct{ *testNode }

func (h hostile) Accept() (net.Conn, error) { select {} }
func (h hostile) Close() error              { return nil }
func (h hostile) Addr() net.Addr            { return nodeAddr(h.name) }
func (h hostile) Dial(node raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return h.peer.Dial(ctx, string(node), peer.ProtocolRaft)
}

// calls returns the calls of Raft that say name and a term of 100, each with the node that it is made to.
func (h hostile) calls(t *testing.T, name string, at ec2.NodeID) map[string]error {
	t.Helper()
	trans := raft.NewNetworkTransport(h, 1, rpcTimeout, nil)
	defer trans.Close()
	id, address := raft.ServerID(at), raft.ServerAddress(at)
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(name), Addr: []byte(name)}
	forged, err := state.EncodeCommand(state.Command{
		Time: time.Now(), Request: &state.CreateSecurityGroup{Account: albert, Region: region, Name: "forged", Description: "x"},
		Audit: &ec2.Audit{Account: albert, Action: "CreateSecurityGroup"},
	})
	if err != nil {
		t.Fatal(err)
	}
	entry := &raft.Log{Index: 1000, Term: 100, Type: raft.LogCommand, Data: forged}
	return map[string]error{
		"AppendEntries": trans.AppendEntries(id, address, &raft.AppendEntriesRequest{
			RPCHeader: header, Term: 100, Leader: []byte(name), PrevLogEntry: 1, PrevLogTerm: 1, Entries: []*raft.Log{entry}, LeaderCommitIndex: 1000,
		}, &raft.AppendEntriesResponse{}),
		"heartbeat": trans.AppendEntries(id, address, &raft.AppendEntriesRequest{RPCHeader: header, Term: 100, Leader: []byte(name)}, &raft.AppendEntriesResponse{}),
		"RequestVote": trans.RequestVote(id, address, &raft.RequestVoteRequest{
			RPCHeader: header, Term: 100, Candidate: []byte(name), LastLogIndex: 1000, LastLogTerm: 100, LeadershipTransfer: true,
		}, &raft.RequestVoteResponse{}),
		"RequestPreVote": trans.RequestPreVote(id, address, &raft.RequestPreVoteRequest{RPCHeader: header, Term: 100, LastLogIndex: 1000, LastLogTerm: 100}, &raft.RequestPreVoteResponse{}),
		"InstallSnapshot": trans.InstallSnapshot(id, address, &raft.InstallSnapshotRequest{
			RPCHeader: header, Term: 100, Leader: []byte(name), LastLogIndex: 1000, LastLogTerm: 100, Size: 1,
		}, &raft.InstallSnapshotResponse{}, strings.NewReader("x")),
		"TimeoutNow": trans.TimeoutNow(id, address, &raft.TimeoutNowRequest{RPCHeader: header}, &raft.TimeoutNowResponse{}),
	}
}

// refusesAll fails the test unless a node refuses every call, and keeps its term, log and State.
func (h hostile) refusesAll(t *testing.T, name string, at *testNode) {
	t.Helper()
	term, last := at.raft.CurrentTerm(), at.raft.LastIndex()
	for call, err := range h.calls(t, name, at.name) {
		if err == nil {
			t.Errorf("%s of %s in the name of %s was accepted by %s", call, h.name, name, at.name)
		}
	}
	// The cluster may write entries of its own meanwhile.
	if now := at.raft.LastIndex(); at.raft.CurrentTerm() != term || now < last || now > last+100 || hasGroup(at.View(), "forged") {
		t.Errorf("%s is in term %d with a log up to %d, forged group: %t; had term %d and a log up to %d", at.name,
			at.raft.CurrentTerm(), now, hasGroup(at.View(), "forged"), term, last)
	}
}

func TestOnlyVotersCallRaft(t *testing.T) {
	s := startCluster(t, 1, nil)
	h := hostile{s.join("node2", ec2.NonVoter)}
	leader := s.leader()
	index := s.write(leader, "before")
	s.waitAll(index)
	for _, name := range []string{"node2", "node1"} {
		h.refusesAll(t, name, leader)
	}
	if _, err := h.peer.Dial(t.Context(), "node1", peer.ProtocolRaft); !errors.Is(err, peer.ErrNotAdmitted) {
		t.Errorf("dial Raft of node1: error %v, want ErrNotAdmitted, before any call is read", err)
	}
	s.waitAll(s.write(leader, "after")) // node2 still follows
}

// TestVoterSpeaksInItsOwnName: a voter that an attacker controls can call an election, but cannot act as
// the leader that others follow.
func TestVoterSpeaksInItsOwnName(t *testing.T) {
	s := startCluster(t, 3, nil)
	leader := s.leader()
	var followers []*testNode
	for _, n := range s.running() {
		if n != leader {
			followers = append(followers, n)
		}
	}
	s.waitAll(s.write(leader, "before"))
	hostile{followers[0]}.refusesAll(t, string(leader.name), followers[1])
	if refused := followers[1].Refused(); len(refused) < 5 || refused[0].Node != followers[0].name {
		t.Errorf("%s counted %v, want the calls of %s", followers[1].name, refused, followers[0].name)
	}
	own, other := []byte("node1"), []byte("node2")
	header := raft.RPCHeader{ID: own, Addr: own}
	for _, call := range []any{
		&raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ID: own, Addr: other}}, &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ID: other, Addr: own}},
		&raft.AppendEntriesRequest{RPCHeader: header, Leader: other}, &raft.RequestVoteRequest{RPCHeader: header, Candidate: other},
		&raft.InstallSnapshotRequest{RPCHeader: header, Leader: other}, &raft.AppendEntriesRequest{}, "no call",
	} {
		if checkNames("node1", call) == nil {
			t.Errorf("node1 may call %T %+v", call, call)
		}
	}
	if err := checkNames("node1", &raft.AppendEntriesRequest{RPCHeader: header, Leader: own}); err != nil {
		t.Errorf("node1 may not call in its own name: %v", err)
	}
}

func TestNodeThatLosesItsVoteIsDisconnectedFromRaft(t *testing.T) {
	s := startCluster(t, 3, nil)
	demoted, leader := s.follower(), s.leader()
	open, err := demoted.peer.Dial(t.Context(), string(leader.name), peer.ProtocolRaft)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	row, _ := leader.View().Node(demoted.name)
	now := *row
	now.Role = ec2.NonVoter
	_, index := s.apply(leader, &state.PutNode{Node: now})
	if err := open.SetReadDeadline(time.Now().Add(testwait.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection of a node that lost its vote is still open")
	}
	testwait.For(t, "two voters", func() bool { return len(votersOf(s.leader().servers())) == 2 })
	hostile{demoted}.refusesAll(t, string(demoted.name), s.leader())
	s.waitAll(index)
	s.waitAll(s.write(s.leader(), "after")) // the demoted node still follows
}

// TestNonVoterCannotEndTheLeadersTerm: a node that is no voter answers each call of the leader with a later
// term and refuses it. The leader keeps its term, and can verify that it leads.
func TestNonVoterCannotEndTheLeadersTerm(t *testing.T) {
	s := startCluster(t, 1, nil)
	n := s.join("node2", ec2.NonVoter)
	leader := s.leader()
	testwait.For(t, "the node is one of Raft's servers", func() bool { return len(leader.servers().Servers) == 2 })
	n.kill()
	id, err := peer.Load(n.identityDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := peer.New(peer.Config{Identity: id, Listen: n.address, Nodes: lateDirectory{n}})
	if err != nil {
		t.Fatal(err)
	}
	trans := raft.NewNetworkTransport(listening{p.Listener(peer.ProtocolRaft), hostile{n}}, 1, rpcTimeout, nil)
	defer trans.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	answer := func(rpc raft.RPC) {
		switch rpc.Command.(type) {
		case *raft.AppendEntriesRequest:
			rpc.Respond(&raft.AppendEntriesResponse{Term: 100, LastLog: 1}, nil)
		default:
			rpc.Respond(&raft.InstallSnapshotResponse{Term: 100}, nil)
		}
	}
	trans.SetHeartbeatHandler(func(rpc raft.RPC) { // refuses in the leader's term
		rpc.Respond(&raft.AppendEntriesResponse{Term: rpc.Command.(*raft.AppendEntriesRequest).Term}, nil)
	})
	go func() {
		for {
			select {
			case rpc := <-trans.Consumer():
				answer(rpc)
			case <-ctx.Done():
				return
			}
		}
	}()
	term := leader.raft.CurrentTerm()
	testwait.For(t, "the leader has counted ten answers", func() bool {
		s.write(leader, "g"+time.Now().Format("150405.000000000"))
		all := leader.Refused()
		return slices.ContainsFunc(all, func(r Refusal) bool { return r.Node == "node2" && r.Count >= 10 })
	})
	if now := leader.raft.CurrentTerm(); now != term || !leader.leads() {
		t.Errorf("the leader is in term %d and leads %t, want term %d", now, leader.leads(), term)
	}
	s.read(leader)
	heartbeat := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ID: []byte("node1"), Addr: []byte("node1")}, Term: term}
	guarded := &transport{NetworkTransport: leader.newNetworkTransport(dialing{leader.stream, make(chan struct{})}), c: leader.Cluster}
	if err := guarded.AppendEntries("node2", "node2", heartbeat, &raft.AppendEntriesResponse{}); err == nil {
		t.Error("the leader takes a refused heartbeat for an answer")
	}
}

// listening is the StreamLayer of a hostile that answers.
type listening struct {
	net.Listener
	h hostile
}

func (l listening) Dial(node raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return l.h.Dial(node, timeout)
}

// TestReturningNodeAcceptsUnknownLeader: while a node was down, a new node joined and became the leader. The
// returning node admits it, because a voter that it knows names the members.
func TestReturningNodeAcceptsUnknownLeader(t *testing.T) {
	s := startCluster(t, 3, nil)
	away := s.follower()
	away.kill()
	for _, n := range []ec2.NodeID{"node4", "node5"} {
		s.join(n, ec2.Voter)
	}
	testwait.For(t, "five voters", func() bool { return len(votersOf(s.leader().servers())) == 5 })
	testwait.For(t, "node4 leads", func() bool {
		if leader := s.leader(); leader.name != "node4" {
			_ = leader.raft.LeadershipTransferToServer("node4", "node4").Error()
		}
		return s.leader().name == "node4"
	})
	away.start(nil)
	ready(t, away.Cluster)
	s.write(away, "back")
	for _, n := range s.running() {
		if n != away {
			n.peer.Drop(string(away.name)) // so that away must be admitted again
		}
	}
	s.read(away)
	s.write(away, "still there")
	if away.Directory().Check("node9", []byte("a stranger's key")) == nil {
		t.Error("a node whose State is current admits an unknown node")
	}
}

// TestUnknownNameOpensNothing: no voter that a returning node knows is left. The nodes that replaced them have
// certificates of the cluster, but nobody whom the node knows vouches for them.
func TestUnknownNameOpensNothing(t *testing.T) {
	s := startCluster(t, 1, nil)
	away := s.join("node2", ec2.NonVoter)
	away.kill()
	s.join("node3", ec2.Voter)
	s.waitVoters(2)
	s.fence(s.all["node3"], "node1")
	_ = s.all["node1"].stop()
	s.all["node1"].stop = nil
	testwait.For(t, "node3 leads", func() bool { return s.leader().name == "node3" })
	away.start(nil)
	testwait.For(t, "the returning node has asked", func() bool { return len(away.log.Last(100)) > 0 })
	for _, protocol := range []string{peer.ProtocolRaft, peer.ProtocolRPC} {
		if c, err := s.all["node3"].peer.DialAddress(t.Context(), "node2", away.address.String(), protocol); !errors.Is(err, peer.ErrNotAdmitted) {
			t.Errorf("%s of an unknown node: connection %v, error %v; want ErrNotAdmitted", protocol, c, err)
		}
	}
	if away.directory.isCurrent() {
		t.Error("the returning node became current, so the test checks nothing")
	}
}

// TestNodeThatLosesItsVoteIsRefusedOnAnOpenConnection: the check at each call does not depend on the
// connection being closed.
func TestNodeThatLosesItsVoteIsRefusedOnAnOpenConnection(t *testing.T) {
	s := startCluster(t, 1, nil)
	s.join("node2", ec2.NonVoter)
	leader := s.leader()
	answer := make(chan raft.RPCResponse, 1)
	header := raft.RPCHeader{ID: []byte("node2"), Addr: []byte("node2")}
	guarded := &transport{c: leader.Cluster}
	if guarded.admits("node2", raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: header}, RespChan: answer}) {
		t.Fatal("a call of a node that is no voter was admitted")
	}
	if got := <-answer; got.Error == nil {
		t.Error("a refused call got no error")
	}
}

func TestNonVoterIsNotPipelined(t *testing.T) {
	s := startCluster(t, 1, nil)
	s.join("node2", ec2.NonVoter)
	guarded := &transport{c: s.leader().Cluster}
	if _, err := guarded.AppendEntriesPipeline("node2", "node2"); !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		t.Errorf("pipeline to a node that is no voter: error %v, want ErrPipelineReplicationNotSupported", err)
	}
}

func TestOnlyACurrentNodeNamesMembers(t *testing.T) {
	s := startCluster(t, 1, nil)
	n := s.join("node2", ec2.NonVoter)
	testwait.For(t, "node2 is current", n.directory.isCurrent)
	if a := n.answerMembers(t.Context(), "node1", nil); len(a.Members) != 2 || a.Members[0].Votes == a.Members[1].Votes {
		t.Errorf("a current node names %+v, want one voter of two members", a.Members)
	}
	s.all["node1"].kill()
	testwait.For(t, "node2 is not current", func() bool { return !n.directory.isCurrent() })
	if a := n.answerMembers(t.Context(), "node1", nil); a.Refused == "" || len(a.Members) > 0 {
		t.Errorf("a node without a leader names %+v, want a refusal", a.Members)
	}
}
