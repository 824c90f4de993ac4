package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/logtail"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

// A circle is one Cluster, of node1, among neighbours that it reaches over loopback. Its Raft hears only
// the test, which decides who leads, and Run does not run. So a test has, in milliseconds and for as long
// as it needs, the states that a whole cluster has only for a moment.
type circle struct {
	*Cluster
	t          *testing.T
	log        *logtail.Tail
	neighbours map[ec2.NodeID]*neighbour
	end        func() // begins the end of Run, as if it ran
	raftAt     *raft.InmemTransport

	mu       sync.Mutex
	raftTerm uint64
	calls    []ec2.NodeID // those whose neighbours noted a call
}

// note notes that a neighbour was called, and returns how many calls were noted.
func (s *circle) note(node ec2.NodeID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, node)
	return len(s.calls)
}

// noted returns the noted calls, such as "[node2 node3]", and forgets them.
func (s *circle) noted() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := fmt.Sprint(s.calls)
	s.calls = nil
	return text
}

// A neighbour is the Peer of another node. Its test says which methods it answers.
type neighbour struct {
	id    *peer.Identity
	peer  *peer.Peer
	stop  func()
	node1 string // its address

	caughtUp atomic.Bool // its answer to methodApplied

	mu     sync.Mutex
	refuse bool // it admits no node
	judged int  // how often it refused or admitted a connection
}

func (n *neighbour) Address(node string) (string, bool) { return n.node1, node == "node1" }

func (n *neighbour) Check(string, []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.judged++
	if n.refuse {
		return errors.New("refused")
	}
	return nil
}

// refuses sets whether the neighbour refuses all nodes. It also closes the connections and sets the count to 0.
func (n *neighbour) refuses(refuse bool) {
	n.mu.Lock()
	n.refuse, n.judged = refuse, 0
	n.mu.Unlock()
	n.peer.Drop("node1")
}

func (n *neighbour) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.judged
}

var anyPort = netip.MustParseAddrPort("127.0.0.1:0")

