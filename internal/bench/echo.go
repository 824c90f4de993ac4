package bench

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// echoSize is the payload of a round trip, in bytes.
const echoSize = 64

// Echo is the body of a process at an endpoint: "serve ADDRESS" answers everything over
// TCP and UDP until it is killed; "tcp ADDRESS COUNT" and "udp ADDRESS COUNT" make round
// trips and print their median. It uses blocking calls, so that Go's own poller does not
// add its wake-ups to every contestant's.
func Echo(args []string, out io.Writer) error {
	if len(args) < 2 {
		return errors.New("echo wants a verb and an address")
	}
	address, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return err
	}
	peer := &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}
	kind := unix.SOCK_STREAM
	switch {
	case args[0] == "serve":
		return serveEcho(peer)
	case args[0] == "udp":
		kind = unix.SOCK_DGRAM
	}
	if len(args) < 3 {
		return errors.New("echo wants a count")
	}
	count, err := strconv.Atoi(args[2])
	if err != nil || count < 1 {
		return fmt.Errorf("a count of %q", args[2])
	}
	p50, err := askEcho(peer, kind, count)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, p50)
	return err
}

func serveEcho(at *unix.SockaddrInet4) error {
	failed := make(chan error, 2)
	go func() { failed <- runDatagrams(at) }()
	go func() { failed <- runStreams(at) }()
	return <-failed
}

func runDatagrams(at *unix.SockaddrInet4) error {
	fd, err := bound(at, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	buffer := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(fd, buffer, 0)
		if err == nil {
			err = unix.Sendto(fd, buffer[:n], 0, from)
		}
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("echo UDP: %w", err)
		}
	}
}

// runStreams serves one connection after the other.
func runStreams(at *unix.SockaddrInet4) error {
	fd, err := bound(at, unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	if err := unix.Listen(fd, 8); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	buffer := make([]byte, 2048)
	for {
		conn, _, err := unix.Accept(fd)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		_ = unix.SetsockoptInt(conn, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		for {
			n, err := unix.Read(conn, buffer)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 || err != nil {
				break // the asker has done
			}
			if _, err := unix.Write(conn, buffer[:n]); err != nil {
				break
			}
		}
		_ = unix.Close(conn)
	}
}

func bound(at *unix.SockaddrInet4, kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(fd, at); err != nil {
		return -1, fmt.Errorf("bind: %w", err)
	}
	return fd, nil
}

// askEcho makes round trips, and some before that are not counted.
func askEcho(peer *unix.SockaddrInet4, kind, count int) (p50 time.Duration, err error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_STREAM {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	// A lost datagram must not stop the run.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, peer); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	buffer := make([]byte, echoSize)
	warm := count / 10
	times := make([]time.Duration, 0, count)
	for i := range warm + count {
		begun := time.Now()
		if _, err := unix.Write(fd, buffer); err != nil {
			return 0, fmt.Errorf("send: %w", err)
		}
		for got := 0; got < echoSize; {
			n, err := unix.Read(fd, buffer)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return 0, fmt.Errorf("round trip %d: %w", i, err)
			}
			if n == 0 {
				return 0, fmt.Errorf("round trip %d: %w", i, io.ErrUnexpectedEOF)
			}
			got += n
		}
		if i >= warm {
			times = append(times, time.Since(begun))
		}
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}
