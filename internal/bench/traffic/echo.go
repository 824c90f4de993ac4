package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// echoSize is the payload of a round trip, in bytes.
	echoSize = 64
	// lostAfter is how long a datagram's round trip may take. After that it counts as lost.
	lostAfter = 250 * time.Millisecond
)

// serveEcho answers everything over UDP and TCP until the process ends.
func serveEcho(at netip.AddrPort) error {
	datagrams, err := bound(at, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	streams, err := listening(at)
	if err != nil {
		return err
	}
	go runDatagrams(datagrams)
	go runStreams(streams)
	return nil
}

// runDatagrams echoes datagrams. It continues after an error, which means that the client
// has closed its socket.
func runDatagrams(fd int) {
	buffer := make([]byte, 2048)
	for {
		if n, from, err := unix.Recvfrom(fd, buffer, 0); err == nil {
			_ = unix.Sendto(fd, buffer[:n], 0, from)
		}
	}
}

func runStreams(fd int) {
	for {
		conn, _, err := unix.Accept(fd)
		if err == nil {
			go runStream(conn)
		} else if err != unix.EINTR && err != unix.ECONNABORTED {
			return
		}
	}
}

func runStream(fd int) {
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	buffer := make([]byte, 2048)
	for {
		n, err := again(func() (int, error) { return unix.Read(fd, buffer) })
		if n <= 0 || err != nil {
			return // the client has closed the connection
		}
		if _, err := unix.Write(fd, buffer[:n]); err != nil {
			return
		}
	}
}

// roundTrips makes a series of round trips, after some that are not counted.
func roundTrips(r RoundTrips) (Latency, error) {
	kind := map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}[r.Protocol]
	if kind == 0 || r.Count < 1 {
		return Latency{}, fmt.Errorf("%d round trips over %q", r.Count, r.Protocol)
	}
	patience := stuckAfter
	if kind == unix.SOCK_DGRAM {
		patience = lostAfter
	}
	fd, err := dialled(r.To, kind, patience)
	if err != nil {
		return Latency{}, err
	}
	defer unix.Close(fd)
	trip := stream(fd)
	if kind == unix.SOCK_DGRAM {
		trip = datagram(fd)
	}
	var l Latency
	times := make([]time.Duration, 0, r.Count)
	begun := time.Now()
	for i := -r.Count / 10; i < r.Count && (l.Count == 0 || r.Within == 0 || time.Since(begun) < r.Within); i++ {
		sent := time.Now()
		err := trip(uint64(i))
		took := time.Since(sent)
		switch {
		case err == unix.EAGAIN && kind == unix.SOCK_DGRAM:
			took = lostAfter
		case err != nil:
			return l, fmt.Errorf("round trip %d over %s: %w", i, r.Protocol, err)
		}
		if i >= 0 {
			times = append(times, took)
			l.Count++
			if took == lostAfter {
				l.Lost++
			}
		}
	}
	slices.Sort(times)
	l.P50, l.P99 = quantile(times, 0.50), quantile(times, 0.99)
	return l, nil
}

// quantile returns the smallest of the sorted times that is not exceeded by a part q of
// them: the nearest rank.
func quantile(sorted []time.Duration, q float64) time.Duration {
	rank := int(q * float64(len(sorted)))
	if float64(rank) < q*float64(len(sorted)) {
		rank++
	}
	return sorted[max(rank, 1)-1]
}

// stream makes round trips over a TCP connection. An answer can arrive in several parts.
func stream(fd int) func(uint64) error {
	buffer := make([]byte, echoSize)
	return func(uint64) error {
		if _, err := again(func() (int, error) { return unix.Write(fd, buffer) }); err != nil {
			return err
		}
		for got := 0; got < echoSize; {
			n, err := again(func() (int, error) { return unix.Read(fd, buffer) })
			if err != nil {
				return err
			}
			if n == 0 {
				return io.ErrUnexpectedEOF
			}
			got += n
		}
		return nil
	}
}

// datagram makes round trips of datagrams. Each carries its number, so that a late answer is
// not counted for the next round trip.
func datagram(fd int) func(uint64) error {
	buffer := make([]byte, echoSize)
	return func(number uint64) error {
		binary.BigEndian.PutUint64(buffer, number)
		if _, err := again(func() (int, error) { return unix.Write(fd, buffer) }); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		for {
			n, err := again(func() (int, error) { return unix.Read(fd, buffer) })
			if err != nil {
				return err
			}
			if n == echoSize && binary.BigEndian.Uint64(buffer) == number {
				return nil
			}
		}
	}
}
