package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"palisade/ec2"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

const (
	albert = ec2.AccountID("598916040194")
	region = ec2.Region("us-east-1")
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
	state *ec2.State
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
		t: t, nodes: map[ec2.NodeID]*citizen{}, state: ec2.NewState(), moved: make(chan struct{}),
		net: [2]byte{byte(1 + rand.IntN(250)), byte(rand.IntN(256))},
	}
	w.apply(&ec2.Bootstrap{Seed: "gossip", GossipKey: bytes.Repeat([]byte{7}, 32)})
	w.apply(&ec2.PutNetwork{Network: ec2.Network{
		VNI:         1,
		Region:      region,
		Prefix:      netip.MustParsePrefix("10.0.0.0/8"),
		Pools:       []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")},
		PublicPools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
	}})
	w.apply(&ec2.CreateAccount{ID: albert, Name: "albert", Platform: ec2.Classic, AccessKey: "AKIDALBERT", Secret: "secret"})
	for i := range nodesInTown {
		c := &citizen{town: w, name: ec2.NodeID(fmt.Sprintf("node%d", i+1)), address: netip.AddrPortFrom(w.ip(byte(i+1)), 7400)}
		c.identity = w.identity(c)
		w.nodes[c.name] = c
		w.apply(&ec2.PutNode{Node: ec2.Node{ID: c.name, Zone: "us-east-1a", Address: c.address.String(), PublicKey: c.identity.PublicKey()}})
		c.startPeer(0)
	}
	// Spread over the nodes: two interfaces on each.
	w.apply(&ec2.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 2 * nodesInTown, MaxCount: 2 * nodesInTown})
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

func (w *town) apply(r ec2.Request) ec2.Result {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	result, err := w.state.Apply(w.state.Index()+1, ec2.Command{Request: r, Time: time.Now()})
	if err != nil {
		w.t.Fatalf("apply %T: %v", r, err)
	}
	close(w.moved)
	w.moved = make(chan struct{})
	return result
}

