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

// runAccept takes connections until the socket is closed, and waits for their handshakes.
func (p *Peer) runAccept() error {
	config := p.serverConfig()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer p.Close() // what a handshake waits for
	for {
		raw, err := p.socket.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // no file descriptor, above all: better later than never
			p.log.Error("accept a connection", "err", err)
			select {
			case <-p.life.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		place := p.strangers.enter(raw)
		wg.Go(func() { p.runHandshake(raw, place, config) })
	}
}

// runHandshake finds out who is there and hands the connection to the protocol's listener.
// Nothing but TLS itself reads a byte before that.
func (p *Peer) runHandshake(raw net.Conn, place *list.Element, config *tls.Config) {
	raw.SetDeadline(time.Now().Add(handshakeTimeout))
	stream := tls.Server(raw, config)
	if err := stream.HandshakeContext(p.life); err != nil {
		raw.Close()
		p.strangers.leave(place)
		if !errors.Is(err, io.EOF) {
			p.refuse(raw.RemoteAddr(), err)
		}
		return
	}
	protocol := stream.ConnectionState().NegotiatedProtocol
	if protocol == ProtocolJoin {
		// Still a stranger, until a request is read and has a slot: see serveJoin.
		raw.SetDeadline(time.Time{})
		p.deliver(protocol, &Conn{Conn: stream, onClose: func() { p.strangers.leave(place) }, place: place})
		return
	}
	c := p.newConn(stream, stream.ConnectionState().PeerCertificates[0].Subject.CommonName)
	err := p.enter(c)
	if err == nil {
		_, err = c.Write([]byte{accepted})
	}
	p.strangers.leave(place)
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
		p.refuse(c.RemoteAddr(), fmt.Errorf("nobody accepts %s", protocol))
	}
	c.abort()
}

// listener is one protocol's. Nothing queues in it: a connection waits in deliver.
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

// strangers are the connections that have not shown who they are, oldest first. When all
// places are taken the oldest gives way: a handshake takes milliseconds, so whoever holds
// its place for long is not one of us, and cannot keep us out.
type strangers struct {
	sync.Mutex
	order  list.List // of net.Conn
	closed bool
}

func (s *strangers) enter(raw net.Conn) *list.Element {
	s.Lock()
	defer s.Unlock()
	if s.closed {
		raw.Close()
	}
	if s.order.Len() >= maxStrangers {
		s.order.Remove(s.order.Front()).(net.Conn).Close()
	}
	return s.order.PushBack(raw)
}

// leave frees a place, whether it is still held or not.
func (s *strangers) leave(place *list.Element) {
	s.Lock()
	defer s.Unlock()
	s.order.Remove(place)
}

func (s *strangers) close() {
	s.Lock()
	defer s.Unlock()
	s.closed = true
	for e := s.order.Front(); e != nil; e = e.Next() {
		e.Value.(net.Conn).Close()
	}
}
