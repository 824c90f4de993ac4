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

// rpcTimeout bounds one call of Raft, and so how long a connection broken by a partition is
// kept. It is several times what an fsync takes on a loaded disk.
const rpcTimeout = 2 * time.Second

// stream carries Raft over Peer's mutual TLS.
//
// Raft dials addresses, but a certificate names a node. So to Raft a server's address is its
// name (see ServerAddr), and Peer finds the real one. Raft closes the connections that it
// dialed; Close closes those that it accepted. open's mutex is a leaf.
type stream struct {
	peer        *peer.Peer
	address     nodeAddr
	listener    net.Listener
	dialing     context.Context // ends with Run
	stopDialing context.CancelFunc

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
	s.dialing, s.stopDialing = context.WithCancel(context.Background())
	s.open.conns = make(map[net.Conn]bool)
	return s
}

// ServerAddr returns a server's name as its address.
func (s *stream) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	return raft.ServerAddress(id), nil
}

// Dial connects to the node of that name.
func (s *stream) Dial(node raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.dialing, timeout)
	defer cancel()
	conn, err := s.peer.Dial(ctx, string(node), peer.ProtocolRaft)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Accept waits for a connection of another node.
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

// Close closes the listener and the connections that it accepted.
func (s *stream) Close() error {
	s.open.Lock()
	conns := s.open.conns
	s.open.conns = nil
	s.open.Unlock()
	err := s.listener.Close()
	for conn := range conns {
		_ = conn.Close() // an error leaves it closed as well
	}
	return err
}

// Addr is this node's address in Raft's log lines.
func (s *stream) Addr() net.Addr { return s.address }

// accepted is a connection that Close closes.
type accepted struct {
	net.Conn
	stream *stream
}

func (a *accepted) Close() error {
	a.stream.open.Lock()
	delete(a.stream.open.conns, a.Conn)
	a.stream.open.Unlock()
	return a.Conn.Close()
}

type nodeAddr string

func (nodeAddr) Network() string  { return "tcp" }
func (a nodeAddr) String() string { return string(a) }
