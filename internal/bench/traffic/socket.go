package traffic

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// bound opens a socket of the server and binds it to an address and port.
func bound(at netip.AddrPort, kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("bind %s: %w", at, err)
	}
	return fd, nil
}

// listening opens a TCP socket that accepts connections.
func listening(at netip.AddrPort) (int, error) {
	fd, err := bound(at, unix.SOCK_STREAM)
	if err != nil {
		return -1, err
	}
	if err := unix.Listen(fd, 1024); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("listen at %s: %w", at, err)
	}
	return fd, nil
}

// stuckAfter is how long one step of a TCP connection may take before it counts as failed.
const stuckAfter = 2 * time.Second

// dialled opens and connects a client's socket. No call on it blocks for longer than patience.
func dialled(to netip.AddrPort, kind int, patience time.Duration) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	limit := unix.NsecToTimeval(int64(patience))
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
	}
	if kind == unix.SOCK_STREAM {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	// After a signal the attempt continues, and the next call waits for it (connect(2)).
	_, err = again(func() (int, error) { return 0, unix.Connect(fd, sockaddr(to)) })
	if err != nil && err != unix.EISCONN {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", to, err)
	}
	return fd, nil
}

// again repeats a system call while signals interrupt it.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}
