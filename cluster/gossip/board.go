package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
)

// A board holds the newest document of every node and what follows from them: which
// leases are down.
//
// Its mutex is a leaf. It knows no network; gossip brings it claims, fetches what it
// wants, and hands it what came. Its size is bounded by the node table: nothing is kept
// of a node that is not a member.
type board struct {
	node     ec2.NodeID
	identity *peer.Identity
	count    *counters

	mu      sync.Mutex
	boot    uint64
	version uint64
	docs    map[ec2.NodeID]*posted
	wanted  map[ec2.NodeID]*want
	epochs  map[uint64]bool // down; replaced, never changed
	change  chan struct{}   // closed when epochs is replaced
}

// posted is a document that was believed.
type posted struct {
	claim
	raw       []byte
	publicKey []byte     // it was believed by
	entries   []Presence // what the node said itself; nil for others
	down      []Presence
}

// want is a document that somebody claims to have and this node has not.
type want struct {
	claim
	shownBy ec2.NodeID
	after   time.Time // not to be asked for before
	failed  int       // attempts in a row that nobody answered
	asking  bool
}

func newBoard(node ec2.NodeID, boot uint64, identity *peer.Identity, count *counters) *board {
	return &board{
		node: node, boot: boot, identity: identity, count: count,
		docs: map[ec2.NodeID]*posted{}, wanted: map[ec2.NodeID]*want{},
		epochs: map[uint64]bool{}, change: make(chan struct{}),
	}
}

// down returns the epochs of the leases that their own nodes say are down, and what is
// closed when that changes. The map is not to be changed.
func (b *board) down() (map[uint64]bool, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.epochs, b.change
}

// publish makes what this node says its newest document, and reports whether it differs
// from the one before.
func (b *board) publish(view *state.View, entries []Presence) (bool, error) {
	if len(entries) > maxEntries {
		b.count.tooLarge.Add(1)
		entries = slices.Clone(entries)
		slices.SortStableFunc(entries, Presence.compareDownFirst)
		entries = entries[:maxEntries]
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if mine, ok := b.docs[b.node]; ok && slices.Equal(mine.entries, entries) {
		return false, nil
	}
	if err := b.publishLocked(view, slices.Clone(entries)); err != nil {
		return false, err
	}
	b.judgeLocked(view)
	return true, nil
}

func (b *board) publishLocked(view *state.View, entries []Presence) error {
	d := document{Node: b.node, Boot: b.boot, Version: b.version + 1, Applied: view.Index(), Interfaces: entries}
	raw, c, err := seal(b.identity, d)
	if err != nil {
		return err
	}
	b.version++
	b.docs[b.node] = &posted{claim: c, raw: raw, publicKey: b.identity.PublicKey(), entries: entries, down: onlyDown(entries)}
	return nil
}

func onlyDown(entries []Presence) []Presence {
	return slices.DeleteFunc(slices.Clone(entries), func(p Presence) bool { return p.Up })
}

// own is the claim of this node's document; zero before the first.
func (b *board) own() claim {
	b.mu.Lock()
	defer b.mu.Unlock()
	if mine, ok := b.docs[b.node]; ok {
		return mine.claim
	}
	return claim{Node: b.node}
}

// claims name every document that this node has.
func (b *board) claims() []claim {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]claim, 0, len(b.docs))
	for _, name := range slices.Sorted(maps.Keys(b.docs)) {
		list = append(list, b.docs[name].claim)
	}
	return list
}

// raw is the sealed document of a node, for another to fetch.
func (b *board) raw(node ec2.NodeID) ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	doc, ok := b.docs[node]
	if !ok {
		return nil, false
	}
	return doc.raw, true
}

// hear takes claims that shownBy makes, and reports whether there is something to ask
// for now.
func (b *board) hear(view *state.View, shownBy ec2.NodeID, claims []claim) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	news := false
	for _, c := range claims {
		if c.Version == 0 {
			continue // has no document yet
		}
		if _, ok := memberRow(view, c.Node); !ok {
			b.count.unknown.Add(1)
			continue
		}
		if have, ok := b.latestLocked(c.Node); ok && !c.newer(have) {
			if have.Boot == c.Boot && have.Version == c.Version && have.Digest != c.Digest {
				b.count.replayed.Add(1) // one version, two contents
			}
			continue
		}
		if w, ok := b.wanted[c.Node]; ok && !c.newer(w.claim) {
			continue
		}
		w := &want{claim: c, shownBy: shownBy}
		if was, ok := b.wanted[c.Node]; ok {
			w.asking, w.failed = was.asking, 0
		}
		b.wanted[c.Node] = w
		news = true
	}
	return news
}