func (w *town) view() *ec2.View {
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

func TestWhatANodeSaysOfItsInterfacesReachesAll(t *testing.T) {
	t.Parallel()
	w := newTown(t).start().together()
	one, two, three := w.nodes["node1"], w.nodes["node2"], w.nodes["node3"]
	mine := w.leases("node1")

	// Push/pull alone takes up to 30 s; 2 s are promised on an idle machine.
	testwait.Fastest(t, "down everywhere", 5*time.Second, func(int) time.Duration {
		one.gossip.SetPresence(nil)
		two.wantDown()
		three.wantDown()
		_, changed := two.gossip.Down()
		began := time.Now()
		one.gossip.SetPresence(slices.Concat(says(false, mine[0]), says(true, mine[1])))
		one.wantDown(mine[0])
		two.wantDown(mine[0])
		three.wantDown(mine[0])
		took := time.Since(began)
		<-changed // was closed
		return took
	})

	// What is not mentioned counts as up, and so does all of a node that says nothing.
	began := time.Now()
	one.gossip.SetPresence(nil)
	two.wantDown()
	three.wantDown()
	t.Logf("up everywhere after %s", time.Since(began))

	// A lease that ends is not down, it is not there.
	one.gossip.SetPresence(says(false, mine...))
	two.wantDown(mine...)
	w.apply(&ec2.TerminateInstances{Account: albert, Region: region, Instances: []ec2.InstanceID{mine[0].Instance}})
	two.wantDown(mine[1])
}

func TestForgedPresenceIsDropped(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	two, three := w.nodes["node2"], w.nodes["node3"]
	victims := w.leases("node1")

	// Another node's key.
	forged := three.sealed("node1", 1<<62, 1, says(false, victims...))
	if err := two.gossip.board.accept(w.view(), "node1", forged); !errors.Is(err, errForged) {
		t.Errorf("a document of node1 signed by node3: got %v, want %v", err, errForged)
	}
	// Its own document, handed out as another's.
	swapped := three.sealed("node3", 1, 1, says(false, victims...))
	if err := two.gossip.board.accept(w.view(), "node1", swapped); !errors.Is(err, errForged) {
		t.Errorf("a document of node3 as node1's: got %v, want %v", err, errForged)
	}
	// What node1 signed in the name of another.
	misnamed := w.nodes["node1"].sealed("node3", 1, 1, nil)
	if err := two.gossip.board.accept(w.view(), "node1", misnamed); !errors.Is(err, errForged) {
		t.Errorf("a document that node1 wrote for node3: got %v, want %v", err, errForged)
	}
	// A true signature on a changed body.
	changed := bytes.Replace(three.sealed("node3", 1, 1, says(true, w.leases("node3")...)), []byte("true"), []byte("fals"), 1)
	if err := two.gossip.board.accept(w.view(), "node3", changed); !errors.Is(err, errForged) {
		t.Errorf("a changed document: got %v, want %v", err, errForged)
	}
	if got := two.gossip.Stats().Forged; got != 4 {
		t.Errorf("%d forged documents counted, want 4", got)
	}
	two.wantDown()

	// Its own signature, about another's lease: of the document, that entry is ignored.
	own := w.leases("node3")
	entries := slices.Concat(says(false, victims...), says(false, own...))
	entries[2].Epoch++ // not with that epoch
	if err := two.gossip.board.accept(w.view(), "node3", three.sealed("node3", 2, 1, entries)); err != nil {
		t.Fatal(err)
	}
	two.wantDown(own[1])
	if got := two.gossip.Stats().Forged; got != 7 {
		t.Errorf("%d forged counted, want 4 documents and 3 entries", got)
	}
	for _, spoil := range []func(*Presence){
		func(p *Presence) { p.Private = p.Private.Next() },
		func(p *Presence) { p.MAC[5]++ },
	} {
		entries := says(false, own[0])
		spoil(&entries[0])
		if got := judge(w.view(), "node3", entries[0]); got != notItsOwn {
			t.Errorf("judge %+v: got %d, want %d", entries[0], got, notItsOwn)
		}
	}
	// An interface of a VPC lives through several leases: what is said of an older one is
	// late, not forged.
	late := says(false, own[0])
	late[0].Epoch--
	if got := judge(w.view(), "node3", late[0]); got != notLeased {
		t.Errorf("judge %+v: got %d, want %d", late[0], got, notLeased)
	}
}

// TestARelayCannotForge: node3 has the gossip key and a certificate, and answers for
// node1, which is silent.
func TestARelayCannotForge(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	two, three := w.nodes["node2"], w.nodes["node3"]
	two.start()
	w.nodes["node1"].quit()
	forged := three.sealed("node1", 1<<62, 1, says(false, w.leases("node1")...))
	three.gossip.board.docs["node1"] = &posted{claim: claim{Node: "node1", Boot: 1 << 62, Version: 1}, raw: forged}

	delegate{two.gossip}.MergeRemoteState(delegate{three.gossip}.LocalState(false), false)
	testwait.Until(t, "the forged document is counted", func() string {
		return testwait.Unless(two.gossip.Stats().Forged == 1, "%+v", two.gossip.Stats())
	})
	two.wantDown()
	testwait.Until(t, "it is not asked for again", func() string {
		two.gossip.board.mu.Lock()
		defer two.gossip.board.mu.Unlock()
		return testwait.Unless(len(two.gossip.board.wanted) == 0, "%d wanted", len(two.gossip.board.wanted))
	})

	// The same way, what node1 did sign.
	w.nodes["node1"].gossip.SetPresence(says(false, w.leases("node1")...))
	raw, _ := w.nodes["node1"].gossip.board.raw("node1")
	three.gossip.board.docs["node1"] = &posted{claim: w.nodes["node1"].gossip.board.own(), raw: raw}
	delegate{two.gossip}.MergeRemoteState(delegate{three.gossip}.LocalState(false), false)
	two.wantDown(w.leases("node1")...)
}

func TestReplayedPresenceIsDropped(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	one, b := w.nodes["node1"], w.nodes["node2"].gossip.board
	mine := w.leases("node1")
	for i, c := range []struct {
		boot, version uint64
		up            bool
		want          error
	}{
		{5, 1, false, nil},
		{5, 2, true, nil},
		{5, 1, false, errReplayed}, // the one before
		{5, 2, false, errReplayed}, // one version, another content
		{4, 9, false, errReplayed}, // an earlier boot, however late
		{6, 1, true, nil},
		{5, 3, false, errReplayed},
	} {
		if err := b.accept(w.view(), "node1", one.sealed("node1", c.boot, c.version, says(c.up, mine...))); !errors.Is(err, c.want) {
			t.Errorf("document %d, boot %d version %d: got %v, want %v", i, c.boot, c.version, err, c.want)
		}
	}
	w.nodes["node2"].wantDown()
	if got := b.count.stats().Replayed; got != 4 {
		t.Errorf("%d replays counted, want 4", got)
	}

	// A digest that differs, for the version that is known.
	if b.hear(w.view(), "node3", []claim{{Node: "node1", Boot: 6, Version: 1}}) {
		t.Error("a second content of one version is asked for")
	}
	if got := b.count.stats().Replayed; got != 5 {
		t.Errorf("%d replays counted, want 5", got)
	}
}

func TestClaimsAreBoundedByTheNodeTable(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	two := w.nodes["node2"].gossip
	var claims []claim
	for i := range 1000 {
		claims = append(claims, claim{Node: ec2.NodeID(fmt.Sprintf("ghost%d", i)), Boot: 1, Version: 1})
	}
	if two.board.hear(w.view(), "node3", claims) || len(two.board.wanted) != 0 {
		t.Errorf("%d documents of nodes that do not exist are wanted", len(two.board.wanted))
	}
	delegate{two}.MergeRemoteState(make([]byte, maxHeardBytes+1), false)
	if got := two.Stats(); got.Unknown != 1000 || got.TooLarge != 1 {
		t.Errorf("counted %+v, want 1000 unknown, 1 too large", got)
	}
	for range maxHeard + 1 { // run does not run: nobody reads
		delegate{two}.MergeRemoteState([]byte("{}"), false)
	}
	if got := two.Stats().Dropped; got != 1 {
		t.Errorf("%d lists dropped, want 1", got)
	}
	if err := two.board.accept(w.view(), "node1", make([]byte, maxDocument+1)); !errors.Is(err, errTooLarge) {
		t.Errorf("a document beyond the bound: got %v, want %v", err, errTooLarge)
	}
}

func TestAnOversizedNodeStillSaysWhatIsDown(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	one := w.nodes["node1"]
	mine := w.leases("node1")
	many := make([]Presence, maxEntries)
	for i := range many {
		many[i] = Presence{Interface: ec2.InterfaceID(fmt.Sprintf("eni-%08x", i)), Epoch: 1 << 40, Private: mine[0].Private, Up: true}
	}
	one.gossip.SetPresence(append(many, says(false, mine...)...))
	one.wantDown(mine...)
	raw, ok := one.gossip.board.raw("node1")
	if !ok || len(raw) > maxDocument {
		t.Fatalf("a document of %d bytes", len(raw))
	}
	t.Logf("%d entries are %d bytes", maxEntries, len(raw))
	if err := w.nodes["node2"].gossip.board.accept(w.view(), "node1", raw); err != nil {
		t.Fatal(err)
	}
	w.nodes["node2"].wantDown(mine...)
}

func TestAFencedNodeSpeaksNoMore(t *testing.T) {
	t.Parallel()
	w := newTown(t).start().together()
	one, two, three := w.nodes["node1"], w.nodes["node2"], w.nodes["node3"]
	one.gossip.SetPresence(says(false, w.leases("node1")...))
	three.gossip.SetPresence(says(false, w.leases("node3")...))
	two.wantDown(slices.Concat(w.leases("node1"), w.leases("node3"))...)

	key := bytes.Repeat([]byte{8}, 32)
	old := w.view().GossipKey()
	w.apply(&ec2.FenceNode{Node: "node3", GossipKey: key})
	two.wantDown(w.leases("node1")...)
	if _, ok := two.gossip.board.raw("node3"); ok {
		t.Error("the document of a fenced node is kept")
	}
	if err := two.gossip.board.accept(w.view(), "node3", three.sealed("node3", 1<<62, 1, nil)); !errors.Is(err, errUnknown) {
		t.Errorf("a document of a fenced node: got %v, want %v", err, errUnknown)
	}

	// The others go on under the new key: what is said after the change arrives.
	one.gossip.SetPresence(nil)
	two.wantDown()
	two.gossip.SetPresence(says(false, w.leases("node2")...))
	one.wantDown(w.leases("node2")...)

	// Who has the old key, at an address of a member, gets nothing in.
	two.stop()
	rogue := w.rogue("node2", netip.AddrPortFrom(two.address.Addr(), two.address.Port()+1), old)
	before := one.gossip.Stats()
	if _, err := rogue.Join([]string{one.gossip.cfg.Address.String()}); err == nil {
		t.Error("a node with the old key joined")
	}
	if got := one.gossip.Stats(); got.Refused == before.Refused {
		t.Errorf("nothing was refused: %+v", got)
	}
}

// rogue is a bare memberlist of the cluster's label, under any name, address and key.
func (w *town) rogue(name string, at netip.AddrPort, key []byte) *memberlist.Memberlist {
	w.t.Helper()
	cfg := memberlist.DefaultLocalConfig()
	cfg.Name, cfg.Label, cfg.SecretKey = name, w.nodes["node1"].identity.Cluster(), key
	cfg.BindAddr, cfg.BindPort = at.Addr().String(), int(at.Port())
	cfg.AdvertiseAddr, cfg.AdvertisePort = cfg.BindAddr, cfg.BindPort
	// Its streams come from its address, as a member's do.
	logger := slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	from := &sources{packets: map[netip.AddrPort]bool{}, streams: map[netip.Addr]bool{}}
	for _, c := range w.nodes {
		from.packets[c.gossip.cfg.Address], from.streams[c.address.Addr()] = true, true
	}
	var allowed atomic.Pointer[sources]
	allowed.Store(from)
	transport, err := newTransport(at, &allowed, &counters{}, logger)
	if err != nil {
		w.t.Fatal(err)
	}
	cfg.Transport, cfg.Logger = transport, logger
	list, err := memberlist.Create(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = list.Shutdown() })
	return list
}

