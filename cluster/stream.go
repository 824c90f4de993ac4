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

// rpcTimeout is how long Raft waits for the answer to a call. Then it closes the connection, which
// a partition may have broken. It is several times what an fsync takes on a loaded disk.
const rpcTimeout = 2 * time.Second

// stream carries Raft over Peer's mutual TLS.
//
// Raft dials addresses, but a certificate names a node. So ServerAddr gives Raft a server's name
// as its address, and Peer finds the network address. Raft closes the connections that it dialed;
// Close closes the connections that Accept returned. open's mutex is a leaf.
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

// Dial connects to a node by its name.
func (s *stream) Dial(node raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.dialing, timeout)
	defer cancel()
	conn, err := s.peer.Dial(ctx, string(node), peer.ProtocolRaft)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Accept waits for a connection from another node.
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

// Close closes the listener and all connections that Accept returned.
func (s *stream) Close() error {
	s.open.Lock()
	conns := s.open.conns
	s.open.conns = nil
	s.open.Unlock()
	err := s.listener.Close()
	for conn := range conns {
		_ = conn.Close() // the connection is closed even if Close returns an error
	}
	return err
}

// Addr returns this node's address, which Raft only logs.
func (s *stream) Addr() net.Addr { return s.address }

// accepted is a connection that Accept returned. stream.Close closes it if Raft has not.
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
