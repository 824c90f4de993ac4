// Package peer is how the nodes of a cluster know and reach each other.
//
// An Identity is a node's key and its certificate by the cluster's own authority, made by
// Init or Join. A Token admits one node, once. A Peer carries streams and calls between
// nodes, in mutual TLS 1.3. The certificate says who a node is; that it still is a member
// the Directory says, at every connection: a certificate alone opens nothing.
package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Protocols, as ALPN names them. Join is the only one without a client's certificate, and
// like RPC is served by Peer itself.
const (
	ProtocolRaft   = "palisade-raft/1"
	ProtocolTunnel = "palisade-tunnel/1"
	ProtocolRPC    = "palisade-rpc/1"
	ProtocolJoin   = "palisade-join/1"
)

const (
	handshakeTimeout = 5 * time.Second
	maxStrangers     = 64  // connections that have not shown who they are; the oldest gives way
	maxConns         = 256 // with one node, in both directions; more are refused
)

// Directory is the table of nodes. Its methods are called at every handshake, from many
// goroutines, and must not block.
type Directory interface {
	Check(node string, publicKey []byte) error // nil: node is a member with that key (PKIX DER)
	Address(node string) (string, bool)        // host:port
}

// Config says who a Peer is and where it listens.
type Config struct {
	// Identity has this node's key and certificate. Required.
	Identity *Identity
	// Listen is the address and port of this node, over TCP. Required. With port 0 the kernel
	// chooses one; see Addr. With an address that the other nodes do not reach, they cannot
	// call this node.
	Listen netip.AddrPort
	// Nodes is the table of members. Required. A node that is missing in it is refused.
	Nodes Directory
	// Logger gets refused nodes and failed connections. Default: slog.Default().
	Logger *slog.Logger
}

// Peer carries streams and calls between this node and the others.
//
// Every connection is in conns from when its handshake is over until it is closed, so that
// Drop finds it. All methods may be called by many goroutines, but what says "before Run".
// The mutex is a leaf.
type Peer struct {
	id        *Identity
	nodes     Directory
	log       *slog.Logger
	socket    net.Listener
	transport *http.Transport
	strangers strangers
	refusals  refusals
	joining   chan struct{} // a slot for each request to join under way

	// Set before Run, read only from then on.
	listeners map[string]*listener
	handlers  map[string]Handler
	admit     func(context.Context, JoinRequest) (JoinAnswer, error)

	life context.Context // ends with Run, or Close
	end  context.CancelFunc
	work sync.WaitGroup // calls being answered, and dials; see begin

	mu struct {
		sync.Mutex
		running bool
		closed  bool
		conns   map[string]map[*Conn]struct{} // by node
	}
}

