package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
)

// A board stores the newest document of every node, and derives from these documents which
// leases are down.
//
// The Gossip owns it. Its methods may be called from any goroutine; mu guards all fields
// below it and is a leaf. It does no I/O: the Gossip passes claims to it, fetches the
// documents that it wants, and passes them to accept. It stores nothing of a node that is
// no member, so the node table bounds its size.
type board struct {
	node     ec2.NodeID
	identity *peer.Identity
	count    *counters

	mu      sync.Mutex
	boot    uint64
	version uint64
	docs    map[ec2.NodeID]*acceptedDocument
	wanted  map[ec2.NodeID]*wantedDocument
	epochs  map[uint64]bool // epochs of the leases that are down; replaced, never changed
	change  chan struct{}   // closed when epochs is replaced
}

// acceptedDocument is a document that passed accept, or this node's own.
type acceptedDocument struct {
	claim
	raw       []byte
	publicKey []byte     // checked its signature
	entries   []Presence // all entries of this node's own document; nil in others' documents
	down      []Presence
}

// wantedDocument is a document that another node claims and this node does not have.
type wantedDocument struct {
	claim
	claimedBy ec2.NodeID
	after     time.Time // earliest time of the next attempt
	failed    int       // attempts in a row without an answer
	fetching  bool
}

func newBoard(node ec2.NodeID, boot uint64, identity *peer.Identity, count *counters) *board {
	return &board{
		node: node, boot: boot, identity: identity, count: count,
		docs: map[ec2.NodeID]*acceptedDocument{}, wanted: map[ec2.NodeID]*wantedDocument{},
		epochs: map[uint64]bool{}, change: make(chan struct{}),
	}
}

// String lists each document with the interfaces that it reports down, then the wanted
// documents, then the epochs of the leases that are down.
func (b *board) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(b.docs)) {
		fmt.Fprintf(&text, "document %s down %v\n", b.docs[name].claim, b.docs[name].down)
	}
	for _, name := range slices.Sorted(maps.Keys(b.wanted)) {
		w := b.wanted[name]
		fmt.Fprintf(&text, "wanted %s claimed by %s, %d failed, fetching %t\n", w.claim, w.claimedBy, w.failed, w.fetching)
	}
	fmt.Fprintf(&text, "epochs down %v\n", slices.Sorted(maps.Keys(b.epochs)))
	return text.String()
}

// down returns the epochs of the leases whose own nodes report them down, and a channel
// that is closed when the map is replaced. The caller must not change the map.
func (b *board) down() (map[uint64]bool, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.epochs, b.change
}

// publish makes a document of entries and stores it as this node's newest. It returns false
// if its last document has the same entries.
func (b *board) publish(view *state.View, entries []Presence) (bool, error) {
	if len(entries) > maxEntries {
		b.count.tooLarge.Add(1)
		entries = slices.Clone(entries)
		slices.SortStableFunc(entries, Presence.compareDownFirst)
		entries = entries[:maxEntries]
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if own, ok := b.docs[b.node]; ok && slices.Equal(own.entries, entries) {
		return false, nil
	}
	if err := b.publishLocked(view, slices.Clone(entries)); err != nil {
		return false, err
	}
	b.updateDownLocked(view)
	return true, nil
}

func (b *board) publishLocked(view *state.View, entries []Presence) error {
	d := document{Node: b.node, Boot: b.boot, Version: b.version + 1, Applied: view.Index(), Interfaces: entries}
	raw, c, err := seal(b.identity, d)
	if err != nil {
		return err
	}
	b.version++
	b.docs[b.node] = &acceptedDocument{claim: c, raw: raw, publicKey: b.identity.PublicKey(), entries: entries, down: onlyDown(entries)}
	return nil
}

func onlyDown(entries []Presence) []Presence {
	return slices.DeleteFunc(slices.Clone(entries), func(p Presence) bool { return p.Up })
}

// ownClaim returns the claim of this node's document. Before the first document, only Node
// is set in it.
func (b *board) ownClaim() claim {
	b.mu.Lock()
	defer b.mu.Unlock()
	if own, ok := b.docs[b.node]; ok {
		return own.claim
	}
	return claim{Node: b.node}
}

// claims returns the claims of all documents that this node has, in the order of node names.
func (b *board) claims() []claim {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]claim, 0, len(b.docs))
	for _, name := range slices.Sorted(maps.Keys(b.docs)) {
		list = append(list, b.docs[name].claim)
	}
	return list
}