// latestLocked is the newest version known of a node's document. Of its own, a node knows
// before it has published any.
func (b *board) latestLocked(node ec2.NodeID) (claim, bool) {
	if doc, ok := b.docs[node]; ok {
		return doc.claim, true
	}
	return claim{Node: node, Boot: b.boot}, node == b.node
}

// due returns what is to be asked for now, marked as being asked for, and when to look
// again.
func (b *board) due(now time.Time) (list []want, next time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next = time.Hour
	for _, w := range b.wanted {
		switch {
		case w.asking:
		case w.after.After(now):
			next = min(next, w.after.Sub(now))
		default:
			w.asking = true
			list = append(list, *w)
		}
	}
	return list, next
}

// asked ends what due began. A want that somebody answered is settled, whatever the
// answer was: a claim beyond what its owner has was made up.
func (b *board) asked(w want, answered bool, now time.Time, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	is, ok := b.wanted[w.Node]
	if !ok {
		return
	}
	is.asking = false
	if have, ok := b.latestLocked(w.Node); ok && !is.newer(have) {
		delete(b.wanted, w.Node)
		return
	}
	if is.claim != w.claim {
		return // a newer claim came meanwhile
	}
	if answered {
		delete(b.wanted, w.Node)
		return
	}
	is.failed++
	is.after = now.Add(wait)
}

// accept judges a sealed document that is said to be of node, and posts it.
func (b *board) accept(view *state.View, node ec2.NodeID, raw []byte) error {
	err := b.acceptCounted(view, node, raw)
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

func (b *board) acceptCounted(view *state.View, node ec2.NodeID, raw []byte) error {
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
	have, known := b.docs[node]
	if node == b.node {
		return b.outrankLocked(view, c)
	}
	if known && bytes.Equal(have.publicKey, row.PublicKey) && !c.newer(have.claim) {
		return fmt.Errorf("%w: %s, boot %d version %d", errReplayed, node, c.Boot, c.Version)
	}
	for _, p := range d.Interfaces {
		switch judge(view, node, p) {
		case notLeased:
			b.count.unknown.Add(1)
		case notItsOwn:
			b.count.forged.Add(1)
		}
	}
	b.docs[node] = &posted{claim: c, raw: bytes.Clone(raw), publicKey: row.PublicKey, down: onlyDown(d.Interfaces)}
	b.judgeLocked(view)
	return nil
}

// outrankLocked meets a document of this node's own from a boot that seems later than
// this one: the clock was set back in between. All others would take what is said now
// for a replay, so this boot moves above that one.
func (b *board) outrankLocked(view *state.View, seen claim) error {
	if latest, _ := b.latestLocked(b.node); !seen.newer(latest) {
		return fmt.Errorf("%w: %s, its own", errReplayed, b.node)
	}
	b.boot = max(b.boot, seen.Boot+1)
	if mine, ok := b.docs[b.node]; ok {
		return b.publishLocked(view, mine.entries)
	}
	return nil
}

// follow drops the documents of nodes that are no members any more, or have another
// key, and judges all others by the new state.
func (b *board) follow(view *state.View) {
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
	b.judgeLocked(view)
}

// judgeLocked works out which leases are down.
func (b *board) judgeLocked(view *state.View) {
	epochs := map[uint64]bool{}
	for node, doc := range b.docs {
		for _, p := range doc.down {
			if judge(view, node, p) == itsOwn {
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

// What an entry of a node's document is about.
type subject uint8

const (
	notLeased subject = iota // no lease in force that this node knows: it may come, or be gone
	notItsOwn                // another node's lease, or not with that epoch and these addresses
	itsOwn
)

// judge compares an entry with the lease it names. A node speaks for its own leases and
// for no others, or one stolen key could take every address out.
func judge(view *state.View, node ec2.NodeID, p Presence) subject {
	lease, ok := view.Interface(p.Interface)
	switch {
	case !ok || p.Epoch < lease.Epoch: // an interface of a VPC was active before
		return notLeased
	case lease.Node != node || lease.Epoch != p.Epoch || lease.Private != p.Private || lease.MAC != p.MAC:
		return notItsOwn
	case lease.State != ec2.Active:
		return notLeased
	}
	return itsOwn
}

// memberRow is the row of a node that may speak.
func memberRow(view *state.View, node ec2.NodeID) (*ec2.Node, bool) {
	row, ok := view.Node(node)
	if !ok || !row.Member() {
		return nil, false
	}
	return row, true
}
