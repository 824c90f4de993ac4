package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// Device is the data path of the tunnels, a vswitch.TunnelDevice on one UDP socket.
//
// Receive belongs to one goroutine; each queue of Send to one, any at the same time.
type Device struct {
	socket int
	addr   netip.AddrPort
	table  *atomic.Pointer[table]

	in     scratch
	sender sockaddr // of the datagram in it

	queues [queues]scratch
}

// socketBuffer holds what arrives while the poller is elsewhere: some 3,000 datagrams.
const socketBuffer = 8 << 20

// openDevice binds a socket. Its datagrams are never cut on the way: where the underlay is
// narrower than it was said to be the frame is lost and counted, not sent in pieces that
// one lost piece makes useless. What others say of the path's MTU is not listened to, for
// anybody can.
func openDevice(listen netip.AddrPort, t *atomic.Pointer[table]) (*Device, error) {
	family, level, discover := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if listen.Addr().Is6() {
		family, level, discover = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	socket, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	d := &Device{socket: socket, table: t}
	if err := unix.SetsockoptInt(socket, level, discover, unix.IP_PMTUDISC_PROBE); err != nil {
		return nil, errors.Join(fmt.Errorf("forbid fragments: %w", err), d.Close())
	}
	for _, option := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		// Without the privilege the system's limit has to do.
		if unix.SetsockoptInt(socket, unix.SOL_SOCKET, option[0], socketBuffer) != nil {
			_ = unix.SetsockoptInt(socket, unix.SOL_SOCKET, option[1], socketBuffer)
		}
	}
	var address unix.Sockaddr = &unix.SockaddrInet4{Port: int(listen.Port()), Addr: as4(listen.Addr())}
	if family == unix.AF_INET6 {
		address = &unix.SockaddrInet6{Port: int(listen.Port()), Addr: listen.Addr().As16()}
	}
	if err := unix.Bind(socket, address); err != nil {
		return nil, errors.Join(fmt.Errorf("bind %s/udp: %w", listen, err), d.Close())
	}
	if d.addr, err = d.boundTo(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func as4(a netip.Addr) (b [4]byte) {
	if a.Is4() || a.Is4In6() {
		b = a.As4()
	}
	return b
}

// FD is the descriptor to wait on.
func (d *Device) FD() int { return d.socket }

// Close gives the socket up.
func (d *Device) Close() error {
	if d.socket < 0 {
		return nil
	}
	err := unix.Close(d.socket)
	d.socket = -1
	return err
}

// Send seals a frame for a node and sends it.
func (d *Device) Send(queue int, to uint32, from packet.Origin, frame []byte) (verdict.Verdict, error) {
	s := d.table.Load().send[to]
	if s == nil {
		return verdict.TunnelDown, nil
	}
	q := &d.queues[queue]
	n := s.sealFrame(q, queue, from, frame)
	if n == 0 {
		return verdict.Unset, unix.EMSGSIZE
	}
	return verdict.Forward, d.sendTo(q.b[:n], &s.to)
}

// Receive opens the next datagram.
func (d *Device) Receive(b []byte) (n int, from packet.Origin, v verdict.Verdict, err error) {
	n, err = d.receiveFrom()
	if err != nil {
		return 0, from, verdict.Unset, err
	}
	n, from, v = d.openDatagram(n, d.sender.addrPort(), b)
	return n, from, v, nil
}

// openDatagram opens the n bytes in d.in. It takes them only from the address that the
// session's node has: there is no roaming. A seal proves who wrote a datagram, not that
// the address it came from is to be answered. Nodes send from the address that the cluster
// knows them by, so nothing honest comes from elsewhere, and a flood from elsewhere costs
// no decryption.
func (d *Device) openDatagram(n int, sender netip.AddrPort, b []byte) (int, packet.Origin, verdict.Verdict) {
	var from packet.Origin
	index, counter, ok := readHeader(d.in.b[:n])
	if !ok {
		return n, from, notOurs()
	}
	s := d.table.Load().receive[index]
	queue := counter >> counterBits
	if s == nil || s.address != sender || queue >= queues {
		return n, from, notOurs()
	}
	inner, ok := s.openFrame(&d.in, n, counter)
	if !ok {
		return n, from, verdict.TunnelForged
	}
	if !s.seen[queue].take(counter & (1<<counterBits - 1)) {
		return n, from, verdict.TunnelReplayed
	}
	from.Node = s.node
	frame, ok := readInner(inner, &from, b)
	if !ok {
		return n, from, notOurs()
	}
	return packet.OffloadLen + copy(b[packet.OffloadLen:], frame), from, verdict.Forward
}

// notOurs is the fate of what no peer sent to a session, or in no form that is known.
func notOurs() verdict.Verdict { return verdict.TunnelUnknown }