// sealed returns a node's sealed document, or false if this node does not have it.
func (b *board) sealed(node ec2.NodeID) ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	doc, ok := b.docs[node]
	if !ok {
		return nil, false
	}
	return doc.raw, true
}

// noteClaims stores, as wanted, the claims of documents that are newer than this node's copy.
// It reports whether it stored any.
func (b *board) noteClaims(view *state.View, claimedBy ec2.NodeID, claims []claim) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	anyNew := false
	for _, c := range claims {
		if c.Version == 0 {
			continue // c.Node has no document yet
		}
		if _, ok := memberRow(view, c.Node); !ok {
			b.count.unknown.Add(1)
			continue
		}
		if have, ok := b.latestLocked(c.Node); ok && !c.newer(have) {
			if have.Boot == c.Boot && have.Version == c.Version && have.Digest != c.Digest {
				b.count.replayed.Add(1) // one version with two contents
			}
			continue
		}
		if w, ok := b.wanted[c.Node]; ok && !c.newer(w.claim) {
			continue
		}
		w := &wantedDocument{claim: c, claimedBy: claimedBy}
		if before, ok := b.wanted[c.Node]; ok {
			w.fetching = before.fetching
		}
		b.wanted[c.Node] = w
		anyNew = true
	}
	return anyNew
}

// latestLocked returns the claim of the newest known document of a node, or false if there
// is none. For this node it always returns true: before the first document, the claim has
// only the boot.
func (b *board) latestLocked(node ec2.NodeID) (claim, bool) {
	if doc, ok := b.docs[node]; ok {
		return doc.claim, true
	}
	return claim{Node: node, Boot: b.boot}, node == b.node
}

// takeWanted returns the documents to fetch now, marked as being fetched, and the time until
// another attempt is due. After each attempt the caller calls fetched().
func (b *board) takeWanted(now time.Time) (list []wantedDocument, next time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next = time.Hour
	for _, w := range b.wanted {
		switch {
		case w.fetching:
		case w.after.After(now):
			next = min(next, w.after.Sub(now))
		default:
			w.fetching = true
			list = append(list, *w)
		}
	}
	return list, next
}

// fetched ends an attempt that takeWanted began. If a node answered, the document is no
// longer wanted, even if the answer was rejected: then the claim was false. Else the next
// attempt is due after wait.
func (b *board) fetched(w wantedDocument, answered bool, now time.Time, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	current, ok := b.wanted[w.Node]
	if !ok {
		return
	}
	current.fetching = false
	if have, ok := b.latestLocked(w.Node); ok && !current.newer(have) {
		delete(b.wanted, w.Node)
		return
	}
	if current.claim != w.claim {
		return // a newer claim arrived meanwhile
	}
	if answered {
		delete(b.wanted, w.Node)
		return
	}
	current.failed++
	current.after = now.Add(wait)
}

// accept checks a sealed document of node and stores it, or returns why it is rejected. It
// counts the result in Stats.
func (b *board) accept(view *state.View, node ec2.NodeID, raw []byte) error {
	err := b.checkAndStore(view, node, raw)
	switch {
	case err == nil:
		b.count.pulled.Add(1)
	case errors.Is(err, errForged):
		b.count.forged.Add(1)
	case errors.Is(err, errReplayed):
		b.count.replayed.Add(1)
	case errors.Is(err, errUnknown):
		b.count.unknown.Add(1)
	case errors.Is(err, errTooLarge):
		b.count.tooLarge.Add(1)
	}
	return err
}

