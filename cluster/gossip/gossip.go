// Package gossip spreads what each node reports of itself: which of its interfaces are up,
// and which log index its switch enforces. It is the only importer of hashicorp/memberlist.
//
// Gossip can report a leased address as down. It cannot give an address to a node, because
// leases are in the state that Raft replicates.
//
// Read Gossip first, then presence.go and document.go (what a node signs), board.go (which
// documents a node accepts, and which leases they report down), pull.go (how documents are
// fetched), and memberlist.go, delegate.go and transport.go (the library and our side of it).
package gossip

import (
	"bytes"
	"context"
	"errors"
	"log"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
)

// Member is a member of the cluster with its state in gossip.
type Member struct {
	Node     ec2.NodeID `json:"node"`
	Gossip   string     `json:"gossip"`   // "alive", "suspect", "dead", or "unknown": never heard of
	Enforced uint64     `json:"enforced"` // the index that its switch enforces, by its own report; some seconds old, and not signed
}

const (
	announceDelay  = 50 * time.Millisecond // wait after a change, so that several changes need one announcement
	enforcedEvery  = time.Second           // shortest time between announcements in which only the enforced index changed
	rejoinEvery    = 4 * time.Second       // plus a random time up to half of it
	rejoinAtOnce   = 8                     // nodes that one round of runRejoin calls
	pullTimeout    = 5 * time.Second
	pullsAtOnce    = 4
	pullRetryMax   = 30 * time.Second
	streamTimeout  = 3 * time.Second
	maxClaimLists  = 16      // lists of claims that may wait to be read
	maxListBytes   = 1 << 20 // length of one list of claims: 5,000 nodes
	presenceMethod = "presence.get"
)

// Config configures a Gossip.
type Config struct {
	// Node is this member's name. Required.
	Node ec2.NodeID
	// Boot numbers this start of the daemon. The other nodes ignore a document with a lower
	// Boot than the last. Default: the time in ns. If an earlier start had a higher Boot,
	// this node raises its own when it hears of the document of that start.
	Boot uint64
	// Identity signs this node's document. Required.
	Identity *peer.Identity
	// Address is where this node gossips, over UDP and TCP: its peer address with the next
	// port. Required. While the node table has another address, this node does not gossip.
	Address netip.AddrPort
	// Peer fetches documents. Required. New adds a handler to it, so call New before Peer.Run.
	Peer *peer.Peer
	// View returns the newest state. ViewChanged returns a channel that is closed at the
	// next change of the state. Required.
	View        func() *state.View
	ViewChanged func() <-chan struct{}
	// Keys returns the keys of a View that this node has: it encrypts with the first, and accepts all.
	// While there is none, this node does not gossip. Default: the key that an earlier release kept in
	// the State. KeysChanged signals that Keys returns others for the same View. Default: never.
	Keys        func(*state.View) [][]byte
	KeysChanged <-chan struct{}
	// Enforced returns the index that this node's switch enforces. Default: the index of
	// the View, which operators then see as enforced although the switch may lag.
	Enforced func() uint64
	// Logger receives changes of members and rejected documents. Default: nothing is logged.
	Logger *slog.Logger
	// ForgetDeadAfter is how long memberlist itself tries to reach a dead node; afterwards
	// only runRejoin does. Default 30 s. If it is shorter, gossip may notice the end of a
	// partition some seconds later.
	ForgetDeadAfter time.Duration
}