// TestAMembersKeyOpensNoOtherName: who has the gossip key and a member's address, as a
// compromised node does, adds no member and moves none.
func TestAMembersKeyOpensNoOtherName(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	one := w.nodes["node1"]
	one.start()
	at := w.nodes["node3"].gossip.cfg.Address // its gossip does not run, nor does node2's
	for _, name := range []string{"mallory", "node2"} {
		before := one.gossip.Stats().Intruders
		rogue := w.rogue(name, at, w.view().GossipKey())
		testwait.Until(t, name+" is counted", func() string {
			_, _ = rogue.Join([]string{one.gossip.cfg.Address.String()})
			return testwait.Unless(one.gossip.Stats().Intruders > before, "%+v", one.gossip.Stats())
		})
		if err := rogue.Shutdown(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range one.gossip.Members() {
		if m.Node != "node1" && m.Gossip != "unknown" {
			t.Errorf("%s is %s", m.Node, m.Gossip)
		}
	}
	one.gossip.mu.Lock()
	defer one.gossip.mu.Unlock()
	if len(one.gossip.seen) != 0 {
		t.Errorf("memberlist has %d others, want none", len(one.gossip.seen))
	}
}

func TestAStrangerIsNotHeard(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	one := w.nodes["node1"]
	one.start()
	testwait.Until(t, "node1 gossips", func() string { return testwait.Unless(one.gossip.Members()[0].Gossip == "alive", "not yet") })
	door := one.gossip.cfg.Address

	// memberlist's ping and push/pull in the clear, as message packs, and garbage.
	label := one.identity.Cluster()
	labelled := func(b []byte) []byte {
		return slices.Concat([]byte{244, byte(len(label))}, []byte(label), b)
	}
	ping := slices.Concat([]byte{0, 0x82, 0xa5}, []byte("SeqNo"), []byte{1, 0xa4}, []byte("Node"), []byte{0xa5}, []byte("node1"))
	pushPull := slices.Concat([]byte{6, 0x83, 0xa5}, []byte("Nodes"), []byte{0, 0xac}, []byte("UserStateLen"), []byte{0, 0xa4}, []byte("Join"), []byte{0xc3})
	messages := [][]byte{ping, labelled(ping), pushPull, labelled(pushPull), {0xff}, bytes.Repeat([]byte{0x41}, 1400)}

	for _, c := range []struct {
		who   string
		from  netip.AddrPort
		count func() uint64
		wants uint64
	}{
		{"stranger", netip.AddrPortFrom(w.ip(9), 7401), func() uint64 { return one.gossip.Stats().Strangers }, 2 * uint64(len(messages))},
		{"who has a member's address", w.nodes["node3"].gossip.cfg.Address, func() uint64 { return one.gossip.Stats().Refused }, 2 * uint64(len(messages))},
	} {
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(c.from))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if _, err := udp.WriteToUDPAddrPort(m, door); err != nil {
				t.Fatal(err)
			}
			w.streamGetsNothing(c.from.Addr(), door, m)
		}
		testwait.Until(t, "what "+c.who+" sent is counted", func() string {
			return testwait.Unless(c.count() >= c.wants, "%d of %d: %+v", c.count(), c.wants, one.gossip.Stats())
		})
		// All packets were looked at, so an answer to any is here by now.
		if err := udp.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, _, err := udp.ReadFromUDPAddrPort(make([]byte, 2000)); err == nil {
			// node1 calls node3 by itself: sealed, over TCP. Nothing of it is UDP.
			t.Errorf("%s was answered %d bytes", c.who, n)
		}
		udp.Close()
	}
	for _, m := range one.gossip.Members() {
		if m.Node != "node1" && m.Gossip != "unknown" {
			t.Errorf("%s is %s", m.Node, m.Gossip)
		}
	}
}

