//go:build soak

package scenarios

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// A steady is a set of connections between instances. On each, 8 bytes and their echo pass every second.
type steady struct {
	stop    chan struct{}
	wg      sync.WaitGroup
	failed  atomic.Int64
	answers atomic.Int64
	failure atomic.Value // error of one of the lost connections
}

// newSteady opens steadyCount connections between the instances steady1 to steady3, one on each of three nodes.
func newSteady(t *testing.T, w *stormWorld) *steady {
	t.Helper()
	for i := range 3 {
		role := fmt.Sprintf("steady%d", i+1)
		listener := w.listen(t, role, steadyPort)
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					io.Copy(conn, conn)
				}()
			}
		}()
	}
	s := &steady{stop: make(chan struct{})}
	for i := range steadyCount {
		from, to := fmt.Sprintf("steady%d", 1+i%3), fmt.Sprintf("steady%d", 1+(i/3)%3)
		if from == to {
			to = fmt.Sprintf("steady%d", 1+(i+1)%3)
		}
		var conn net.Conn
		err := netns.Do(w.namespace[from], func() (err error) {
			conn, err = net.DialTimeout("tcp4", netip.AddrPortFrom(w.hosts[to].Address, steadyPort).String(), labtest.Patience)
			return err
		})
		if err != nil {
			t.Fatalf("connection %d, from %s to %s: %v", i, from, to, err)
		}
		t.Cleanup(func() { conn.Close() })
		s.wg.Go(func() { s.runExchange(conn) })
	}
	return s
}

// runExchange exchanges data on conn every second until s.stop is closed, and then once more.
func (s *steady) runExchange(conn net.Conn) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for number, last := uint64(0), false; !last; number++ {
		select {
		case <-tick.C:
		case <-s.stop:
			last = true
		}
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], number)
		conn.SetDeadline(time.Now().Add(3 * labtest.Patience)) // in a storm an answer may be late, but it must come
		_, err := conn.Write(b[:])
		if err == nil {
			_, err = io.ReadFull(conn, b[:])
		}
		if err == nil && binary.BigEndian.Uint64(b[:]) != number {
			err = fmt.Errorf("the echo of %d is %d", number, binary.BigEndian.Uint64(b[:]))
		}
		if err != nil {
			s.failed.Add(1)
			s.failure.Store(err.Error())
			return
		}
		s.answers.Add(1)
	}
}

// lost ends the exchanges and returns the number of lost connections.
func (s *steady) lost(t *testing.T) int64 {
	close(s.stop)
	s.wg.Wait()
	if n := s.failed.Load(); n > 0 {
		t.Logf("error of one of the lost connections: %v", s.failure.Load())
	}
	t.Logf("%d exchanges on %d connections", s.answers.Load(), steadyCount)
	return s.failed.Load()
}
