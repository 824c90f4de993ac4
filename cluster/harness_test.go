package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/logtail"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

// testCluster runs several nodes in the process of the test, connected by TLS over loopback. When
// a test fails, it prints each node's role, term, index, leader, voters and last log lines.
type testCluster struct {
	t   *testing.T
	cfg func(*Config) // changes each node's Config; may be nil
	all map[ec2.NodeID]*testNode

	net   [2]byte // x and y of the nodes' addresses: 127.x.y.1, 127.x.y.2 and so on
	added int     // how many nodes were ever added

	printed sync.Once
}

// testNode is a node of a testCluster. A test can stop it and start it again with its log.
type testNode struct {
	*Cluster
	nodes   *testCluster
	name    ec2.NodeID
	dir     string
	address netip.AddrPort
	peer    *peer.Peer
	cancel  context.CancelFunc
	stop    func() error // cancels Run and waits; nil while the node is stopped
	log     *logtail.Tail
}

// lateDirectory is the Directory of a Peer. It asks the Cluster, which is made after the Peer.
type lateDirectory struct{ n *testNode }

func (l lateDirectory) Check(node string, key []byte) error { return l.n.Directory().Check(node, key) }
func (l lateDirectory) Address(node string) (string, bool)  { return l.n.Directory().Address(node) }
func (n *testNode) identityDir() string                     { return filepath.Join(n.dir, "peer") }
func name(i int) ec2.NodeID                                 { return ec2.NodeID(fmt.Sprint("node", i)) }

// startCluster starts count nodes and waits until all are voters. It makes the calling test run in
// parallel with others, because such tests mostly wait.
func startCluster(t *testing.T, count int, cfg func(*Config)) *testCluster {
	t.Helper()
	t.Parallel()
	s := newCluster(t, cfg)
	first := s.add("node1")
	if _, err := peer.Init(first.identityDir(), "node1", first.address); err != nil {
		t.Fatal(err)
	}
	first.start(func(c *Config, id *peer.Identity) {
		c.Join = false
		if c.Bootstrap == nil {
			c.Bootstrap = bootstrap()
		}
		for _, cmd := range c.Bootstrap {
			if r, ok := cmd.Request.(*state.PutNode); ok {
				r.Node.Address, r.Node.PublicKey = first.address.String(), id.PublicKey()
			}
		}
	})
	ready(t, first.Cluster)
	for i := 2; i <= count; i++ {
		s.join(name(i), ec2.Voter)
	}
	s.waitVoters(count)
	return s
}

// print logs the state and the last log lines of each node, in less than 100 lines.
func (s *testCluster) print() {
	lines := min(logtail.Lines, 90/len(s.all)-2)
	for _, name := range slices.Sorted(maps.Keys(s.all)) {
		n := s.all[name]
		if n.Cluster == nil {
			s.t.Logf("%s at %s: never started", name, n.address)
			continue
		}
		s.t.Logf("%s at %s: %s, running %t\nlast log lines\n%s", name, n.address, n.Cluster, n.stop != nil, n.log.Last(lines))
	}
}

func newCluster(t *testing.T, cfg func(*Config)) *testCluster {
	return &testCluster{t: t, cfg: cfg, all: make(map[ec2.NodeID]*testNode), net: [2]byte{byte(1 + rand.IntN(250)), byte(rand.IntN(256))}}
}

// add makes a node without starting it. The node has its own loopback address, so that no other
// process takes its port while it is stopped.
func (s *testCluster) add(name ec2.NodeID) *testNode {
	s.t.Helper()
	s.added++
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", s.net[0], s.net[1], s.added))
	if err != nil {
		s.t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr).AddrPort()
	if err := l.Close(); err != nil {
		s.t.Fatal(err)
	}
	n := &testNode{nodes: s, name: name, dir: s.t.TempDir(), address: address}
	s.all[name] = n
	return n
}

