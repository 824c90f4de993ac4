package node

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// A connLimit bounds the connections of a listener, in all and of one client's address. A connection that is
// too many displaces one that waits: the oldest of its address; or, if there are too many in all, the oldest
// of the address that has the most. A connection waits while no whole request was received that is not
// answered yet. So idle and slow connections keep nobody out. Only if none waits is the new one closed.
type connLimit struct {
	most, ofOne int
	log         *slog.Logger

	mu        sync.Mutex
	all       int
	addresses map[netip.Prefix]*addressConns
	logged    time.Time // when displaced or closed connections were last logged
	lost      int       // since then
}

// addressConns are the connections of one address.
type addressConns struct {
	count   int
	waiting list.List // of *limitedConn, the one that waits longest first
}

// newConnLimit returns a limit of most connections, ofOne for each address.
func newConnLimit(most, ofOne int, log *slog.Logger) *connLimit {
	return &connLimit{most: most, ofOne: ofOne, log: log, addresses: map[netip.Prefix]*addressConns{}}
}

// listener bounds the connections of a listener.
func (l *connLimit) listener(inner net.Listener) net.Listener { return &limitedListener{inner, l} }

type limitedListener struct {
	net.Listener
	limit *connLimit
}

// Accept closes connections that are too many, and returns the next that is not.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.limit.admit(conn); c != nil {
			return c, nil
		}
		_ = conn.Close()
	}
}

// A limitedConn is a connection that is counted until it is closed.
type limitedConn struct {
	net.Conn
	limit   *connLimit
	address netip.Prefix

	element *list.Element // in waiting; nil while a request is answered. Guarded by limit.mu, like closed
	closed  bool
}

// Close ends the counting.
func (c *limitedConn) Close() error {
	c.limit.mu.Lock()
	c.removeLocked()
	c.limit.mu.Unlock()
	return c.Conn.Close()
}

func (c *limitedConn) removeLocked() {
	if c.closed {
		return
	}
	c.closed = true
	a := c.limit.addresses[c.address]
	if c.element != nil {
		a.waiting.Remove(c.element)
		c.element = nil
	}
	c.limit.all--
	if a.count--; a.count == 0 {
		delete(c.limit.addresses, c.address)
	}
}

// setWaiting says whether the connection waits for a request, or for the rest of one.
func (c *limitedConn) setWaiting(waits bool) {
	c.limit.mu.Lock()
	defer c.limit.mu.Unlock()
	if c.closed || waits == (c.element != nil) {
		return
	}
	waiting := &c.limit.addresses[c.address].waiting
	if waits {
		c.element = waiting.PushBack(c)
		return
	}
	waiting.Remove(c.element)
	c.element = nil
}

// admit counts a connection, or returns nil if it is too many and none waits.
func (l *connLimit) admit(conn net.Conn) *limitedConn {
	c := &limitedConn{Conn: conn, limit: l, address: clientOf(conn)}
	l.mu.Lock()
	var displaced *limitedConn
	a := l.addresses[c.address]
	switch {
	case a != nil && a.count >= l.ofOne:
		displaced = l.displaceLocked(a)
	case l.all >= l.most:
		displaced = l.displaceLocked(l.largestLocked())
	}
	tooMany := displaced == nil && (a != nil && a.count >= l.ofOne || l.all >= l.most)
	if displaced != nil || tooMany {
		l.noteLocked(c.address)
	}
	if !tooMany {
		if a = l.addresses[c.address]; a == nil {
			a = &addressConns{}
			l.addresses[c.address] = a
		}
		l.all++
		a.count++
		c.element = a.waiting.PushBack(c)
	}
	l.mu.Unlock()
	if displaced != nil {
		_ = displaced.Conn.Close()
	}
	if tooMany {
		return nil
	}
	return c
}

// displaceLocked stops counting the connection of a that waits longest, and returns it; nil if none waits.
func (l *connLimit) displaceLocked(a *addressConns) *limitedConn {
	front := a.waiting.Front()
	if front == nil {
		return nil
	}
	c := front.Value.(*limitedConn)
	c.removeLocked()
	return c
}

// largestLocked returns the address that has the most connections, of those with one that waits.
func (l *connLimit) largestLocked() *addressConns {
	largest := &addressConns{}
	for _, a := range l.addresses {
		if a.count > largest.count && a.waiting.Len() > 0 {
			largest = a
		}
	}
	return largest
}

// noteLocked logs, once a minute, that there are too many connections.
func (l *connLimit) noteLocked(from netip.Prefix) {
	l.lost++
	if now := time.Now(); now.Sub(l.logged) > time.Minute {
		l.log.Warn("connections of the API closed: there are too many", "closed", l.lost, "open", l.all, "limit", l.most, "newest from", from.String())
		l.logged, l.lost = now, 0
	}
}

// clientOf returns the address of a client; of an IPv6 client the network of 64 bits, which one host may have
// for itself. All clients of a unix socket have the same, invalid one.
func clientOf(conn net.Conn) netip.Prefix {
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Prefix{}
	}
	addr := at.Addr().Unmap().WithZone("")
	p, err := addr.Prefix(min(addr.BitLen(), 64))
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

type connKey struct{}

// withConn is the ConnContext of a server whose listener is limited.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if c, ok := conn.(*limitedConn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// whileAnswered wraps a handler: from the end of a request's body to the end of the handler the connection
// does not wait, so that it is not displaced.
func whileAnswered(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*limitedConn); ok {
			defer c.setWaiting(true)
			if r.ContentLength == 0 {
				c.setWaiting(false)
			}
			r.Body = &watchedBody{r.Body, c}
		}
		h.ServeHTTP(w, r)
	})
}

// A watchedBody tells its connection when it was read to its end.
type watchedBody struct {
	io.ReadCloser
	conn *limitedConn
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.conn.setWaiting(false)
	}
	return n, err
}