// streamGetsNothing sends b by TCP; what comes back, if anything, names nothing in the clear.
func (w *town) streamGetsNothing(from netip.Addr, to netip.AddrPort, b []byte) {
	w.t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: 5 * time.Second}
	c, err := d.Dial("tcp", to.String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write(b) // may be closed already
	_ = c.(*net.TCPConn).CloseWrite()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	var answer bytes.Buffer
	_, err = answer.ReadFrom(c)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		w.t.Errorf("a stranger's stream is kept open")
	}
	if bytes.Contains(answer.Bytes(), []byte("node")) {
		w.t.Errorf("a stranger was answered %q", answer.Bytes())
	}
}

func TestAPartitionOfGossipChangesNothingAndHeals(t *testing.T) {
	t.Parallel()
	w := newTown(t).start().together()
	one, two, three := w.nodes["node1"], w.nodes["node2"], w.nodes["node3"]
	one.gossip.SetPresence(says(false, w.leases("node1")[0]))
	three.gossip.SetPresence(says(false, w.leases("node3")[0]))
	settled := []*ec2.Interface{w.leases("node1")[0], w.leases("node3")[0]}
	for _, c := range w.nodes {
		c.wantDown(settled...)
	}

	// node3 hears nobody and nobody hears it.
	heal := three.isolate()
	_, changed := two.gossip.Down()
	suspected := false
	testwait.Until(t, "each side calls the other dead", func() string {
		for name, c := range w.nodes {
			for _, m := range c.gossip.Members() {
				suspected = suspected || m.Gossip == "suspect"
				if (name == "node3") != (m.Node == "node3") && m.Gossip != "dead" {
					return fmt.Sprintf("%s is %s to %s", m.Node, m.Gossip, name)
				}
			}
		}
		return ""
	})
	gone := time.Now().Add(one.gossip.cfg.GiveUp)
	testwait.Until(t, "memberlist has given up", func() string { return testwait.Unless(time.Now().After(gone), "not yet") })
	t.Logf("it was seen as suspect before: %t", suspected)
	select {
	case <-changed:
		t.Error("a death in gossip changed what is down")
	default:
	}
	for _, c := range w.nodes {
		if differs := c.downDiffers(settled...); differs != "" {
			t.Errorf("%s, in a partition: %s", c.name, differs)
		}
	}

	// What node3 says meanwhile is news after it.
	three.gossip.SetPresence(says(false, w.leases("node3")...))
	began := time.Now()
	heal()
	w.together()
	two.wantDown(w.leases("node1")[0], w.leases("node3")[0], w.leases("node3")[1])
	t.Logf("healed after %s", time.Since(began))
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

// TestABootAfterTheClockWasSetBack: others would take what is said now for a replay.
func TestABootAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	w := newTown(t).start().together()
	one, two := w.nodes["node1"], w.nodes["node2"]
	mine := w.leases("node1")
	one.gossip.SetPresence(says(true, mine...))
	testwait.Until(t, "node2 has node1's document", func() string {
		_, ok := two.gossip.board.raw("node1")
		return testwait.Unless(ok, "no")
	})
	one.stop()
	one.quit()

	one.startPeer(1000) // a microsecond after 1970
	one.gossip.SetPresence(says(false, mine...))
	one.start()
	two.wantDown(mine...)
}

