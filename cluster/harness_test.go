package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

// nodes is a cluster of several, in this process, over TLS on loopback.
type nodes struct {
	t   *testing.T
	cfg func(*Config) // what a test wants otherwise
	all map[ec2.NodeID]*node

	net   [2]byte // its nodes are 127.x.y.1, 127.x.y.2 and so on
	added int     // how many there were, of whatever name
}

// node is one of them. It can be stopped and started again on its directory.
type node struct {
	*Cluster
	of      *nodes
	name    ec2.NodeID
	dir     string
	address netip.AddrPort
	peer    *peer.Peer
	cancel  context.CancelFunc
	stop    func() error // cancels and waits; nil while it is down
}

// late is a Directory that is made after the Peer that asks it.
type late struct{ n *node }

func (l late) Check(node string, key []byte) error { return l.n.Directory().Check(node, key) }
func (l late) Address(node string) (string, bool)  { return l.n.Directory().Address(node) }
func (n *node) identityDir() string                { return filepath.Join(n.dir, "peer") }
func name(i int) ec2.NodeID                        { return ec2.NodeID(fmt.Sprint("node", i)) }

// begin makes a cluster of count nodes and waits until the leader has given all a vote.
// Its tests wait more than they work, so they run beside each other.
func begin(t *testing.T, count int, cfg func(*Config)) *nodes {
	t.Helper()
	t.Parallel()
	s := newNodes(t, cfg)
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

func newNodes(t *testing.T, cfg func(*Config)) *nodes {
	return &nodes{t: t, cfg: cfg, all: make(map[ec2.NodeID]*node), net: [2]byte{byte(1 + rand.IntN(250)), byte(rand.IntN(256))}}
}

// add makes a node that has not been started. Its address is nobody else's, so that the port
// is still free when it is, and whenever it comes back.
func (s *nodes) add(name ec2.NodeID) *node {
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
	n := &node{of: s, name: name, dir: s.t.TempDir(), address: address}
	s.all[name] = n
	return n
}

// join admits a node by a token and starts it.
func (s *nodes) join(name ec2.NodeID, role ec2.NodeRole) *node {
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

// start runs a node, anew after a stop.
func (n *node) start(edit func(*Config, *peer.Identity)) {
	t := n.of.t
	t.Helper()
	id, err := peer.Load(n.identityDir())
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})).With("at", n.name)
	}
	p, err := peer.New(peer.Config{Identity: id, Listen: n.address, Nodes: late{n}, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Node: n.name, Dir: filepath.Join(n.dir, "raft"), Join: true, Logger: log,
		Peer: p, PeerAddress: n.address.String(), Identity: id,
	}
	if n.of.cfg != nil {
		n.of.cfg(&cfg)
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
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	peerDone, done := make(chan error, 1), make(chan error, 1)
	go func() { peerDone <- p.Run(ctx) }()
	go func() { done <- c.Run(ctx) }()
	n.cancel = cancel
	n.stop = sync.OnceValue(func() error { cancel(); return errors.Join(<-done, <-peerDone) })
	stop := n.stop
	t.Cleanup(func() {
		if err := stop(); err != nil && !errors.Is(err, ErrLogLost) {
			t.Logf("%s stopped: %v", n.name, err)
		}
	})
}

func (n *node) admit(ctx context.Context, r peer.JoinRequest) (peer.JoinAnswer, error) {
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
		err = fmt.Errorf("%w: %w", peer.ErrUnavailable, err) // it asks again
	}
	a := peer.JoinAnswer{Role: string(token.Role)}
	for m := range n.View().Nodes() {
		a.Members = append(a.Members, peer.Member{Node: string(m.ID), Address: m.Address, PublicKey: m.PublicKey})
	}
	return a, err
}

// kill stops a node. What it was doing for others ends without an answer.
func (n *node) kill() {
	n.of.t.Helper()
	if err := n.stop(); err != nil {
		n.of.t.Errorf("%s stopped: %v", n.name, err)
	}
	n.stop = nil
}

