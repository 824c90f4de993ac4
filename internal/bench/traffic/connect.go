package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// acceptors is the number of connections that the server serves at the same time.
const acceptors = 16

// The function connect makes connections until its time is over. On each it sends a byte,
// reads the answer, and waits until the server closes. Because the server closes first, the
// server keeps the connection for a minute (TIME-WAIT, RFC 9293 §3.6.1) and the client can
// use the port again: the server's kernel accepts a new connection from it (RFC 6191).
func connect(c Connect) (Connected, error) {
	if c.Parallel < 1 || c.Parallel > acceptors {
		return Connected{}, fmt.Errorf("%d connections at the same time; must be 1 to %d", c.Parallel, acceptors)
	}
	var made, failed atomic.Int64
	var last atomic.Pointer[error]
	var wg sync.WaitGroup
	begun := time.Now()
	for range c.Parallel {
		wg.Go(func() {
			for time.Since(begun) < c.For {
				if err := connectOnce(c.To); err != nil {
					failed.Add(1)
					last.Store(&err)
				} else {
					made.Add(1)
				}
			}
		})
	}
	wg.Wait()
	result := Connected{Made: int(made.Load()), Failed: int(failed.Load()), Took: time.Since(begun)}
	if result.Made == 0 {
		if err := last.Load(); err != nil {
			return result, *err
		}
	}
	return result, nil
}

func connectOnce(to netip.AddrPort) error {
	fd, err := dialled(to, unix.SOCK_STREAM, stuckAfter)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	letter := []byte{'?'}
	if _, err := again(func() (int, error) { return unix.Write(fd, letter) }); err != nil {
		return fmt.Errorf("send a byte: %w", err)
	}
	if n, err := again(func() (int, error) { return unix.Read(fd, letter) }); err != nil || n != 1 {
		return fmt.Errorf("read the answer: %d bytes, %w", n, errors.Join(err, errAnswer))
	}
	if n, err := again(func() (int, error) { return unix.Read(fd, letter) }); err != nil || n != 0 {
		return fmt.Errorf("read the end: %d bytes, %w", n, errors.Join(err, errAnswer))
	}
	return nil
}

var errAnswer = errors.New("the server should answer with one byte and close")

// serveAccept serves the connections of connect until the process ends.
func serveAccept(at netip.AddrPort) error {
	fd, err := listening(at)
	if err != nil {
		return err
	}
	for range acceptors {
		go runAccept(fd)
	}
	return nil
}

func runAccept(listener int) {
	letter := make([]byte, 1)
	patience := unix.NsecToTimeval(int64(stuckAfter))
	for {
		conn, _, err := unix.Accept(listener)
		if err != nil {
			if err == unix.EINTR || err == unix.ECONNABORTED {
				continue
			}
			return // no descriptors left: the client counts failures
		}
		_ = unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
		if n, err := again(func() (int, error) { return unix.Read(conn, letter) }); err == nil && n == 1 {
			_, _ = again(func() (int, error) { return unix.Write(conn, letter) }) // the client reports a failure
		}
		_ = unix.Close(conn)
	}
}
