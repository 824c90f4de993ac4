package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

// town is three members in one process: peers and gossip over sockets on loopback
// addresses of their own, under one State, as Raft would make it.
//
//	node1 127.x.y.1    node2 127.x.y.2    node3 127.x.y.3    strangers 127.x.y.9
//	peers on port 7400, gossip on 7401
type town struct {
	t     *testing.T
	nodes map[ec2.NodeID]*citizen
	net   [2]byte

	mu    sync.Mutex
	state *state.State
	moved chan struct{}
}

type citizen struct {
	town     *town
	name     ec2.NodeID
	identity *peer.Identity
	address  netip.AddrPort // of its peer
	peer     *peer.Peer
	gossip   *Gossip
	stop     func() // gossip alone; returns when run has
	quit     func() // peer alone
}

const nodesInTown = 3

// newTown has members and peers; gossip begins with start.
func newTown(t *testing.T) *town {
	t.Helper()
	w := &town{
		t: t, nodes: map[ec2.NodeID]*citizen{}, state: state.NewState(), moved: make(chan struct{}),
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
	for i := range nodesInTown {
		c := &citizen{town: w, name: ec2.NodeID(fmt.Sprintf("node%d", i+1)), address: netip.AddrPortFrom(w.ip(byte(i+1)), 7400)}
		c.identity = w.identity(c)
		w.nodes[c.name] = c
		w.apply(&state.PutNode{Node: ec2.Node{ID: c.name, Zone: "us-east-1a", Address: c.address.String(), PublicKey: c.identity.PublicKey()}})
		c.startPeer(0)
	}
	// Spread over the nodes: two interfaces on each.
	w.apply(&state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 2 * nodesInTown, MaxCount: 2 * nodesInTown})
	for name := range w.nodes {
		if got := len(w.leases(name)); got != 2 {
			t.Fatalf("%s has %d interfaces, want 2", name, got)
		}
	}
	return w
}

func (w *town) ip(last byte) netip.Addr {
	return netip.AddrFrom4([4]byte{127, w.net[0], w.net[1], last})
}

// identity makes the first node's cluster, and lets the others join it.
func (w *town) identity(c *citizen) *peer.Identity {
	w.t.Helper()
	dir := w.t.TempDir()
	if c.name == "node1" {
		id, err := peer.Init(dir, string(c.name), c.address)
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
		Dir: dir, Node: string(c.name), Zone: "us-east-1a", Address: c.address, Contacts: []string{first.address.String()}, Token: token.String(),
	})
	if err != nil {
		w.t.Fatalf("%s joins: %v", c.name, err)
	}
	return id
}

func (w *town) apply(r state.Request) state.Result {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	result, err := w.state.Apply(w.state.Index()+1, state.Command{Request: r, Time: time.Now()})
	if err != nil {
		w.t.Fatalf("apply %T: %v", r, err)
	}
	close(w.moved)
	w.moved = make(chan struct{})
	return result
}

func (w *town) view() *state.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.View()
}

func (w *town) viewMoved() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.moved
}

// Check and Address make a town the peers' Directory.
func (w *town) Check(node string, publicKey []byte) error {
	row, ok := memberRow(w.view(), ec2.NodeID(node))
	if !ok || !bytes.Equal(row.PublicKey, publicKey) {
		return errors.New("no member with that key")
	}
	return nil
}

func (w *town) Address(node string) (string, bool) {
	row, ok := memberRow(w.view(), ec2.NodeID(node))
	if !ok {
		return "", false
	}
	return row.Address, true
}

// leases are the interfaces of a node, by id.
func (w *town) leases(node ec2.NodeID) []*ec2.Interface {
	var list []*ec2.Interface
	for i := range w.view().Interfaces() {
		if i.Node == node {
			list = append(list, i)
		}
	}
	return list
}

func (c *citizen) startPeer(boot uint64) {
	t := c.town.t
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	var err error
	if c.peer, err = peer.New(peer.Config{Identity: c.identity, Listen: c.address, Nodes: c.town, Logger: log}); err != nil {
		t.Fatal(err)
	}
	c.peer.HandleJoin(func(context.Context, peer.JoinRequest) (peer.JoinAnswer, error) {
		return peer.JoinAnswer{Role: string(ec2.Voter)}, nil
	})
	c.gossip, err = New(Config{
		Node: c.name, Boot: boot, Identity: c.identity, Address: netip.AddrPortFrom(c.address.Addr(), c.address.Port()+1),
		Peer: c.peer, View: c.town.view, ViewMoved: c.town.viewMoved, Logger: log,
		GiveUp: 200 * time.Millisecond, // so that a partition of seconds is a long one
	})
	if err != nil {
		t.Fatal(err)
	}
	c.quit = c.running(c.peer.Run)
}

func (c *citizen) start() { c.stop = c.running(c.gossip.Run) }

func (c *citizen) running(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(c.town.t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.town.t.Errorf("%s: %v", c.name, err)
		}
	})
	c.town.t.Cleanup(stop)
	return stop
}

func (w *town) start() *town {
	for _, c := range w.nodes {
		c.start()
	}
	return w
}

// together waits until every node sees every other alive.
func (w *town) together() *town {
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

// wantDown waits until exactly these leases are down at c.
func (c *citizen) wantDown(leases ...*ec2.Interface) {
	c.town.t.Helper()
	testwait.Until(c.town.t, string(c.name)+" has these down", func() string { return c.downDiffers(leases...) })
}

func (c *citizen) downDiffers(leases ...*ec2.Interface) string {
	want := map[uint64]bool{}
	for _, l := range leases {
		want[l.Epoch] = true
	}
	got, _ := c.gossip.Down()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Sprintf("down: %v, want %v", got, want)
	}
	return ""
}

// says makes entries about leases.
func says(up bool, leases ...*ec2.Interface) []Presence {
	var list []Presence
	for _, l := range leases {
		list = append(list, Presence{Interface: l.ID, Epoch: l.Epoch, Private: l.Private, MAC: l.MAC, Up: up})
	}
	return list
}

// sealed is a document of node, signed by c.
func (c *citizen) sealed(node ec2.NodeID, boot, version uint64, entries []Presence) []byte {
	c.town.t.Helper()
	raw, _, err := seal(c.identity, document{Node: node, Boot: boot, Version: version, Interfaces: entries})
	if err != nil {
		c.town.t.Fatal(err)
	}
	return raw
}

// isolate lets no gossip pass between c and the others.
func (c *citizen) isolate() (heal func()) {
	undo := []func(){}
	for _, other := range c.town.nodes {
		all := other.gossip.sources.Load()
		some := &sources{packets: map[netip.AddrPort]bool{}, streams: map[netip.Addr]bool{}}
		for at := range all.packets {
			if other != c && at != c.gossip.cfg.Address {
				some.packets[at], some.streams[at.Addr()] = true, true
			}
		}
		other.gossip.sources.Store(some)
		undo = append(undo, func() { other.gossip.sources.Store(all) })
	}
	return func() {
		for _, f := range undo {
			f()
		}
	}
}

func (w *town) replace(s *state.State) (was *state.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was, w.state = w.state, s
	close(w.moved)
	w.moved = make(chan struct{})
	return was
}
