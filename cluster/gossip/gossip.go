// Package gossip spreads what each node knows of itself: which of its interfaces are up,
// and which log index its switch enforces. It is the only importer of hashicorp/memberlist.
//
// Gossip can report a leased address as down. It cannot give an address to a node: leases
// are in Raft.
//
// Read Gossip first, then presence.go and document.go (what a node signs), board.go (which
// documents are accepted, and what follows from them), pull.go (how documents are fetched),
// and memberlist.go, delegate.go and transport.go (the library and what surrounds it).
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

// Member is a node of the table as gossip sees it.
type Member struct {
	Node     ec2.NodeID `json:"node"`
	Gossip   string     `json:"gossip"`   // "alive", "suspect", "dead", or "unknown": never heard of
	Enforced uint64     `json:"enforced"` // the index that it said it goes by; up to some seconds old, and not signed
}

const (
	announceDelay  = 50 * time.Millisecond // a burst of changes is announced once
	enforcedEvery  = time.Second           // an enforced index by itself is announced no more often
	rejoinEvery    = 4 * time.Second       // and up to half as much again
	rejoinAtOnce   = 8                     // nodes
	pullTimeout    = 5 * time.Second
	pullsAtOnce    = 4
	pullRetryMax   = 30 * time.Second
	streamTimeout  = 3 * time.Second
	maxHeard       = 16      // lists of digests waiting to be read
	maxHeardBytes  = 1 << 20 // one of them: 5,000 nodes
	presenceMethod = "presence.get"
)

// Config is what a gossip works on. Required is what has no default.
type Config struct {
	Node      ec2.NodeID
	Boot      uint64         // default: the time, in ns. Above that of every earlier boot
	Identity  *peer.Identity // signs this node's document
	Address   netip.AddrPort // TCP and UDP
	Peer      *peer.Peer     // fetches documents; not yet running, so that a method can be added
	View      func() *state.View
	ViewMoved func() <-chan struct{} // closed by the next change of the View
	Enforced  func() uint64          // index this node's switch goes by. Default: the View's
	Logger    *slog.Logger
	GiveUp    time.Duration // how long memberlist itself calls a node that it holds dead. Default 30 s
}

// gossip tells the other nodes which of this node's interfaces are up, and learns it of
// theirs.
//
// It takes addresses out of groups, by down, and has no way to put one in: a lease is
// Raft's. What a node says of its own leases counts, signed with its key, whoever hands
// it on; what memberlist thinks of a node is for people to look at and changes nothing.
//
// run owns every goroutine but memberlist's, whose last end within a probe's timeout
// after it. memberlist calls back with its own lock held: a callback copies, hands off
// and returns. There is no gossip before the View has a key, none while this node is not
// a member, and none in the clear.
type Gossip struct {
	cfg   Config
	board *board
	count counters
	log   *log.Logger // memberlist's

	meta     atomic.Pointer[[]byte]
	sources  atomic.Pointer[sources]
	heard    chan []byte   // other nodes' lists of digests; full: dropped, the next exchange brings them again
	announce chan struct{} // the document changed
	pull     chan struct{} // the board wants something
	rejoin   chan struct{} // the node table changed

	mu   sync.Mutex
	seen map[ec2.NodeID]*seenMember // by memberlist; bounded by the node table, for it is asked first
	mine bool                       // memberlist runs
}

type seenMember struct {
	alive, suspect bool
	enforced       uint64
}

// New checks cfg, fills its defaults and adds a method to cfg.Peer. It starts nothing; Run does.
func New(cfg Config) (*Gossip, error) {
	if cfg.Node == "" || cfg.Identity == nil || cfg.Peer == nil || !cfg.Address.IsValid() || cfg.View == nil || cfg.ViewMoved == nil {
		return nil, errors.New("new gossip: Node, Identity, Peer, Address, View and ViewMoved are required")
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
		cfg:      cfg,
		heard:    make(chan []byte, maxHeard),
		announce: make(chan struct{}, 1),
		pull:     make(chan struct{}, 1),
		rejoin:   make(chan struct{}, 1),
		seen:     map[ec2.NodeID]*seenMember{},
	}
	g.board = newBoard(cfg.Node, cfg.Boot, cfg.Identity, &g.count)
	g.log = log.New(logWriter{g}, "", 0)
	g.sources.Store(&sources{})
	g.encodeMeta()
	cfg.Peer.Handle(presenceMethod, g.servePresence)
	return g, nil
}