func (s *nodes) up() (up []*node) {
	for _, n := range s.all {
		if n.stop != nil {
			up = append(up, n)
		}
	}
	return up
}

// await polls: a cluster has no event for "everybody thinks so".
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(testwait.Patience); ; {
		if ok() {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %s still not: %s", testwait.Patience, what)
		}
	}
}

func (s *nodes) leader() (leader *node) {
	s.t.Helper()
	await(s.t, "there is a leader", func() bool {
		for _, n := range s.up() {
			if n.leads() {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// follower is a node that does not lead.
func (s *nodes) follower() *node {
	s.t.Helper()
	leader := s.leader()
	for _, n := range s.up() {
		if n != leader {
			return n
		}
	}
	s.t.Fatal("there is no follower")
	return nil
}

func (s *nodes) waitVoters(count int) {
	s.t.Helper()
	await(s.t, fmt.Sprint("every node counts ", count, " voters"), func() bool {
		for _, n := range s.up() {
			if len(votersOf(n.servers())) != count {
				return false
			}
		}
		return true
	})
}

// waitAll waits until every node that runs holds an index.
func (s *nodes) waitAll(index uint64) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), testwait.Patience)
	defer cancel()
	for _, n := range s.up() {
		if err := n.waitIndex(ctx, index); err != nil {
			s.t.Fatalf("%s is at %d, not %d: %v", n.name, n.View().Index(), index, err)
		}
	}
}

// persist asks until the cluster decides, as its clients have to: on a busy machine a leader
// may be lost at any moment, and what it was asked for may have been done or not.
func (s *nodes) persist(ask func(context.Context) error) (err error, again bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), testwait.Patience)
	defer cancel()
	for {
		err = ask(ctx)
		if ctx.Err() != nil || !errors.Is(err, ErrNoLeader) && !errors.Is(err, ErrOutcomeUnknown) {
			return err, again
		}
		s.t.Logf("asked again: %v", err)
		again = again || errors.Is(err, ErrOutcomeUnknown)
		s.leader()
	}
}

func (s *nodes) apply(at *node, r state.Request) (result state.Result, index uint64) {
	s.t.Helper()
	err, again := s.persist(func(ctx context.Context) (err error) {
		result, index, err = at.Apply(ctx, state.Command{Request: r})
		return err
	})
	if err != nil && !(again && isCode(err, "InvalidGroup.Duplicate")) {
		s.t.Fatalf("%T at %s: %v", r, at.name, err)
	}
	return result, index
}

// fence fences a node, by whichever leads.
func (s *nodes) fence(by *node, name ec2.NodeID) {
	s.t.Helper()
	err, again := s.persist(func(ctx context.Context) error { return by.Fence(ctx, name, nil) })
	if n, _ := by.View().Node(name); err != nil && !(again && n.State == ec2.Fenced) {
		s.t.Fatalf("fence %s: %v", name, err)
	}
}

func (s *nodes) remove(name ec2.NodeID) {
	s.t.Helper()
	err, again := s.persist(func(ctx context.Context) error { return s.leader().Remove(ctx, name, nil) })
	if _, there := s.leader().View().Node(name); err != nil && !(again && !there) {
		s.t.Fatalf("remove %s: %v", name, err)
	}
}

// read is a View that has all that was acknowledged.
func (s *nodes) read(at *node) (view *state.View) {
	s.t.Helper()
	err, _ := s.persist(func(ctx context.Context) (err error) { view, err = at.ReadView(ctx); return err })
	if err != nil {
		s.t.Fatalf("read at %s: %v", at.name, err)
	}
	return view
}

// write makes a group and must succeed.
func (s *nodes) write(at *node, group string) uint64 {
	s.t.Helper()
	_, index := s.apply(at, &state.CreateSecurityGroup{Account: albert, Region: region, Name: group, Description: "test"})
	return index
}