// Gossip tells the other nodes which of this node's interfaces are up, and learns which of
// theirs are.
//
// The Cluster owns it: Run starts and ends every goroutine except memberlist's, the last of
// which ends within a probe's timeout after Run. All methods may be called from any
// goroutine. mu guards members, running and keys; the board has its own mutex. Both are leaves: a
// goroutine that holds one takes no other and calls no other package. memberlist calls the
// delegate with memberlist's own lock held, so the delegate's methods do not block.
//
// Only documents decide which leases are down. A node's document counts only for leases of
// that node, and that node signs it, whichever node passes it on. Whether memberlist reports
// a node dead is for operators and decides nothing. A node does not gossip while its View
// has no gossip key or it is no member; it never sends in plain text.
type Gossip struct {
	cfg           Config
	board         *board
	count         counters
	memberlistLog *log.Logger

	meta       atomic.Pointer[[]byte]  // memberlist sends it with this node's address
	allowed    atomic.Pointer[sources] // the nodes whose packets and streams are read
	claimLists chan []byte             // lists from other nodes; when it is full, a list is dropped, and the next exchange repeats it
	announce   chan struct{}           // signals that the document changed
	pull       chan struct{}           // signals that the board wants documents
	rejoin     chan struct{}           // signals that the node table changed

	mu      sync.Mutex
	members map[ec2.NodeID]*memberState // memberlist's reports; only about nodes of the node table
	running bool                        // whether memberlist runs
	keys    [][]byte                    // that memberlist uses, the one that it encrypts with first
}

type memberState struct {
	alive, suspect bool
	enforced       uint64
}