// Run gossips until ctx ends. It is called once.
func (g *Gossip) Run(ctx context.Context) error {
	var pulls sync.WaitGroup
	pulls.Go(func() { g.runPull(ctx) })
	defer pulls.Wait()

	var s *session
	defer func() { g.end(s) }()
	due := time.NewTimer(time.Hour) // of an announcement
	defer due.Stop()
	announceAt := time.Now().Add(time.Hour)
	announceIn := func(d time.Duration) {
		if at := time.Now().Add(d); at.Before(announceAt) {
			announceAt = at
			due.Reset(d)
		}
	}
	for {
		moved := g.cfg.ViewMoved()
		view := g.cfg.View()
		var err error
		if s, err = g.follow(ctx, s, view); err != nil {
			return err
		}
		if g.metaLags(view) {
			announceIn(enforcedEvery)
		}
		for wait := true; wait; {
			select {
			case <-ctx.Done():
				return nil
			case <-moved:
				wait = false
			case list := <-g.heard:
				g.read(list)
			case <-g.announce:
				announceIn(announceDelay)
			case <-due.C:
				announceAt = time.Now().Add(time.Hour)
				due.Reset(time.Hour)
				g.advertise(s)
				if g.metaLags(g.cfg.View()) {
					announceIn(enforcedEvery)
				}
			}
		}
	}
}

// follow goes by a new View: who is a member, under which key, and whether this node is.
func (g *Gossip) follow(ctx context.Context, s *session, view *state.View) (*session, error) {
	g.board.follow(view)
	if g.allow(view) {
		poke(g.rejoin)
	}
	key := view.GossipKey()
	at, member := gossipAddress(view, g.cfg.Node)
	if len(key) == 0 || !member || at != g.cfg.Address {
		g.end(s)
		return nil, nil
	}
	if s == nil {
		return g.begin(ctx, key)
	}
	if !bytes.Equal(key, s.key) {
		return s, g.rotate(s, key)
	}
	return s, nil
}

// allow sets whose packets and streams are looked at, and reports whether that changed.
func (g *Gossip) allow(view *state.View) bool {
	was := g.sources.Load()
	is := &sources{packets: map[netip.AddrPort]bool{}, streams: map[netip.Addr]bool{}}
	changed := false
	for row := range view.Nodes() {
		at, ok := gossipAddress(view, row.ID)
		if !ok || row.ID == g.cfg.Node {
			continue
		}
		is.packets[at], is.streams[at.Addr()] = true, true
		changed = changed || !was.packets[at]
	}
	if !changed && len(is.packets) == len(was.packets) {
		return false
	}
	g.sources.Store(is)
	g.mu.Lock()
	defer g.mu.Unlock()
	for node := range g.seen {
		if _, ok := memberRow(view, node); !ok {
			delete(g.seen, node)
		}
	}
	return true
}

// gossipAddress is where a member gossips: the port above its peer address.
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
		g.cfg.Logger.Error("presence cannot be published", "node", g.cfg.Node, "err", err)
		return
	}
	if changed {
		poke(g.announce)
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
			if g.mine {
				m.Gossip = "alive"
			}
		} else if seen, ok := g.seen[row.ID]; ok {
			m.Enforced = seen.enforced
			switch {
			case !seen.alive:
				m.Gossip = "dead"
			case seen.suspect:
				m.Gossip = "suspect"
			default:
				m.Gossip = "alive"
			}
		}
		list = append(list, m)
	}
	return list
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been poked and has not looked yet
	}
}
