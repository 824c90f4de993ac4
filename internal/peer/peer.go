// Package peer authenticates and connects the nodes of a cluster.
//
// An Identity is a node's key, with a certificate that the cluster's own authority signed. Init
// and Join create it. A Token admits one node, once. A Peer carries streams and calls between
// nodes over mutual TLS 1.3. The certificate proves the node's name. At every connection Peer
// also asks the Directory whether the node is a member, so a certificate alone is not enough.
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

// ALPN names of the protocols. Only Join works without a client certificate. Renew takes certificates of
// members' keys from any authority. Peer itself serves Join, RPC and Renew.
const (
	ProtocolRaft   = "palisade-raft/1"
	ProtocolTunnel = "palisade-tunnel/1"
	ProtocolRPC    = "palisade-rpc/1"
	ProtocolJoin   = "palisade-join/1"
	ProtocolRenew  = "palisade-renew/1"
)

const (
	handshakeTimeout = 5 * time.Second
	maxPending       = 64  // connections that are not authenticated yet; when there are more, the oldest is closed
	maxConns         = 256 // connections with one node, in both directions; more are refused
)

// Directory is the table of nodes. Its methods are called at every handshake, from many
// goroutines, and must not block.
type Directory interface {
	Check(node string, publicKey []byte) error // nil if node is a member with this key (PKIX DER)
	Address(node string) (string, bool)        // host:port; false if unknown
}

// Config configures a Peer.
type Config struct {
	// Identity has this node's key and certificate. Required.
	Identity *Identity
	// Listen is the TCP address on which Peer listens. Required. With port 0 the kernel
	// chooses a port; see Addr. If the other nodes cannot reach the address, they cannot call
	// this node.
	Listen netip.AddrPort
	// Nodes is the table of members. Required. Peer refuses a node that is not in it.
	Nodes Directory
	// Logger receives admitted and refused nodes. Default: slog.Default().
	Logger *slog.Logger
}

// Peer carries streams and calls between this node and the others. The node owns it.
//
// Every connection is in conns from the end of its handshake until it is closed, so that
// Drop finds it. All methods are safe for any number of goroutines, except Listener, Limit,
// Handle and HandleJoin, which must be called before Run. Run owns all goroutines and waits for
// them. Lock order: mu and the mutexes of pending and refusals are leaves; no goroutine holds
// two.
type Peer struct {
	id        *Identity
	nodes     Directory
	log       *slog.Logger
	socket    net.Listener
	transport *http.Transport // of calls
	renewals  *http.Transport // of AskRenewal
	pending   pending
	refusals  refusals
	joining   chan struct{} // holds a slot for each request to join that is being judged

	// Read-only after Run has begun.
	listeners map[string]*listener
	limits    map[string]func(node string, publicKey []byte) error // who may open a stream, by protocol
	handlers  map[string]Handler
	admit     func(context.Context, JoinRequest) (JoinAnswer, error)

	life context.Context // ended by Close, which Run calls at its end
	end  context.CancelFunc
	work sync.WaitGroup // the calls that this node is answering, and its dials; see begin

	mu struct {
		sync.Mutex
		running bool
		closed  bool
		conns   map[string]map[*Conn]struct{} // by node
	}
}

// New binds the address and starts nothing. Connections wait in the kernel until Run.
func New(c Config) (*Peer, error) {
	if c.Identity == nil || c.Nodes == nil {
		return nil, errors.New("peer: Config needs Identity and Nodes")
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
		limits:    map[string]func(string, []byte) error{},
		handlers:  map[string]Handler{},
	}
	p.life, p.end = context.WithCancel(context.Background())
	p.mu.conns = map[string]map[*Conn]struct{}{}
	p.transport, p.renewals = p.newTransport(ProtocolRPC), p.newTransport(ProtocolRenew)
	p.Listener(ProtocolRPC)
	p.Listener(ProtocolRenew)
	p.Listener(ProtocolJoin)
	return p, nil
}

