package gossip

import (
	"context"
	"io"
	"log"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// maxStreams is how many streams from other nodes may be open at the same time. Another stream
// is closed at once.
const maxStreams = 64

// transport is memberlist's own transport with a filter: it drops a packet or stream before it
// reads a byte, unless it comes from the address of a member, and then drops what could harm
// memberlist (harmless.go). Shutdown also closes all
// streams, because memberlist would keep some open until its timeouts.
//
// memberlist owns it, and ends its goroutines by Shutdown. mu guards open and inbound, and
// is a leaf.
type transport struct {
	*memberlist.NetTransport
	local   netip.Addr
	allowed *atomic.Pointer[sources]
	count   *counters
	ring    *memberlist.Keyring
	label   []byte

	packets chan *memberlist.Packet
	streams chan net.Conn
	ctx     context.Context // ended by Shutdown; bounds dials, and waits until memberlist takes a packet or stream
	cancel  context.CancelFunc
	ended   chan struct{} // closed when the sockets are closed
	filters sync.WaitGroup

	mu      sync.Mutex
	open    map[*trackedConn]bool // the value is true if another node opened the stream
	inbound int
}

// sources has the gossip addresses of the other members: with the port for packets, and without
// it for streams, which come from any port.
type sources struct {
	packets map[netip.AddrPort]bool
	streams map[netip.Addr]bool
}

func newTransport(address netip.AddrPort, label string, ring *memberlist.Keyring, allowed *atomic.Pointer[sources], count *counters, logger *log.Logger) (*transport, error) {
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
		allowed:      allowed,
		count:        count,
		ring:         ring,
		label:        []byte(label),
		packets:      make(chan *memberlist.Packet),
		streams:      make(chan net.Conn),
		ctx:          ctx,
		cancel:       cancel,
		ended:        make(chan struct{}),
		open:         map[*trackedConn]bool{},
	}
	t.filters.Go(t.runPackets)
	t.filters.Go(t.runStreams)
	return t, nil
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

// runPackets passes packets from members on to memberlist, until Shutdown.
func (t *transport) runPackets() {
	for {
		select {
		case p := <-t.NetTransport.PacketCh():
			if !t.allowed.Load().packets[addrPort(p.From)] {
				t.count.strangers.Add(1)
				continue
			}
			if t.checkPacket(p.Buf) != nil {
				t.count.refused.Add(1)
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

// runStreams passes streams from members on to memberlist, until Shutdown.
func (t *transport) runStreams() {
	for {
		select {
		case c := <-t.NetTransport.StreamCh():
			if !t.allowed.Load().streams[addrPort(c.RemoteAddr()).Addr()] {
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

// DialTimeout opens a stream. It comes from this node's gossip address, because the other node
// accepts only streams from the addresses of members.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout is like DialTimeout; it ignores the node's name in a.
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

// Shutdown closes all sockets and streams and waits for the goroutines.
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

	err := t.NetTransport.Shutdown() // ended is closed later, because the listeners end only when their last packet is taken
	close(t.ended)
	t.filters.Wait()
	return err
}

// track returns c as a trackedConn. It closes c and returns false if the transport is shut down
// or has too many streams.
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

// trackedConn is an open stream. Shutdown closes it if memberlist has not.
type trackedConn struct {
	net.Conn
	transport *transport

	in      io.Reader // nil before the first Read
	refused error     // why nothing is read
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