// New checks cfg, fills its defaults and adds a handler to cfg.Peer. It starts nothing; Run
// does.
func New(cfg Config) (*Gossip, error) {
	if cfg.Node == "" || cfg.Identity == nil || cfg.Peer == nil || !cfg.Address.IsValid() || cfg.View == nil || cfg.ViewChanged == nil {
		return nil, errors.New("new gossip: Node, Identity, Peer, Address, View and ViewChanged are required")
	}
	if cfg.Boot == 0 {
		cfg.Boot = uint64(time.Now().UnixNano())
	}
	if cfg.Enforced == nil {
		cfg.Enforced = func() uint64 { return cfg.View().Index() }
	}
	if cfg.Keys == nil {
		cfg.Keys = func(v *state.View) [][]byte {
			if key := v.GossipKey(); len(key) > 0 {
				return [][]byte{key}
			}
			return nil
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Gossip{
		cfg:        cfg,
		claimLists: make(chan []byte, maxClaimLists),
		announce:   make(chan struct{}, 1),
		pull:       make(chan struct{}, 1),
		rejoin:     make(chan struct{}, 1),
		members:    map[ec2.NodeID]*memberState{},
	}
	g.board = newBoard(cfg.Node, cfg.Boot, cfg.Identity, &g.count)
	g.memberlistLog = log.New(logWriter{g}, "", 0)
	g.allowed.Store(&sources{})
	g.updateMeta()
	cfg.Peer.Handle(presenceMethod, g.servePresence)
	return g, nil
}

// Run gossips until ctx ends. Call it only once.
func (g *Gossip) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var pulls sync.WaitGroup
	pulls.Go(func() { g.runPull(ctx) })
	defer pulls.Wait()
	defer cancel() // before Wait, also if Run ends with an error

	var a *activeList
	defer func() { g.stopList(a) }()
	announceTimer := time.NewTimer(time.Hour)
	defer announceTimer.Stop()
	announceAt := time.Now().Add(time.Hour)
	announceIn := func(d time.Duration) {
		if at := time.Now().Add(d); at.Before(announceAt) {
			announceAt = at
			announceTimer.Reset(d)
		}
	}
	for {
		viewChanged := g.cfg.ViewChanged()
		view := g.cfg.View()
		var err error
		if a, err = g.applyView(ctx, a, view); err != nil {
			return err
		}
		if g.metaIsOld(view) {
			announceIn(enforcedEvery)
		}
		for sameView := true; sameView; {
			select {
			case <-ctx.Done():
				return nil
			case <-viewChanged:
				sameView = false
			case <-g.cfg.KeysChanged:
				sameView = false
			case list := <-g.claimLists:
				g.readClaims(list)
			case <-g.announce:
				announceIn(announceDelay)
			case <-announceTimer.C:
				announceAt = time.Now().Add(time.Hour)
				announceTimer.Reset(time.Hour)
				g.advertise(a)
				if g.metaIsOld(g.cfg.View()) {
					announceIn(enforcedEvery)
				}
			}
		}
	}
}

// applyView follows a new View: it starts memberlist, changes its key, or stops it if this
// node may not gossip. It returns the activeList, or nil if memberlist does not run.
func (g *Gossip) applyView(ctx context.Context, a *activeList, view *state.View) (*activeList, error) {
	g.board.applyView(view)
	if g.updateSources(view) {
		signal(g.rejoin)
	}
	keys := g.cfg.Keys(view)
	at, member := gossipAddress(view, g.cfg.Node)
	if len(keys) == 0 || !member || at != g.cfg.Address {
		g.stopList(a)
		return nil, nil
	}
	if a == nil {
		return g.startList(ctx, keys)
	}
	if !slices.EqualFunc(keys, g.Keys(), bytes.Equal) {
		return a, g.changeKeys(a, keys)
	}
	return a, nil
}

// updateSources makes the other members the only nodes whose packets and streams are read. It
// reports whether that is a change.
func (g *Gossip) updateSources(view *state.View) bool {
	before := g.allowed.Load()
	after := &sources{packets: map[netip.AddrPort]bool{}, streams: map[netip.Addr]bool{}}
	changed := false
	for row := range view.Nodes() {
		at, ok := gossipAddress(view, row.ID)
		if !ok || row.ID == g.cfg.Node {
			continue
		}
		after.packets[at], after.streams[at.Addr()] = true, true
		changed = changed || !before.packets[at]
	}
	if !changed && len(after.packets) == len(before.packets) {
		return false
	}
	g.allowed.Store(after)
	g.mu.Lock()
	defer g.mu.Unlock()
	for node := range g.members {
		if _, ok := memberRow(view, node); !ok {
			delete(g.members, node)
		}
	}
	return true
}

// gossipAddress returns where a member gossips: its peer address with the next port. It
// returns false for a node that is no member or has no valid address.
func gossipAddress(view *state.View, node ec2.NodeID) (netip.AddrPort, bool) {
	row, ok := memberRow(view, node)
	if !ok {
		return netip.AddrPort{}, false
	}
	at, err := netip.ParseAddrPort(row.Address)
	if err != nil || at.Port() == 0xffff {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()+1), true
}

// SetPresence replaces what this node publishes: for each of its interfaces, the lease and
// whether the link is up.
func (g *Gossip) SetPresence(entries []Presence) {
	changed, err := g.board.publish(g.cfg.View(), entries)
	if err != nil {
		g.cfg.Logger.Error("presence was not published", "node", g.cfg.Node, "err", err)
		return
	}
	if changed {
		signal(g.announce)
	}
}

// Down returns the epochs of the leases whose own node reports them down, and a channel
// that is closed when the map is replaced. A lease of which nothing is known counts as up.
// The caller must not change the map.
func (g *Gossip) Down() (epochs map[uint64]bool, changed <-chan struct{}) { return g.board.down() }

// Stats returns what was counted since New.
func (g *Gossip) Stats() Stats { return g.count.stats() }

// Keys returns the keys that this node's gossip uses: it encrypts with the first, and accepts all. It
// is empty while this node does not gossip. The caller must not change them.
func (g *Gossip) Keys() [][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.keys
}

// Members returns the nodes of the node table that are not fenced, with the state that
// memberlist reports for each. It is for operators; no decision depends on it.
func (g *Gossip) Members() []Member {
	view := g.cfg.View()
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Member
	for row := range view.Nodes() {
		if _, ok := memberRow(view, row.ID); !ok {
			continue
		}
		m := Member{Node: row.ID, Gossip: "unknown"}
		if row.ID == g.cfg.Node {
			m.Enforced = g.cfg.Enforced()
			if g.running {
				m.Gossip = "alive"
			}
		} else if reported, ok := g.members[row.ID]; ok {
			m.Enforced = reported.enforced
			switch {
			case !reported.alive:
				m.Gossip = "dead"
			case reported.suspect:
				m.Gossip = "suspect"
			default:
				m.Gossip = "alive"
			}
		}
		list = append(list, m)
	}
	return list
}

// signal wakes the reader of c, which has capacity 1. It does not block.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // an earlier signal has not been read yet
	}
}
