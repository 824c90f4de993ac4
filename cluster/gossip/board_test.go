package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
)

func TestForgedDocumentIsRejected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	two, three := w.nodes["node2"], w.nodes["node3"]
	victims := w.leases("node1")

	// node3 signs a document that names node1.
	forged := three.sealed("node1", 1<<62, 1, reportDown(victims...))
	if err := two.gossip.board.accept(w.view(), "node1", forged); !errors.Is(err, errForged) {
		t.Errorf("a document of node1 signed by node3: got %v, want %v", err, errForged)
	}
	// node3's own document is served as node1's.
	swapped := three.sealed("node3", 1, 1, reportDown(victims...))
	if err := two.gossip.board.accept(w.view(), "node1", swapped); !errors.Is(err, errForged) {
		t.Errorf("a document of node3 served as node1's: got %v, want %v", err, errForged)
	}
	// node1 signs a document that names node3.
	misnamed := w.nodes["node1"].sealed("node3", 1, 1, nil)
	if err := two.gossip.board.accept(w.view(), "node1", misnamed); !errors.Is(err, errForged) {
		t.Errorf("a document signed by node1 that names node3: got %v, want %v", err, errForged)
	}
	// The body was changed after node3 signed it.
	changed := bytes.Replace(three.sealed("node3", 1, 1, reportUp(w.leases("node3")...)), []byte("true"), []byte("fals"), 1)
	if err := two.gossip.board.accept(w.view(), "node3", changed); !errors.Is(err, errForged) {
		t.Errorf("a document changed after it was signed: got %v, want %v", err, errForged)
	}
	if got := two.gossip.Stats().Forged; got != 4 {
		t.Errorf("Stats.Forged is %d, want 4", got)
	}
	two.wantDown()

	// In a valid document, only the entries about another node's leases are ignored.
	own := w.leases("node3")
	entries := slices.Concat(reportDown(victims...), reportDown(own...))
	entries[2].Epoch++ // an epoch that this lease does not have
	if err := two.gossip.board.accept(w.view(), "node3", three.sealed("node3", 2, 1, entries)); err != nil {
		t.Fatal(err)
	}
	two.wantDown(own[1])
	if got := two.gossip.Stats().Forged; got != 7 {
		t.Errorf("Stats.Forged is %d, want 7: 4 documents and 3 entries", got)
	}
	for _, spoil := range []func(*Presence){
		func(p *Presence) { p.Private = p.Private.Next() },
		func(p *Presence) { p.MAC[5]++ },
	} {
		entries := reportDown(own[0])
		spoil(&entries[0])
		if got := classify(w.view(), "node3", entries[0]); got != otherLease {
			t.Errorf("classify %s: got %s, want %s", entries[0], got, otherLease)
		}
	}
	// An interface of a VPC has several leases, one after another: an entry about an older
	// lease is late, not forged.
	late := reportDown(own[0])
	late[0].Epoch--
	if got := classify(w.view(), "node3", late[0]); got != noLease {
		t.Errorf("classify %s: got %s, want %s", late[0], got, noLease)
	}
}

func TestReplayedDocumentIsRejected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, b := w.nodes["node1"], w.nodes["node2"].gossip.board
	mine := w.leases("node1")
	for i, c := range []struct {
		boot, version uint64
		up            bool
		want          error
	}{
		{5, 1, false, nil},
		{5, 2, true, nil},
		{5, 1, false, errReplayed}, // an older version
		{5, 2, false, errReplayed}, // the same version with another content
		{4, 9, false, errReplayed}, // an earlier boot, with a higher version
		{6, 1, true, nil},
		{5, 3, false, errReplayed},
	} {
		if err := b.accept(w.view(), "node1", one.sealed("node1", c.boot, c.version, report(c.up, mine...))); !errors.Is(err, c.want) {
			t.Errorf("document %d, boot %d version %d: got %v, want %v", i, c.boot, c.version, err, c.want)
		}
	}
	w.nodes["node2"].wantDown()
	if got := b.count.stats().Replayed; got != 4 {
		t.Errorf("Stats.Replayed is %d, want 4", got)
	}

	// A claim has another digest for the known version.
	if b.noteClaims(w.view(), "node3", []claim{{Node: "node1", Boot: 6, Version: 1}}) {
		t.Error("a claim with another digest for the known version is wanted")
	}
	if got := b.count.stats().Replayed; got != 5 {
		t.Errorf("Stats.Replayed is %d, want 5", got)
	}
}

func TestClaimsOfUnknownNodesAreNotStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	two := w.nodes["node2"].gossip
	var claims []claim
	for i := range 1000 {
		claims = append(claims, claim{Node: ec2.NodeID(fmt.Sprintf("ghost%d", i)), Boot: 1, Version: 1})
	}
	if two.board.noteClaims(w.view(), "node3", claims) || len(two.board.wanted) != 0 {
		t.Errorf("%d documents of nodes that do not exist are wanted, want 0", len(two.board.wanted))
	}
	delegate{two}.MergeRemoteState(make([]byte, maxListBytes+1), false)
	if got := two.Stats(); got.Unknown != 1000 || got.TooLarge != 1 {
		t.Errorf("Stats are %+v, want Unknown 1000 and TooLarge 1", got)
	}
	for range maxClaimLists + 1 { // Run was not called, so nothing reads the lists
		delegate{two}.MergeRemoteState([]byte("{}"), false)
	}
	if got := two.Stats().Dropped; got != 1 {
		t.Errorf("Stats.Dropped is %d, want 1", got)
	}
	if err := two.board.accept(w.view(), "node1", make([]byte, maxDocument+1)); !errors.Is(err, errTooLarge) {
		t.Errorf("a document larger than maxDocument: got %v, want %v", err, errTooLarge)
	}
}

func TestOversizedDocumentKeepsDownEntries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.nodes["node1"]
	mine := w.leases("node1")
	many := make([]Presence, maxEntries)
	for i := range many {
		many[i] = Presence{Interface: ec2.InterfaceID(fmt.Sprintf("eni-%08x", i)), Epoch: 1 << 40, Private: mine[0].Private, Up: true}
	}
	one.gossip.SetPresence(append(many, reportDown(mine...)...))
	one.wantDown(mine...)
	raw, ok := one.gossip.board.sealed("node1")
	if !ok || len(raw) > maxDocument {
		t.Fatalf("node1 has a document: %t, of %d bytes; want one of at most %d bytes", ok, len(raw), maxDocument)
	}
	t.Logf("%d entries are %d bytes", maxEntries, len(raw))
	if err := w.nodes["node2"].gossip.board.accept(w.view(), "node1", raw); err != nil {
		t.Fatal(err)
	}
	w.nodes["node2"].wantDown(mine...)
}

func FuzzGossip(f *testing.F) {
	f.Add([]byte{metaFormat})
	f.Add([]byte(`{"format":1,"from":"node2","documents":[{"node":"node1","boot":1,"version":1}]}`))
	f.Add([]byte{documentFormat, 0, 1, 0, '{', '}'})
	id, err := peer.Init(f.TempDir(), "node1", netip.MustParseAddrPort("127.0.0.1:7400"))
	if err != nil {
		f.Fatal(err)
	}
	view := state.NewState().View()
	f.Fuzz(func(t *testing.T, data []byte) {
		var count counters
		g := &Gossip{cfg: Config{Node: "node1", View: func() *state.View { return view }}, pull: make(chan struct{}, 1)}
		g.board = newBoard("node1", 1, id, &count)
		g.readClaims(data)
		if len(g.board.wanted) != 0 {
			t.Errorf("after the list of claims %q, node1 wants a document of a node that is no member", data)
		}
		decodeMeta("node2", data)
		if _, _, err := unseal(data, id.Cluster(), "node1", id.PublicKey()); err == nil {
			t.Errorf("%q is accepted as a document", data)
		}
	})
}