// Addr returns the address on which p listens.
func (p *Peer) Addr() netip.AddrPort { return p.socket.Addr().(*net.TCPAddr).AddrPort() }

// Listener returns a listener for the streams of a protocol; every connection that it returns is a
// *Conn. Call Listener before Run, and only once for a protocol. Peer closes a stream that is not
// accepted within 5 s, and every new stream after the listener was closed.
func (p *Peer) Listener(protocol string) net.Listener {
	p.mustNotRun()
	if p.listeners[protocol] != nil {
		panic("peer: two listeners for " + protocol)
	}
	l := &listener{addr: p.socket.Addr(), conns: make(chan *Conn), done: make(chan struct{})}
	p.listeners[protocol] = l
	return l
}

// Limit lets only the members for which check returns nil open streams of a protocol to this node.
// check is called in each handshake, and again before the stream is accepted. Call it before Run.
func (p *Peer) Limit(protocol string, check func(node string, publicKey []byte) error) {
	p.mustNotRun()
	p.limits[protocol] = check
}

// mayOpen returns nil if a member may open a stream of a protocol to this node.
func (p *Peer) mayOpen(protocol, node string, publicKey []byte) error {
	if check := p.limits[protocol]; check != nil {
		return check(node, publicKey)
	}
	return nil
}

// Run serves until ctx ends and then closes every connection. It returns when all its
// goroutines, calls and dials have ended. Call it only once.
func (p *Peer) Run(ctx context.Context) error {
	p.mu.Lock()
	if p.mu.running || p.mu.closed {
		p.mu.Unlock()
		return errors.New("peer: Run was called twice, or after Close")
	}
	p.mu.running = true
	p.mu.Unlock()

	rpc, join, renew := p.rpcServer(), p.joinServer(), p.renewServer()
	var wg sync.WaitGroup
	wg.Go(func() { rpc.Serve(p.listeners[ProtocolRPC]) })
	wg.Go(func() { join.Serve(p.listeners[ProtocolJoin]) })
	wg.Go(func() { renew.Serve(p.listeners[ProtocolRenew]) })
	stop := context.AfterFunc(ctx, func() { p.socket.Close() })
	err := p.runAccept()
	stop()
	rpc.Close()
	join.Close()
	renew.Close()
	wg.Wait()
	p.work.Wait()
	p.transport.CloseIdleConnections()
	p.renewals.CloseIdleConnections()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Close closes every connection and refuses new ones. Run calls it at its end, so the owner must
// call it only for a Peer that never runs.
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
	p.pending.close()
	for _, c := range conns {
		c.abort()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Drop closes every connection with node, in both directions. The Directory must already refuse
// the node, so that Peer also refuses a connection whose handshake is in progress.
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

// begin adds a call or dial to p.work, for which Run waits, and returns true. After Close it adds
// nothing and returns false.
func (p *Peer) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return false
	}
	p.work.Add(1)
	return true
}

// enter adds c to the connections with its node, and then asks the Directory again; an error means
// that c must be closed. If the node was removed after the handshake's check, either this check
// fails or Drop closes c.
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
		return fmt.Errorf("%d connections with %s are already open", len(set), c.node)
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
		panic("peer: Listener, Limit, Handle and HandleJoin must be called before Run")
	}
}

// protocols returns the names of the protocols that need a client certificate.
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

// refusals limits the log to one refused connection a second, because anybody can connect.
type refusals struct {
	sync.Mutex
	last    time.Time
	skipped int
}

func (p *Peer) refuse(remote net.Addr, err error) {
	p.refusals.Lock()
	defer p.refusals.Unlock()
	if now := time.Now(); now.Sub(p.refusals.last) >= time.Second {
		p.log.Warn("connection refused", "from", remote.String(), "err", err, "not_logged", p.refusals.skipped)
		p.refusals.last, p.refusals.skipped = now, 0
		return
	}
	p.refusals.skipped++
}