func TestMetaFits(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	one := w.nodes["node1"].gossip
	one.SetPresence(says(false, w.leases("node1")...))
	one.encodeMeta()
	meta := delegate{one}.NodeMeta(memberlist.MetaMaxSize)
	if len(meta) > memberlist.MetaMaxSize {
		t.Fatalf("a meta of %d bytes; memberlist panics above %d", len(meta), memberlist.MetaMaxSize)
	}
	c, enforced, ok := decodeMeta("node1", meta)
	if !ok || c != one.board.own() || enforced != w.view().Index() {
		t.Errorf("decoded %+v, index %d, %t; want %+v, index %d", c, enforced, ok, one.board.own(), w.view().Index())
	}
}

func TestTheEnforcedIndexTravels(t *testing.T) {
	t.Parallel()
	w := newTown(t).start().together()
	for _, name := range []string{"web", "app", "db"} {
		w.apply(&ec2.CreateSecurityGroup{Account: albert, Region: region, Name: name, Description: "test"})
	}
	for _, c := range w.nodes {
		testwait.Until(t, string(c.name)+" knows what all enforce", func() string {
			for _, m := range c.gossip.Members() {
				if m.Enforced != w.view().Index() {
					return fmt.Sprintf("%s: %d, want %d", m.Node, m.Enforced, w.view().Index())
				}
			}
			return ""
		})
	}
}