// New binds the address, and starts nothing: connections wait until Run.
func New(c Config) (*Peer, error) {
	if c.Identity == nil || c.Nodes == nil {
		return nil, errors.New("a peer needs an identity and a directory")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	config := net.ListenConfig{KeepAliveConfig: keepAlive}
	socket, err := config.Listen(context.Background(), "tcp", c.Listen.String())
	if err != nil {
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	p := &Peer{
		id:        c.Identity,
		nodes:     c.Nodes,
		log:       c.Logger,
		socket:    socket,
		joining:   make(chan struct{}, maxJoining),
		listeners: map[string]*listener{},
		handlers:  map[string]Handler{},
	}
	p.life, p.end = context.WithCancel(context.Background())
	p.mu.conns = map[string]map[*Conn]struct{}{}
	p.transport = p.newTransport()
	p.Listener(ProtocolRPC)
	p.Listener(ProtocolJoin)
	return p, nil
}

// Addr is where p listens.
func (p *Peer) Addr() netip.AddrPort { return p.socket.Addr().(*net.TCPAddr).AddrPort() }

// Listener accepts the streams of a protocol. Call it before Run, once for a protocol;
// accept without delay, for a stream that nobody takes is closed. Every connection is a
// *Conn. After Close the protocol's connections are closed as they come.
func (p *Peer) Listener(protocol string) net.Listener {
	p.mustNotRun()
	if p.listeners[protocol] != nil {
		panic("peer: two listeners for " + protocol)
	}
	l := &listener{addr: p.socket.Addr(), conns: make(chan *Conn), done: make(chan struct{})}
	p.listeners[protocol] = l
	return l
}

// Run serves until ctx ends, then closes every connection, and returns when all that it
// started and every call and dial has ended. A Peer runs once.
func (p *Peer) Run(ctx context.Context) error {
	p.mu.Lock()
	if p.mu.running || p.mu.closed {
		p.mu.Unlock()
		return errors.New("a peer runs once")
	}
	p.mu.running = true
	p.mu.Unlock()

	rpc, join := p.rpcServer(), p.joinServer()
	var wg sync.WaitGroup
	wg.Go(func() { rpc.Serve(p.listeners[ProtocolRPC]) })
	wg.Go(func() { join.Serve(p.listeners[ProtocolJoin]) })
	stop := context.AfterFunc(ctx, func() { p.socket.Close() })
	err := p.runAccept()
	stop()
	rpc.Close()
	join.Close()
	wg.Wait()
	p.work.Wait()
	p.transport.CloseIdleConnections()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Close ends every connection and refuses more. Run does this at its end; it is for a Peer
// that is never run.
func (p *Peer) Close() error {
	p.mu.Lock()
	p.mu.closed = true
	var conns []*Conn
	for _, set := range p.mu.conns {
		for c := range set {
			conns = append(conns, c)
		}
	}
	p.mu.Unlock()
	p.end()
	err := p.socket.Close()
	for _, l := range p.listeners {
		l.Close()
	}
	p.strangers.close()
	for _, c := range conns {
		c.abort()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Drop closes every connection with node, in both directions. Call it when the Directory
// refuses the node already: one whose handshake is just under way then is refused too.
func (p *Peer) Drop(node string) {
	p.mu.Lock()
	conns := make([]*Conn, 0, len(p.mu.conns[node]))
	for c := range p.mu.conns[node] {
		conns = append(conns, c)
	}
	p.mu.Unlock()
	for _, c := range conns {
		c.abort()
	}
}

// begin counts a piece of work that Run waits for, unless it is over.
func (p *Peer) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return false
	}
	p.work.Add(1)
	return true
}

// enter puts c among the connections with its node. The Directory is asked once more when
// c can be found by Drop: whatever changed since the handshake, one of the two sees it.
func (p *Peer) enter(c *Conn) error {
	if err := p.track(c); err != nil {
		return err
	}
	if err := p.nodes.Check(c.node, c.publicKey); err != nil {
		return err
	}
	return nil
}

func (p *Peer) track(c *Conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.mu.conns[c.node]
	switch {
	case p.mu.closed:
		return net.ErrClosed
	case len(set) >= maxConns:
		return fmt.Errorf("%d connections with %s are open already", len(set), c.node)
	case set == nil:
		set = map[*Conn]struct{}{}
		p.mu.conns[c.node] = set
	}
	set[c] = struct{}{}
	return nil
}

func (p *Peer) forget(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mu.conns[c.node], c)
	if len(p.mu.conns[c.node]) == 0 {
		delete(p.mu.conns, c.node)
	}
}

func (p *Peer) mustNotRun() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.running {
		panic("peer: changed after Run began")
	}
}

// protocols are those of members.
func (p *Peer) protocols() []string {
	var all []string
	for protocol := range p.listeners {
		if protocol != ProtocolJoin {
			all = append(all, protocol)
		}
	}
	slices.Sort(all)
	return all
}

// refusals keeps strangers from filling the log: one line a second.
type refusals struct {
	sync.Mutex
	last    time.Time
	skipped int
}

func (p *Peer) refuse(remote net.Addr, err error) {
	p.refusals.Lock()
	defer p.refusals.Unlock()
	if now := time.Now(); now.Sub(p.refusals.last) >= time.Second {
		p.log.Warn("refused a connection", "from", remote.String(), "err", err, "skipped", p.refusals.skipped)
		p.refusals.last, p.refusals.skipped = now, 0
		return
	}
	p.refusals.skipped++
}
