package gossip

import (
	"context"
	"log"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// maxStreams bounds the streams that others have opened to this node and that are still
// open. One more is closed at once.
const maxStreams = 64

// transport is memberlist's own transport behind a door: what does not come from
// the address of a member is dropped before a byte of it is looked at. Shutdown ends
// every stream, so that none outlives the node by memberlist's timeouts.
type transport struct {
	*memberlist.NetTransport
	local   netip.Addr
	sources *atomic.Pointer[sources]
	count   *counters

	packets chan *memberlist.Packet
	streams chan net.Conn
	ctx     context.Context // of every dial and hand-over; ends first
	cancel  context.CancelFunc
	ended   chan struct{} // closed when nothing comes any more
	pumps   sync.WaitGroup

	mu      sync.Mutex
	open    map[*trackedConn]bool // true: opened by another node
	inbound int
}

// sources are the gossip addresses of the other members. Streams come from any port.
type sources struct {
	packets map[netip.AddrPort]bool
	streams map[netip.Addr]bool
}

func newTransport(address netip.AddrPort, allowed *atomic.Pointer[sources], count *counters, logger *log.Logger) (*transport, error) {
	under, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{address.Addr().String()}, BindPort: int(address.Port()), Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &transport{
		NetTransport: under,
		local:        address.Addr(),
		sources:      allowed,
		count:        count,
		packets:      make(chan *memberlist.Packet),
		streams:      make(chan net.Conn),
		ctx:          ctx,
		cancel:       cancel,
		ended:        make(chan struct{}),
		open:         map[*trackedConn]bool{},
	}
	t.pumps.Go(t.runPackets)
	t.pumps.Go(t.runStreams)
	return t, nil
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *transport) runPackets() {
	for {
		select {
		case p := <-t.NetTransport.PacketCh():
			if !t.sources.Load().packets[addrPort(p.From)] {
				t.count.strangers.Add(1)
				continue
			}
			select {
			case t.packets <- p:
			case <-t.ctx.Done():
			}
		case <-t.ended:
			return
		}
	}
}

func (t *transport) runStreams() {
	for {
		select {
		case c := <-t.NetTransport.StreamCh():
			if !t.sources.Load().streams[addrPort(c.RemoteAddr()).Addr()] {
				t.count.strangers.Add(1)
				c.Close()
				continue
			}
			tracked, ok := t.track(c, true)
			if !ok {
				continue
			}
			select {
			case t.streams <- tracked:
			case <-t.ctx.Done():
				tracked.Close()
			}
		case <-t.ended:
			return
		}
	}
}

// DialTimeout opens a stream from this node's gossip address: the far end knows us by it.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout is DialTimeout for memberlist, which knows the name too.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.local, 0))}
	c, err := d.DialContext(t.ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	tracked, ok := t.track(c, false)
	if !ok {
		return nil, net.ErrClosed
	}
	return tracked, nil
}

// Shutdown returns when every socket is closed.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	if t.ctx.Err() != nil {
		t.mu.Unlock()
		return nil
	}
	t.cancel()
	for c := range t.open {
		c.Conn.Close()
	}
	t.mu.Unlock()

	err := t.NetTransport.Shutdown() // its listeners hand on what they hold, or would never end
	close(t.ended)
	t.pumps.Wait()
	return err
}

// track takes c, or closes it.
func (t *transport) track(c net.Conn, inbound bool) (*trackedConn, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		c.Close()
		return nil, false
	}
	if inbound && t.inbound >= maxStreams {
		t.count.dropped.Add(1)
		c.Close()
		return nil, false
	}
	if inbound {
		t.inbound++
	}
	tracked := &trackedConn{Conn: c, transport: t}
	t.open[tracked] = inbound
	return tracked, true
}

type trackedConn struct {
	net.Conn
	transport *transport
}

func (c *trackedConn) Close() error {
	t := c.transport
	t.mu.Lock()
	if inbound, ok := t.open[c]; ok {
		delete(t.open, c)
		if inbound {
			t.inbound--
		}
	}
	t.mu.Unlock()
	return c.Conn.Close()
}

func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