func TestGossipEndsWithItsContext(t *testing.T) {
	w := newTown(t).start().together()
	idle, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(w.ip(2), 0)), net.TCPAddrFromAddrPort(w.nodes["node1"].gossip.cfg.Address))
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close() // a stream that says nothing
	for _, c := range w.nodes {
		c.stop()
	}
	testwait.Until(t, "no goroutine is left", func() string {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for one := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(one, "hashicorp/memberlist.") || strings.Contains(one, "cluster.(*Gossip") {
				return one
			}
		}
		return ""
	})
}

func TestNoGossipWithoutAKey(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	one := w.nodes["node1"]
	full := w.replace(ec2.NewState()) // as before the first entry
	one.start()
	one.gossip.SetPresence(nil)
	testwait.Until(t, "run goes by the empty state", func() string { return testwait.Unless(len(one.gossip.announce) == 0, "not yet") })
	if l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(one.gossip.cfg.Address)); err != nil {
		t.Errorf("somebody gossips: %v", err)
	} else {
		l.Close()
	}
	w.replace(full)
	testwait.Until(t, "it begins with the key", func() string { return testwait.Unless(one.gossip.Members()[0].Gossip == "alive", "not yet") })
}

func (w *town) replace(s *ec2.State) (was *ec2.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was, w.state = w.state, s
	close(w.moved)
	w.moved = make(chan struct{})
	return was
}

func FuzzGossip(f *testing.F) {
	f.Add([]byte{metaFormat})
	f.Add([]byte(`{"format":1,"from":"node2","documents":[{"node":"node1","boot":1,"version":1}]}`))
	f.Add([]byte{documentFormat, 0, 1, 0, '{', '}'})
	id, err := peer.Init(f.TempDir(), "node1", netip.MustParseAddrPort("127.0.0.1:7400"))
	if err != nil {
		f.Fatal(err)
	}
	view := ec2.NewState().View()
	f.Fuzz(func(t *testing.T, data []byte) {
		var count counters
		g := &Gossip{cfg: Config{Node: "node1", View: func() *ec2.View { return view }}, pull: make(chan struct{}, 1)}
		g.board = newBoard("node1", 1, id, &count)
		g.read(data)
		if len(g.board.wanted) != 0 {
			t.Errorf("%q makes a node ask for a document of no member", data)
		}
		decodeMeta("node2", data)
		if _, _, err := unseal(data, id.Cluster(), "node1", id.PublicKey()); err == nil {
			t.Errorf("%q is a document", data)
		}
	})
}
