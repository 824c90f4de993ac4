package cluster

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"palisade/internal/peer"
)

// rpcTimeout is how long one exchange of Raft's may take: several times what an fsync
// takes on a disk under load. A connection that a partition ate is given up after it.
const rpcTimeout = 2 * time.Second

// stream carries Raft over Peer's mutual TLS.
//
// Raft dials addresses; a certificate names a node. So every server's address is its
// name (see ServerAddr), and Peer finds where that is. The connections are Raft's, but
// it closes only those that it dialed: Close closes those it accepted.
type stream struct {
	peer     *peer.Peer
	address  nodeAddr
	listener net.Listener
	dialing  context.Context // ends with Run, so that no dial outlasts it
	hangUp   context.CancelFunc

	open struct {
		sync.Mutex
		conns map[net.Conn]bool // nil once closed
	}
}

var (
	_ raft.StreamLayer           = (*stream)(nil)
	_ raft.ServerAddressProvider = (*stream)(nil)
)

func newStream(p *peer.Peer, address string) *stream {
	s := &stream{
		peer:     p,
		address:  nodeAddr(address),
		listener: p.Listener(peer.ProtocolRaft),
	}
	s.dialing, s.hangUp = context.WithCancel(context.Background())
	s.open.conns = make(map[net.Conn]bool)
	return s
}

// ServerAddr makes a server's name its address.
func (s *stream) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	return raft.ServerAddress(id), nil
}

// Dial opens a connection to the node of that name.
func (s *stream) Dial(node raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.dialing, timeout)
	defer cancel()
	conn, err := s.peer.Dial(ctx, string(node), peer.ProtocolRaft)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Accept waits for another node.
func (s *stream) Accept() (net.Conn, error) {
	conn, err := s.listener.Accept()
	if err != nil {
		return nil, err
	}
	s.open.Lock()
	defer s.open.Unlock()
	if s.open.conns == nil {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	s.open.conns[conn] = true
	return &accepted{conn, s}, nil
}

// Close closes the door and everyone who came in by it.
func (s *stream) Close() error {
	s.open.Lock()
	conns := s.open.conns
	s.open.conns = nil
	s.open.Unlock()
	err := s.listener.Close()
	for conn := range conns {
		_ = conn.Close() // a reset is as good
	}
	return err
}

// Addr is what Raft calls this node in its log lines.
func (s *stream) Addr() net.Addr { return s.address }

type accepted struct {
	net.Conn
	of *stream
}

func (a *accepted) Close() error {
	a.of.open.Lock()
	delete(a.of.open.conns, a.Conn)
	a.of.open.Unlock()
	return a.Conn.Close()
}

type nodeAddr string

func (nodeAddr) Network() string  { return "tcp" }
func (a nodeAddr) String() string { return string(a) }