// newCircle makes a circle whose voters are node1 to the node of this number, and starts the neighbours. With
// 0 voters, no leader has told node1 yet who votes. add adds the methods of a neighbour; it may be nil.
func newCircle(t *testing.T, voters int, add func(ec2.NodeID, *peer.Peer)) *circle {
	t.Helper()
	dir := t.TempDir()
	id, err := peer.Init(filepath.Join(dir, "node1"), "node1", netip.MustParseAddrPort("127.0.0.1:7400"))
	if err != nil {
		t.Fatal(err)
	}
	tail, log := logtail.New(slog.LevelInfo)
	own := &testNode{}
	p, err := peer.New(peer.Config{Identity: id, Listen: anyPort, Nodes: lateDirectory{own}, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Node: "node1", Dir: filepath.Join(dir, "raft"), Peer: p, PeerAddress: p.Addr().String(), Identity: id, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	own.Cluster = c
	s := &circle{Cluster: c, t: t, log: tail, neighbours: make(map[ec2.NodeID]*neighbour), raftTerm: 1}
	s.end = sync.OnceFunc(func() { close(c.ending) })
	if c.store, err = openStore(filepath.Join(dir, "raft", "raft.db")); err != nil {
		t.Fatal(err)
	}
	s.put(&state.PutNode{Node: ec2.Node{ID: "node1", Zone: "us-east-1a", Address: p.Addr().String(), PublicKey: id.PublicKey()}})
	p.HandleJoin(func(_ context.Context, r peer.JoinRequest) (peer.JoinAnswer, error) {
		return peer.JoinAnswer{Role: "nonvoter", Members: []peer.Member{
			{Node: "node1", Address: c.cfg.PeerAddress, PublicKey: id.PublicKey(), Role: "voter"},
			{Node: "older", Address: "192.0.2.8:7400", PublicKey: []byte("older")},
			{Node: "other", Address: "192.0.2.9:7400", PublicKey: []byte("other"), Role: "nonvoter"},
			{Node: r.Node, PublicKey: r.PublicKey, Role: "voter"},
		}}, nil
	})
	runPeer(t, p)
	servers := []raft.Server{{ID: "node1", Address: "node1"}}[:min(1, voters)]
	for i := 2; i <= voters; i++ {
		servers = append(servers, raft.Server{ID: raft.ServerID(name(i)), Address: raft.ServerAddress(name(i))})
		s.addNeighbour(name(i), filepath.Join(dir, string(name(i))), add)
	}
	s.startRaft(servers)
	return s
}

func (s *circle) addNeighbour(name ec2.NodeID, dir string, add func(ec2.NodeID, *peer.Peer)) {
	t := s.t
	t.Helper()
	token, err := peer.NewToken(s.cfg.Identity.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	n := &neighbour{node1: s.cfg.PeerAddress}
	n.id, err = peer.Join(t.Context(), peer.JoinConfig{
		Dir: dir, Node: string(name), Zone: "us-east-1a", Address: netip.MustParseAddrPort("127.0.0.1:7400"),
		Contacts: []string{s.cfg.PeerAddress}, Token: token.String(), Patience: testwait.Patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	if n.peer, err = peer.New(peer.Config{Identity: n.id, Listen: anyPort, Nodes: n, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	n.peer.Handle(methodApplied, func(context.Context, string, []byte) ([]byte, error) {
		return json.Marshal(answer{OK: n.caughtUp.Load()})
	})
	if add != nil {
		add(name, n.peer)
	}
	n.stop = runPeer(t, n.peer)
	s.neighbours[name] = n
	s.put(&state.PutNode{Node: ec2.Node{ID: name, Zone: "us-east-1a", Address: n.peer.Addr().String(), PublicKey: n.id.PublicKey()}})
}

// runPeer runs a Peer until the test ends or stop is called.
func runPeer(t *testing.T, p *peer.Peer) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// startRaft starts a Raft with these servers. It hears only the test. With other voters it never wants to
// lead; alone it leads at once.
func (s *circle) startRaft(servers []raft.Server) {
	t := s.t
	t.Helper()
	cfg := s.raftConfig(false)
	if cfg.HeartbeatTimeout, cfg.ElectionTimeout = time.Hour, time.Hour; len(servers) == 1 {
		cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	}
	snaps := raft.NewInmemSnapshotStore()
	_, s.raftAt = raft.NewInmemTransport("node1")
	var err error
	if len(servers) > 0 {
		err = raft.BootstrapCluster(cfg, s.store, s.store, snaps, s.raftAt, raft.Configuration{Servers: servers})
	}
	if err != nil {
		t.Fatal(err)
	}
	if s.raft, err = raft.NewRaft(cfg, s.fsm, s.store, s.store, snaps, s.raftAt); err != nil {
		t.Fatal(err)
	}
	close(s.started)
	t.Cleanup(func() {
		s.end()
		s.tasks.stop()
		if err := errors.Join(s.raft.Shutdown().Error(), s.store.Close()); err != nil {
			t.Error(err)
		}
	})
}

// put changes the State of node1.
func (s *circle) put(r state.Request) {
	s.t.Helper()
	data, err := state.EncodeCommand(state.Command{Time: time.Now(), Request: r})
	if err != nil {
		s.t.Fatal(err)
	}
	if a, ok := s.fsm.Apply(&raft.Log{Index: s.View().Index() + 1, Data: data}).(applied); !ok || a.err != nil {
		s.t.Fatalf("%T: %v", r, a.err)
	}
}

// lead makes node the leader in the eyes of node1; "" means that it has none.
func (s *circle) lead(node ec2.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raftTerm++
	_, from := raft.NewInmemTransport("test")
	from.Connect("node1", s.raftAt)
	header := func(node ec2.NodeID) raft.RPCHeader {
		return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(node), Addr: []byte(node)}
	}
	// A candidate ends the term of the leader before.
	err := from.RequestVote("node1", "node1", &raft.RequestVoteRequest{RPCHeader: header("node2"), Term: s.raftTerm, LeadershipTransfer: true}, &raft.RequestVoteResponse{})
	if node != "" {
		err = errors.Join(err, from.AppendEntries("node1", "node1", &raft.AppendEntriesRequest{RPCHeader: header(node), Term: s.raftTerm}, &raft.AppendEntriesResponse{}))
	}
	if now, _ := s.Leader(); err != nil || now != node {
		s.t.Errorf("the leader is %q, want %q; error %v", now, node, err)
	}
}

// elect makes node1 the leader of node1 and node2. Raft of node2, at the addresses node2 and moved, follows it until
// silent is true.
func (s *circle) elect() (silent *atomic.Bool) {
	s.t.Helper()
	silent = new(atomic.Bool)
	_, far := raft.NewInmemTransport("node2")
	s.raftAt.Connect("node2", far)
	s.raftAt.Connect("moved", far)
	go func() {
		for {
			select {
			case <-s.t.Context().Done():
				return
			case rpc := <-far.Consumer():
				switch r := rpc.Command.(type) {
				case *raft.RequestVoteRequest:
					rpc.Respond(&raft.RequestVoteResponse{RPCHeader: named("node2"), Term: r.Term, Granted: true}, nil)
				case *raft.AppendEntriesRequest:
					if !silent.Load() {
						last := r.PrevLogEntry + uint64(len(r.Entries))
						rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: named("node2"), Term: r.Term, Success: true, LastLog: last}, nil)
					}
				}
			}
		}
	}()
	s.candidate()
	testwait.For(s.t, "node1 leads", func() bool { return s.raft.State() == raft.Leader })
	return silent
}

// candidate makes node1 ask for votes at once.
func (s *circle) candidate() {
	s.t.Helper()
	_, from := raft.NewInmemTransport("test")
	from.Connect("node1", s.raftAt)
	if err := from.TimeoutNow("node1", "node1", &raft.TimeoutNowRequest{RPCHeader: named("node2")}, &raft.TimeoutNowResponse{}); err != nil {
		s.t.Fatal(err)
	}
}
