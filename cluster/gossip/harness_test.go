package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
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

// testWorld runs three members in the process of the test. Each has a Peer and a Gossip on its
// own loopback address. They share one State, so Raft is not needed. When a test fails, it
// prints each node's members, counters, board and last log lines.
//
//	node1 127.x.y.1    node2 127.x.y.2    node3 127.x.y.3    strangers 127.x.y.9
//	peers on port 7400, gossip on 7401
type testWorld struct {
	t     *testing.T
	nodes map[ec2.NodeID]*testNode
	net   [2]byte

	mu      sync.Mutex
	state   *state.State
	changed chan struct{} // closed by the next change of state

	printed sync.Once
}

type testNode struct {
	world      *testWorld
	name       ec2.NodeID
	identity   *peer.Identity
	address    netip.AddrPort // where its Peer listens
	peer       *peer.Peer
	gossip     *Gossip
	log        *logtail.Tail
	stopGossip func() // returns when Gossip.Run has returned
	stopPeer   func() // returns when Peer.Run has returned
}

const worldNodes = 3

// newWorld starts the Peers of three members, each with two interfaces. It does not start gossip;
// start() does.
func newWorld(t *testing.T) *testWorld {
	t.Helper()
	w := &testWorld{
		t: t, nodes: map[ec2.NodeID]*testNode{}, state: state.NewState(), changed: make(chan struct{}),
		net: [2]byte{byte(1 + rand.IntN(250)), byte(rand.IntN(256))},
	}
	w.apply(&state.Bootstrap{Seed: "gossip", GossipKey: bytes.Repeat([]byte{7}, 32)})
	w.apply(&state.PutNetwork{Network: ec2.Network{
		VNI:         1,
		Region:      region,
		Prefix:      netip.MustParsePrefix("10.0.0.0/8"),
		Pools:       []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")},
		PublicPools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
	}})
	w.apply(&state.CreateAccount{ID: albert, Name: "albert", Platform: ec2.Classic, AccessKey: "AKIDALBERT", Secret: "secret"})
	for i := range worldNodes {
		c := &testNode{world: w, name: ec2.NodeID(fmt.Sprintf("node%d", i+1)), address: netip.AddrPortFrom(w.ip(byte(i+1)), 7400)}
		c.identity = w.identity(c)
		w.nodes[c.name] = c
		w.apply(&state.PutNode{Node: ec2.Node{ID: c.name, Zone: "us-east-1a", Address: c.address.String(), PublicKey: c.identity.PublicKey()}})
		c.startPeer(0)
	}
	w.apply(&state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 2 * worldNodes, MaxCount: 2 * worldNodes})
	for name := range w.nodes {
		if got := len(w.leases(name)); got != 2 {
			t.Fatalf("%s has %d interfaces, want 2", name, got)
		}
	}
	return w
}

func (w *testWorld) ip(last byte) netip.Addr {
	return netip.AddrFrom4([4]byte{127, w.net[0], w.net[1], last})
}

// identity returns a new identity of n: node1 creates the cluster, the others join it.
func (w *testWorld) identity(n *testNode) *peer.Identity {
	w.t.Helper()
	dir := w.t.TempDir()
	if n.name == "node1" {
		id, err := peer.Init(dir, string(n.name), n.address)
		if err != nil {
			w.t.Fatal(err)
		}
		return id
	}
	first := w.nodes["node1"]
	token, err := peer.NewToken(first.identity.RootPEM())
	if err != nil {
		w.t.Fatal(err)
	}
	id, err := peer.Join(w.t.Context(), peer.JoinConfig{
		Dir: dir, Node: string(n.name), Zone: "us-east-1a", Address: n.address, Contacts: []string{first.address.String()}, Token: token.String(),
	})
	if err != nil {
		w.t.Fatalf("%s joins: %v", n.name, err)
	}
	return id
}

func (w *testWorld) apply(r state.Request) state.Result {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	result, err := w.state.Apply(w.state.Index()+1, state.Command{Request: r, Time: time.Now()})
	if err != nil {
		w.t.Fatalf("apply %T: %v", r, err)
	}
	close(w.changed)
	w.changed = make(chan struct{})
	return result
}

func (w *testWorld) view() *state.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.View()
}

func (w *testWorld) viewChanged() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Check and Address implement peer.Directory with the shared State.
func (w *testWorld) Check(node string, publicKey []byte) error {
	row, ok := memberRow(w.view(), ec2.NodeID(node))
	if !ok || !bytes.Equal(row.PublicKey, publicKey) {
		return errors.New("no member with that key")
	}
	return nil
}

func (w *testWorld) Address(node string) (string, bool) {
	row, ok := memberRow(w.view(), ec2.NodeID(node))
	if !ok {
		return "", false
	}
	return row.Address, true
}

// leases returns the interfaces of a node, sorted by id.
func (w *testWorld) leases(node ec2.NodeID) []*ec2.Interface {
	var list []*ec2.Interface
	for i := range w.view().Interfaces() {
		if i.Node == node {
			list = append(list, i)
		}
	}
	return list
}