func (b *board) checkAndStore(view *state.View, node ec2.NodeID, raw []byte) error {
	row, ok := memberRow(view, node)
	if !ok {
		return fmt.Errorf("%w: %s", errUnknown, node)
	}
	d, c, err := unseal(raw, b.identity.Cluster(), node, row.PublicKey)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if node == b.node {
		return b.raiseBootLocked(view, c)
	}
	have, known := b.docs[node]
	if known && bytes.Equal(have.publicKey, row.PublicKey) && !c.newer(have.claim) {
		return fmt.Errorf("%w: %s", errReplayed, c)
	}
	for _, p := range d.Interfaces {
		switch classify(view, node, p) {
		case noLease:
			b.count.unknown.Add(1)
		case otherLease:
			b.count.forged.Add(1)
		}
	}
	b.docs[node] = &acceptedDocument{claim: c, raw: bytes.Clone(raw), publicKey: row.PublicKey, down: onlyDown(d.Interfaces)}
	b.updateDownLocked(view)
	return nil
}

// raiseBootLocked is called when another node returns a document of this node. If that
// document is newer than this node's, an earlier start of the daemon made it and the clock
// was set back since. The other nodes would reject new documents as replays, so this node
// raises its boot above seen.Boot. An older document is errReplayed.
func (b *board) raiseBootLocked(view *state.View, seen claim) error {
	if latest, _ := b.latestLocked(b.node); !seen.newer(latest) {
		return fmt.Errorf("%w: %s of this node itself", errReplayed, seen)
	}
	b.boot = max(b.boot, seen.Boot+1)
	if own, ok := b.docs[b.node]; ok {
		return b.publishLocked(view, own.entries)
	}
	return nil
}

// applyView removes the documents of nodes that are no longer members or have another key,
// and recomputes from the remaining documents which leases are down in the new state.
func (b *board) applyView(view *state.View) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for node, doc := range b.docs {
		row, ok := memberRow(view, node)
		if node != b.node && (!ok || !bytes.Equal(row.PublicKey, doc.publicKey)) {
			delete(b.docs, node)
		}
	}
	for node := range b.wanted {
		if _, ok := memberRow(view, node); !ok {
			delete(b.wanted, node)
		}
	}
	b.updateDownLocked(view)
}

// updateDownLocked recomputes which leases are down. If that changes, it closes b.change.
func (b *board) updateDownLocked(view *state.View) {
	epochs := map[uint64]bool{}
	for node, doc := range b.docs {
		for _, p := range doc.down {
			if classify(view, node, p) == ownLease {
				epochs[p.Epoch] = true
			}
		}
	}
	if maps.Equal(epochs, b.epochs) {
		return
	}
	b.epochs = epochs
	close(b.change)
	b.change = make(chan struct{})
}

// leaseKind says which lease an entry of a document names.
type leaseKind uint8

const (
	noLease    leaseKind = iota // no lease in force that this node knows: it ended, or this node has not applied it yet
	otherLease                  // another node's lease, or one with another epoch or other addresses
	ownLease                    // the reporting node's own lease
)

func (k leaseKind) String() string { return [...]string{"no lease", "other lease", "own lease"}[k] }

// classify says which lease the entry p of node's document names. Only entries about the
// node's own leases are used, because otherwise one stolen key could take down every address.
func classify(view *state.View, node ec2.NodeID, p Presence) leaseKind {
	lease, ok := view.Interface(p.Interface)
	switch {
	case !ok || p.Epoch < lease.Epoch: // an interface of a VPC has several leases, one after another
		return noLease
	case lease.Node != node || lease.Epoch != p.Epoch || lease.Private != p.Private || lease.MAC != p.MAC:
		return otherLease
	case lease.State != ec2.Active:
		return noLease
	}
	return ownLease
}

// memberRow returns a node's row in the node table, or false if the node is not in the table
// or fenced.
func memberRow(view *state.View, node ec2.NodeID) (*ec2.Node, bool) {
	row, ok := view.Node(node)
	if !ok || !row.Member() {
		return nil, false
	}
	return row, true
}
