package peer

import (
	"container/list"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// runAccept accepts connections until the socket is closed. Then it ends the handshakes in progress
// and waits for them.
func (p *Peer) runAccept() error {
	config := p.serverConfig()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer p.Close() // ends the handshakes
	for {
		raw, err := p.socket.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // usually because too many files are open; a later attempt may succeed
			p.log.Error("connection not accepted", "err", err)
			select {
			case <-p.life.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		place := p.pending.enter(raw)
		wg.Go(func() { p.runHandshake(raw, place, config) })
	}
}

// runHandshake authenticates the remote node and passes the connection to the protocol's
// listener. Until then only TLS reads from the connection.
func (p *Peer) runHandshake(raw net.Conn, place *list.Element, config *tls.Config) {
	raw.SetDeadline(time.Now().Add(handshakeTimeout))
	stream := tls.Server(raw, config)
	if err := stream.HandshakeContext(p.life); err != nil {
		raw.Close()
		p.pending.leave(place)
		if !errors.Is(err, io.EOF) {
			p.refuse(raw.RemoteAddr(), err)
		}
		return
	}
	protocol := stream.ConnectionState().NegotiatedProtocol
	if protocol == ProtocolJoin {
		// The connection stays in pending until serveJoin has read a request and has a slot for it.
		raw.SetDeadline(time.Time{})
		p.deliver(protocol, &Conn{Conn: stream, onClose: func() { p.pending.leave(place) }, place: place})
		return
	}
	c := p.newConn(stream, stream.ConnectionState().PeerCertificates[0].Subject.CommonName)
	err := p.enter(c)
	if err == nil {
		err = p.mayOpen(protocol, c.node, c.publicKey) // again: its role may have changed since the handshake
	}
	if err == nil {
		_, err = c.Write([]byte{accepted})
	}
	p.pending.leave(place)
	if err != nil {
		c.abort()
		p.refuse(raw.RemoteAddr(), err)
		return
	}
	raw.SetDeadline(time.Time{})
	p.deliver(protocol, c)
}

func (p *Peer) deliver(protocol string, c *Conn) {
	l := p.listeners[protocol]
	late := time.NewTimer(handshakeTimeout)
	defer late.Stop()
	select {
	case l.conns <- c:
		return
	case <-l.done:
	case <-p.life.Done():
	case <-late.C:
		p.refuse(c.RemoteAddr(), fmt.Errorf("the listener of %s did not accept the stream in time", protocol))
	}
	c.abort()
}

// listener is the net.Listener of one protocol. It has no queue: deliver waits for Accept.
type listener struct {
	addr  net.Addr
	conns chan *Conn
	done  chan struct{}
	once  sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

// pending holds the connections that are not authenticated yet, oldest first. If it is full, a
// new connection replaces the oldest, which is closed. A member's handshake takes milliseconds,
// so its connection is rarely the oldest, and silent connections cannot keep members out.
type pending struct {
	sync.Mutex
	order  list.List // of net.Conn
	closed bool
}

func (s *pending) enter(raw net.Conn) *list.Element {
	s.Lock()
	defer s.Unlock()
	if s.closed {
		raw.Close()
	}
	if s.order.Len() >= maxPending {
		s.order.Remove(s.order.Front()).(net.Conn).Close()
	}
	return s.order.PushBack(raw)
}

// leave removes a connection from pending. It does nothing if another connection has replaced it.
func (s *pending) leave(place *list.Element) {
	s.Lock()
	defer s.Unlock()
	s.order.Remove(place)
}

func (s *pending) close() {
	s.Lock()
	defer s.Unlock()
	s.closed = true
	for e := s.order.Front(); e != nil; e = e.Next() {
		e.Value.(net.Conn).Close()
	}
}
