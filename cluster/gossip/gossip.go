// Package gossip spreads what each node knows of itself: which of its interfaces are up,
// and which log index its switch enforces. It is the only importer of hashicorp/memberlist.
//
// Gossip can report a leased address as down. It cannot give an address to a node: leases
// are in Raft.
//
// Read Gossip first, then presence.go and document.go (what a node signs), board.go (which
// documents a node accepts, and which leases are down by them), pull.go (how documents are
// fetched), and memberlist.go, delegate.go and transport.go (the library and our side of it).
package gossip

import (
	"bytes"
	"context"
	"errors"
	"log"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
)

// Member is a node with its state in gossip.
type Member struct {
	Node     ec2.NodeID `json:"node"`
	Gossip   string     `json:"gossip"`   // "alive", "suspect", "dead", or "unknown": never heard of
	Enforced uint64     `json:"enforced"` // the index that it reports to enforce; some seconds old, and not signed
}

const (
	announceDelay  = 50 * time.Millisecond // collects a burst of changes into one announcement
	enforcedEvery  = time.Second           // shortest time between announcements of the enforced index alone
	rejoinEvery    = 4 * time.Second       // plus a random time up to half of it
	rejoinAtOnce   = 8                     // nodes
	pullTimeout    = 5 * time.Second
	pullsAtOnce    = 4
	pullRetryMax   = 30 * time.Second
	streamTimeout  = 3 * time.Second
	maxClaimLists  = 16      // lists of claims that wait to be read
	maxListBytes   = 1 << 20 // of one list: 5,000 nodes
	presenceMethod = "presence.get"
)

// Config says what a Gossip works with.
type Config struct {
	// Node is this member's name. Required.
	Node ec2.NodeID
	// Boot numbers this start of the daemon; the other nodes ignore documents of a lower
	// one. Default: the time in ns. If it is lower than that of an earlier start, this node
	// raises it when it hears of its own old document.
	Boot uint64
	// Identity signs this node's document. Required.
	Identity *peer.Identity
	// Address is where this node gossips, over UDP and TCP: its peer address with the next
	// port. Required. While the node table implies another one, this node does not gossip.
	Address netip.AddrPort
	// Peer fetches documents. Required; New adds a method to it, so its Run comes later.
	Peer *peer.Peer
	// View returns the newest state, and ViewChanged a channel that the next change of it
	// closes. Required.
	View        func() *state.View
	ViewChanged func() <-chan struct{}
	// Enforced returns the index that this node's switch enforces. Default: the View's,
	// which operators may then read too early as enforced.
	Enforced func() uint64
	// Logger gets changes of members and rejected documents. Default: nothing is logged.
	Logger *slog.Logger
	// ForgetDeadAfter is how long memberlist itself calls a dead node; afterwards only
	// runRejoin does. Default 30 s. If it is short, a healed partition may be noticed some
	// seconds later.
	ForgetDeadAfter time.Duration
}

// Gossip tells the other nodes which of this node's interfaces are up, and learns the same
// of theirs.
//
// The Cluster owns it: Run starts and ends every goroutine except memberlist's, the last of
// which ends within a probe's timeout after Run. All methods may be called from any
// goroutine. mu guards members and running; the board has its own mutex. Both are leaves:
// no goroutine holds two, or calls out while it holds one. memberlist calls the delegate
// with memberlist's own lock held, so the delegate copies, hands off and returns.
//
// Only documents change what is down, and a node's document reports only leases of that
// node, under its signature, whichever node passes it on. What memberlist thinks of a node
// is for operators and changes nothing. A node does not gossip before its View has a key
// or while it is no member; it never sends in plain text.
type Gossip struct {
	cfg           Config
	board         *board
	count         counters
	memberlistLog *log.Logger

	meta       atomic.Pointer[[]byte]  // what memberlist sends with this node's address
	allowed    atomic.Pointer[sources] // whose packets and streams are read
	claimLists chan []byte             // of other nodes; when full, a list is dropped: the next exchange repeats it
	announce   chan struct{}           // signals that the document changed
	pull       chan struct{}           // signals that the board wants documents
	rejoin     chan struct{}           // signals that the node table changed

	mu      sync.Mutex
	members map[ec2.NodeID]*memberState // as memberlist reports them; only nodes of the node table
	running bool                        // memberlist runs
}

type memberState struct {
	alive, suspect bool
	enforced       uint64
}

// New checks cfg, fills its defaults and adds a method to cfg.Peer. It starts nothing; Run does.
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

// Run gossips until ctx ends. It is called once.
func (g *Gossip) Run(ctx context.Context) error {
	var pulls sync.WaitGroup
	pulls.Go(func() { g.runPull(ctx) })
	defer pulls.Wait()

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

// applyView takes over a new View: the members, the gossip key, and whether this node may
// gossip.
func (g *Gossip) applyView(ctx context.Context, a *activeList, view *state.View) (*activeList, error) {
	g.board.applyView(view)
	if g.updateSources(view) {
		signal(g.rejoin)
	}
	key := view.GossipKey()
	at, member := gossipAddress(view, g.cfg.Node)
	if len(key) == 0 || !member || at != g.cfg.Address {
		g.stopList(a)
		return nil, nil
	}
	if a == nil {
		return g.startList(ctx, key)
	}
	if !bytes.Equal(key, a.key) {
		return a, g.rotateKey(a, key)
	}
	return a, nil
}

// updateSources sets whose packets and streams are read, and reports whether that changed.
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

// gossipAddress is where a member gossips: its peer address with the next port.
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

// SetPresence publishes the leases of this node's interfaces, up and down, in place of the
// entries before.
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
// that is closed when that set changes. An unknown lease counts as up. The caller must not
// change the map.
func (g *Gossip) Down() (epochs map[uint64]bool, changed <-chan struct{}) { return g.board.down() }

// Stats returns the counters since New.
func (g *Gossip) Stats() Stats { return g.count.stats() }

// Members lists the node table without fenced nodes, with the state that memberlist reports
// for each. It is for operators; no decision depends on it.
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

// signal wakes the reader of a channel with room for one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // an earlier signal has not been read yet
	}
}