func (n *testNode) startPeer(boot uint64) {
	t := n.world.t
	t.Helper()
	tail, log := logtail.New(slog.LevelDebug)
	n.log = tail
	var err error
	if n.peer, err = peer.New(peer.Config{Identity: n.identity, Listen: n.address, Nodes: n.world, Logger: log}); err != nil {
		t.Fatal(err)
	}
	n.peer.HandleJoin(func(context.Context, peer.JoinRequest) (peer.JoinAnswer, error) {
		return peer.JoinAnswer{Role: string(ec2.Voter)}, nil
	})
	n.gossip, err = New(Config{
		Node: n.name, Boot: boot, Identity: n.identity, Address: netip.AddrPortFrom(n.address.Addr(), n.address.Port()+1),
		Peer: n.peer, View: n.world.view, ViewChanged: n.world.viewChanged, Logger: log,
		ForgetDeadAfter: 200 * time.Millisecond, // shorter than the network partition that a test makes
	})
	if err != nil {
		t.Fatal(err)
	}
	n.stopPeer = n.run(n.peer.Run)
}

func (n *testNode) start() { n.stopGossip = n.run(n.gossip.Run) }

// run runs f in a goroutine until the test ends or stop is called.
func (n *testNode) run(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(n.world.t.Context())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.world.t.Errorf("%s: %v", n.name, err)
		}
	})
	n.world.t.Cleanup(func() {
		if n.world.t.Failed() {
			n.world.printed.Do(n.world.print)
		}
		stop()
	})
	return stop
}

// print logs each node's members, counters, board and last log lines.
func (w *testWorld) print() {
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		n := w.nodes[name]
		w.t.Logf("%s: members %+v\ncounters %+v\n%slast log lines\n%s", name, n.gossip.Members(), n.gossip.Stats(), n.gossip.board, n.log)
	}
}

// start starts gossip on every node.
func (w *testWorld) start() *testWorld {
	for _, c := range w.nodes {
		c.start()
	}
	return w
}

// waitAllAlive waits until every node reports every other alive.
func (w *testWorld) waitAllAlive() *testWorld {
	w.t.Helper()
	for name, c := range w.nodes {
		testwait.Until(w.t, string(name)+" sees all alive", func() string {
			for _, m := range c.gossip.Members() {
				if m.Gossip != "alive" {
					return fmt.Sprintf("%s is %s", m.Node, m.Gossip)
				}
			}
			return ""
		})
	}
	return w
}

// wantDown waits until, at n, exactly these leases are down.
func (n *testNode) wantDown(leases ...*ec2.Interface) {
	n.world.t.Helper()
	testwait.Until(n.world.t, string(n.name)+" has the expected leases down", func() string { return n.downDiffers(leases...) })
}

func (n *testNode) downDiffers(leases ...*ec2.Interface) string {
	want := map[uint64]bool{}
	for _, l := range leases {
		want[l.Epoch] = true
	}
	got, _ := n.gossip.Down()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Sprintf("epochs of the leases that are down: %v, want %v", got, want)
	}
	return ""
}

func reportUp(leases ...*ec2.Interface) []Presence   { return report(true, leases...) }
func reportDown(leases ...*ec2.Interface) []Presence { return report(false, leases...) }

// report returns entries that report each of the leases up or down.
func report(up bool, leases ...*ec2.Interface) []Presence {
	var list []Presence
	for _, l := range leases {
		list = append(list, Presence{Interface: l.ID, Epoch: l.Epoch, Private: l.Private, MAC: l.MAC, Up: up})
	}
	return list
}

// sealed returns a sealed document that names node and is signed by n.
func (n *testNode) sealed(node ec2.NodeID, boot, version uint64, entries []Presence) []byte {
	n.world.t.Helper()
	raw, _, err := seal(n.identity, document{Node: node, Boot: boot, Version: version, Interfaces: entries})
	if err != nil {
		n.world.t.Fatal(err)
	}
	return raw
}

// isolate blocks gossip between n and the other nodes until heal is called.
func (n *testNode) isolate() (heal func()) {
	undo := []func(){}
	for _, other := range n.world.nodes {
		all := other.gossip.allowed.Load()
		others := &sources{packets: map[netip.AddrPort]bool{}, streams: map[netip.Addr]bool{}}
		for at := range all.packets {
			if other != n && at != n.gossip.cfg.Address {
				others.packets[at], others.streams[at.Addr()] = true, true
			}
		}
		other.gossip.allowed.Store(others)
		undo = append(undo, func() { other.gossip.allowed.Store(all) })
	}
	return func() {
		for _, f := range undo {
			f()
		}
	}
}

// replaceState replaces the shared State and returns the former one.
func (w *testWorld) replaceState(s *state.State) (before *state.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, w.state = w.state, s
	close(w.changed)
	w.changed = make(chan struct{})
	return before
}
