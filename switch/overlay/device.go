package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Device is the data path of the tunnels, a vswitch.TunnelDevice on one UDP socket.
//
// Receive belongs to one goroutine; each queue of Send to one, any at the same time.
type Device struct {
	form   Form
	socket int
	addr   netip.AddrPort
	table  *atomic.Pointer[table]

	receiver receiver
	queues   [queues]sender
}

// socketBuffer holds what arrives while the poller is elsewhere: some 3,000 datagrams.
const socketBuffer = 8 << 20

// openDevice binds a socket. Its datagrams are never cut on the way: where the underlay is
// narrower than it was said to be the frame is lost and counted, not sent in pieces that
// one lost piece makes useless. What others say of the path's MTU is not listened to, for
// anybody can.
func openDevice(form Form, listen netip.AddrPort, t *atomic.Pointer[table]) (*Device, error) {
	family, level, discover := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if listen.Addr().Is6() {
		family, level, discover = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	socket, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	d := &Device{form: form, socket: socket, table: t}
	if err := unix.SetsockoptInt(socket, level, discover, unix.IP_PMTUDISC_PROBE); err != nil {
		return nil, errors.Join(fmt.Errorf("forbid fragments: %w", err), d.Close())
	}
	// Before Linux 5.0 datagrams come one by one.
	_ = unix.SetsockoptInt(socket, unix.SOL_UDP, unix.UDP_GRO, 1)
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
