package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Device is the data path of the tunnels on one UDP socket. It implements vswitch.TunnelDevice.
//
// Only one goroutine may call Receive and Discard. Each queue of Send belongs to one goroutine;
// different queues may send at the same time. No lock is taken: the table of associations is read
// atomically.
type Device struct {
	form   Form
	socket int
	addr   netip.AddrPort
	table  *atomic.Pointer[table]

	receiver receiver
	queues   [queues]sender
}

// socketBuffer is the number of bytes that may wait in the socket while the poller is busy: about
// 3,000 datagrams.
const socketBuffer = 8 << 20

// openDevice opens and binds the socket of a Device. Its datagrams are never fragmented, because
// one lost fragment would make all others useless: on an underlay with a smaller MTU than
// configured, too large datagrams are lost and counted. The kernel ignores ICMP errors about the
// path's MTU, because anybody can forge them.
func openDevice(form Form, listen netip.AddrPort, t *atomic.Pointer[table]) (*Device, error) {
	family, level, discover := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if listen.Addr().Is6() {
		family, level, discover = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	socket, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create a socket: %w", err)
	}
	d := &Device{form: form, socket: socket, table: t}
	if err := unix.SetsockoptInt(socket, level, discover, unix.IP_PMTUDISC_PROBE); err != nil {
		return nil, errors.Join(fmt.Errorf("forbid fragments: %w", err), d.Close())
	}
	// Before Linux 5.0 the call fails, and datagrams arrive one by one.
	_ = unix.SetsockoptInt(socket, unix.SOL_UDP, unix.UDP_GRO, 1)
	for _, option := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		// Without the privilege for the first option, the system's limit applies.
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

// FD returns the descriptor that epoll waits on.
func (d *Device) FD() int { return d.socket }

// Close closes the socket.
func (d *Device) Close() error {
	if d.socket < 0 {
		return nil
	}
	err := unix.Close(d.socket)
	d.socket = -1
	return err
}
