package gossip

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"palisade/ec2/state"
	"palisade/internal/testwait"
)

// node3 is a member. It serves node2 a document that names node1, while node1's Peer does not
// run. node2 must accept the document only if node1 has signed it.
func TestRelayCannotForgeDocument(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	two, three := w.nodes["node2"], w.nodes["node3"]
	two.start()
	w.nodes["node1"].stopPeer()
	forged := three.sealed("node1", 1<<62, 1, reportDown(w.leases("node1")...))
	three.gossip.board.docs["node1"] = &acceptedDocument{claim: claim{Node: "node1", Boot: 1 << 62, Version: 1}, raw: forged}

	delegate{two.gossip}.MergeRemoteState(delegate{three.gossip}.LocalState(false), false)
	testwait.Until(t, "the forged document is counted", func() string {
		return testwait.Unless(two.gossip.Stats().Forged == 1, "%+v", two.gossip.Stats())
	})
	two.wantDown()
	testwait.Until(t, "the forged document is no longer wanted", func() string {
		two.gossip.board.mu.Lock()
		defer two.gossip.board.mu.Unlock()
		return testwait.Unless(len(two.gossip.board.wanted) == 0, "%d wanted", len(two.gossip.board.wanted))
	})

	// A document that node1 did sign is accepted from node3.
	w.nodes["node1"].gossip.SetPresence(reportDown(w.leases("node1")...))
	raw, _ := w.nodes["node1"].gossip.board.sealed("node1")
	three.gossip.board.docs["node1"] = &acceptedDocument{claim: w.nodes["node1"].gossip.board.ownClaim(), raw: raw}
	delegate{two.gossip}.MergeRemoteState(delegate{three.gossip}.LocalState(false), false)
	two.wantDown(w.leases("node1")...)
}

func TestFencedNodeIsIgnored(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start().waitAllAlive()
	one, two, three := w.nodes["node1"], w.nodes["node2"], w.nodes["node3"]
	one.gossip.SetPresence(reportDown(w.leases("node1")...))
	three.gossip.SetPresence(reportDown(w.leases("node3")...))
	two.wantDown(slices.Concat(w.leases("node1"), w.leases("node3"))...)

	key := bytes.Repeat([]byte{8}, 32)
	old := w.view().GossipKey()
	w.apply(&state.FenceNode{Node: "node3", GossipKey: key})
	two.wantDown(w.leases("node1")...)
	if _, ok := two.gossip.board.sealed("node3"); ok {
		t.Error("the document of a fenced node is still stored")
	}
	if err := two.gossip.board.accept(w.view(), "node3", three.sealed("node3", 1<<62, 1, nil)); !errors.Is(err, errUnknown) {
		t.Errorf("a document of a fenced node: got %v, want %v", err, errUnknown)
	}

	// The other nodes use the new key: reports after the change arrive.
	one.gossip.SetPresence(nil)
	two.wantDown()
	two.gossip.SetPresence(reportDown(w.leases("node2")...))
	one.wantDown(w.leases("node2")...)

	// A node with the old key is refused, even at the address of a member.
	two.stopGossip()
	rogue := w.rogue("node2", netip.AddrPortFrom(two.address.Addr(), two.address.Port()+1), old)
	before := one.gossip.Stats()
	if _, err := rogue.Join([]string{one.gossip.cfg.Address.String()}); err == nil {
		t.Error("a node with the old key joined")
	}
	if got := one.gossip.Stats(); got.Refused == before.Refused {
		t.Errorf("Stats.Refused did not increase: %+v", got)
	}
}