// join makes a node, lets it join with a new token and starts it.
func (s *testCluster) join(name ec2.NodeID, role ec2.NodeRole) *testNode {
	s.t.Helper()
	n := s.add(name)
	by := s.leader()
	id, err := peer.Load(by.identityDir())
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := peer.NewToken(id.RootPEM())
	if err != nil {
		s.t.Fatal(err)
	}
	s.apply(by, &state.CreateJoinToken{ID: token.ID, SecretHash: token.SecretHash(), Role: role, Expires: time.Now().Add(time.Hour)})
	_, err = peer.Join(s.t.Context(), peer.JoinConfig{
		Dir: n.identityDir(), Node: string(name), Zone: "us-east-1a", Address: n.address,
		Contacts: []string{by.address.String()}, Token: token.String(), Patience: testwait.Patience,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	n.start(nil)
	ready(s.t, n.Cluster)
	return n
}

// start runs a node, for the first time or again. edit may change its Config; it may be nil.
func (n *testNode) start(edit func(*Config, *peer.Identity)) {
	t := n.nodes.t
	t.Helper()
	id, err := peer.Load(n.identityDir())
	if err != nil {
		t.Fatal(err)
	}
	tail, log := logtail.New(slog.LevelInfo)
	n.log = tail
	p, err := peer.New(peer.Config{Identity: id, Listen: n.address, Nodes: lateDirectory{n}, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Node: n.name, Dir: filepath.Join(n.dir, "raft"), Join: true, Logger: log,
		Peer: p, PeerAddress: n.address.String(), Identity: id,
	}
	if n.nodes.cfg != nil {
		n.nodes.cfg(&cfg)
	}
	if edit != nil {
		edit(&cfg, id)
	}
	if cfg.Join {
		cfg.Bootstrap = nil
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Cluster, n.peer = c, p
	p.HandleJoin(n.admit)
	p.Handle(methodUser, n.answerUser)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	peerDone, done := make(chan error, 1), make(chan error, 1)
	go func() { peerDone <- p.Run(ctx) }()
	go func() { done <- c.Run(ctx) }()
	n.cancel = cancel
	n.stop = sync.OnceValue(func() error { cancel(); return errors.Join(<-done, <-peerDone) })
	stop := n.stop
	t.Cleanup(func() {
		if t.Failed() {
			n.nodes.printed.Do(n.nodes.print)
		}
		if err := stop(); err != nil && !errors.Is(err, ErrLogLost) {
			t.Logf("%s stopped with error: %v", n.name, err)
		}
	})
}

func (n *testNode) admit(ctx context.Context, r peer.JoinRequest) (peer.JoinAnswer, error) {
	var token *ec2.JoinToken
	for k := range n.View().JoinTokens() {
		if k.ID == r.Token {
			token = k
		}
	}
	if token == nil {
		return peer.JoinAnswer{}, errors.New("unknown token")
	}
	_, _, err := n.Apply(ctx, state.Command{Request: &state.AdmitNode{Token: r.Token, SecretHash: r.SecretHash, Node: ec2.Node{
		ID: ec2.NodeID(r.Node), Zone: r.Zone, Role: token.Role, Address: r.Address.String(), PublicKey: r.PublicKey,
	}}})
	if errors.Is(err, ErrNoLeader) || errors.Is(err, ErrOutcomeUnknown) {
		err = fmt.Errorf("%w: %w", peer.ErrUnavailable, err) // makes the joining node ask again
	}
	a := peer.JoinAnswer{Role: string(token.Role)}
	for m := range n.View().Nodes() {
		a.Members = append(a.Members, peer.Member{Node: string(m.ID), Address: m.Address, PublicKey: m.PublicKey, Role: string(m.Role)})
	}
	return a, err
}

// methodUser plays the API: the leader proposes the command that a user sent to another node.
const methodUser = "test.user"

func (n *testNode) answerUser(ctx context.Context, _ string, body []byte) ([]byte, error) {
	cmd, err := state.DecodeCommand(body)
	if err != nil {
		return nil, err
	}
	var a answer
	a.Result, a.Index, err = n.ApplyHere(ctx, cmd)
	refused, ok := errors.AsType[*ec2.Error](err)
	switch {
	case ok:
		a.Error = refused
	case errors.Is(err, ErrNotLeader):
		return nil, &peer.RemoteError{Code: CodeNotLeader, Text: err.Error()}
	case err != nil:
		a.Unknown = err.Error()
	}
	return json.Marshal(a)
}

// asUser carries out a request as the API does for a user at the node of c.
func asUser(ctx context.Context, c *Cluster, r state.Request) (state.Result, uint64, error) {
	body, err := state.EncodeCommand(state.Command{Request: r})
	if err != nil {
		return state.Result{}, 0, err
	}
	var a answer
	data, err := c.AtLeader(ctx, methodUser, body, false, func() (err error) {
		a.Result, a.Index, err = c.ApplyHere(ctx, state.Command{Request: r})
		return err
	})
	if data != nil {
		if a, err = decodeAnswer(data); err == nil {
			err = a.err()
		}
	}
	if late := c.waitIndex(ctx, a.Index); late != nil {
		err = late
	}
	return a.Result, a.Index, err
}

// kill stops a node. A call that the node has not answered yet gets no answer.
func (n *testNode) kill() {
	n.nodes.t.Helper()
	if err := n.stop(); err != nil {
		n.nodes.t.Errorf("%s stopped with error: %v", n.name, err)
	}
	n.stop = nil
}

func (s *testCluster) running() (running []*testNode) {
	for _, n := range s.all {
		if n.stop != nil {
			running = append(running, n)
		}
	}
	return running
}

func (s *testCluster) leader() (leader *testNode) {
	s.t.Helper()
	testwait.For(s.t, "a node leads", func() bool {
		for _, n := range s.running() {
			if n.leads() {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// follower returns a running node that is not the leader.
func (s *testCluster) follower() *testNode {
	s.t.Helper()
	leader := s.leader()
	for _, n := range s.running() {
		if n != leader {
			return n
		}
	}
	s.t.Fatal("no node but the leader runs")
	return nil
}

func (s *testCluster) waitVoters(count int) {
	s.t.Helper()
	testwait.For(s.t, fmt.Sprintf("every node has %d voters", count), func() bool {
		for _, n := range s.running() {
			if len(votersOf(n.servers())) != count {
				return false
			}
		}
		return true
	})
}

// waitAll waits until every running node has applied an index.
func (s *testCluster) waitAll(index uint64) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), testwait.Patience)
	defer cancel()
	for _, n := range s.running() {
		if err := n.waitIndex(ctx, index); err != nil {
			s.t.Fatalf("%s has applied index %d, want %d: %v", n.name, n.View().Index(), index, err)
		}
	}
}

// retry repeats ask while it returns ErrNoLeader or ErrOutcomeUnknown, as a client must, because on
// a busy machine the leader may be lost at any moment. It returns the last error, and whether an
// earlier call may have taken effect.
func (s *testCluster) retry(ask func(context.Context) error) (err error, again bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), testwait.Patience)
	defer cancel()
	for {
		err = ask(ctx)
		if ctx.Err() != nil || !errors.Is(err, ErrNoLeader) && !errors.Is(err, ErrOutcomeUnknown) {
			return err, again
		}
		s.t.Logf("trying again: %v", err)
		again = again || errors.Is(err, ErrOutcomeUnknown)
		s.leader()
	}
}

func (s *testCluster) apply(at *testNode, r state.Request) (result state.Result, index uint64) {
	s.t.Helper()
	err, again := s.retry(func(ctx context.Context) (err error) {
		result, index, err = asUser(ctx, at.Cluster, r)
		return err
	})
	if err != nil && !(again && isCode(err, "InvalidGroup.Duplicate")) {
		s.t.Fatalf("%T at %s: %v", r, at.name, err)
	}
	return result, index
}

// fence fences the node called name by a call to the node by.
func (s *testCluster) fence(by *testNode, name ec2.NodeID) {
	s.t.Helper()
	err, again := s.retry(func(ctx context.Context) error { return by.Fence(ctx, name, nil) })
	if n, _ := by.View().Node(name); err != nil && !(again && n.State == ec2.Fenced) {
		s.t.Fatalf("fence %s: %v", name, err)
	}
}

func (s *testCluster) remove(name ec2.NodeID) {
	s.t.Helper()
	err, again := s.retry(func(ctx context.Context) error { return s.leader().Remove(ctx, name, nil) })
	if _, there := s.leader().View().Node(name); err != nil && !(again && !there) {
		s.t.Fatalf("remove %s: %v", name, err)
	}
}

// read returns a View of the node at with every acknowledged change.
func (s *testCluster) read(at *testNode) (view *state.View) {
	s.t.Helper()
	err, _ := s.retry(func(ctx context.Context) (err error) { view, err = at.ReadView(ctx); return err })
	if err != nil {
		s.t.Fatalf("read at %s: %v", at.name, err)
	}
	return view
}

// write creates a group by a call to the node at and returns the index of the log entry.
func (s *testCluster) write(at *testNode, group string) uint64 {
	s.t.Helper()
	_, index := s.apply(at, &state.CreateSecurityGroup{Account: albert, Region: region, Name: group, Description: "test"})
	return index
}