// rogue starts memberlist without a Gossip, with the cluster's label and the name, address and
// key that the test chooses.
func (w *testWorld) rogue(name string, at netip.AddrPort, key []byte) *memberlist.Memberlist {
	w.t.Helper()
	cfg := memberlist.DefaultLocalConfig()
	cfg.EnableCompression = false // as our nodes do; what is compressed is dropped before a name is read
	cfg.Name, cfg.Label, cfg.SecretKey = name, w.nodes["node1"].identity.Cluster(), key
	cfg.BindAddr, cfg.BindPort = at.Addr().String(), int(at.Port())
	cfg.AdvertiseAddr, cfg.AdvertisePort = cfg.BindAddr, cfg.BindPort
	// With our transport its streams come from the address at, like the streams of a member.
	logger := slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	from := &sources{packets: map[netip.AddrPort]bool{}, streams: map[netip.Addr]bool{}}
	for _, c := range w.nodes {
		from.packets[c.gossip.cfg.Address], from.streams[c.address.Addr()] = true, true
	}
	var allowed atomic.Pointer[sources]
	allowed.Store(from)
	ring, err := memberlist.NewKeyring(nil, key)
	if err != nil {
		w.t.Fatal(err)
	}
	transport, err := newTransport(at, cfg.Label, ring, &allowed, &counters{}, logger)
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

// An intruder with the gossip key and a member's address can neither add a member to
// memberlist nor change the address of a member.
func TestMemberCannotTakeAnotherName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.nodes["node1"]
	one.start()
	at := w.nodes["node3"].gossip.cfg.Address // gossip of node2 and node3 does not run
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
	if len(one.gossip.members) != 0 {
		t.Errorf("memberlist added %d members, want 0", len(one.gossip.members))
	}
}

func TestStrangerIsIgnored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.nodes["node1"]
	one.start()
	testwait.Until(t, "node1 gossips", func() string { return testwait.Unless(one.gossip.Members()[0].Gossip == "alive", "not yet") })
	door := one.gossip.cfg.Address

	// The messages are memberlist's ping and push/pull in MessagePack, not encrypted, and garbage.
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
		{"stranger at a member's address", w.nodes["node3"].gossip.cfg.Address, func() uint64 { return one.gossip.Stats().Refused }, 2 * uint64(len(messages))},
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
		testwait.Until(t, "data of "+c.who+" is counted", func() string {
			return testwait.Unless(c.count() >= c.wants, "%d of %d: %+v", c.count(), c.wants, one.gossip.Stats())
		})
		// node1 has counted all packets, so an answer to any of them would have arrived by now.
		if err := udp.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, _, err := udp.ReadFromUDPAddrPort(make([]byte, 2000)); err == nil {
			// node1 starts no UDP exchange with node3, so these bytes are an answer.
			t.Errorf("node1 answered a %s with %d bytes over UDP, want no answer", c.who, n)
		}
		udp.Close()
	}
	for _, m := range one.gossip.Members() {
		if m.Node != "node1" && m.Gossip != "unknown" {
			t.Errorf("%s is %s", m.Node, m.Gossip)
		}
	}
}

// streamGetsNothing sends b by TCP and checks that the stream is closed, and that no answer
// contains a node's name in plain text.
func (w *testWorld) streamGetsNothing(from netip.Addr, to netip.AddrPort, b []byte) {
	w.t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: 5 * time.Second}
	c, err := d.Dial("tcp", to.String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write(b) // fails if the node has closed the stream
	_ = c.(*net.TCPConn).CloseWrite()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	var answer bytes.Buffer
	_, err = answer.ReadFrom(c)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		w.t.Errorf("the stream of a stranger is still open after 10 s")
	}
	if bytes.Contains(answer.Bytes(), []byte("node")) {
		w.t.Errorf("a stranger got the answer %q, which contains a node's name", answer.Bytes())
	}
}

func TestGossipWaitsForAKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.nodes["node1"]
	full := w.replaceState(state.NewState()) // an empty state, as before the first log entry
	one.start()
	one.gossip.SetPresence(nil)
	testwait.Until(t, "Run has read the empty state", func() string { return testwait.Unless(len(one.gossip.announce) == 0, "not yet") })
	if l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(one.gossip.cfg.Address)); err != nil {
		t.Errorf("the gossip port is in use before there is a key: %v", err)
	} else {
		l.Close()
	}
	w.replaceState(full)
	testwait.Until(t, "gossip starts with the key", func() string { return testwait.Unless(one.gossip.Members()[0].Gossip == "alive", "not yet") })
}
