package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// patience is how long tests wait on a loaded machine for events that take milliseconds.
const patience = 20 * time.Second

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// table is a Directory in memory.
type table struct {
	sync.Mutex
	keys      map[string][]byte
	addresses map[string]string
}

func newTable() *table { return &table{keys: map[string][]byte{}, addresses: map[string]string{}} }

func (d *table) Check(node string, publicKey []byte) error {
	d.Lock()
	defer d.Unlock()
	if key, ok := d.keys[node]; !ok || !bytes.Equal(key, publicKey) {
		return fmt.Errorf("%s is not a member with that key", node)
	}
	return nil
}

func (d *table) Address(node string) (string, bool) {
	d.Lock()
	defer d.Unlock()
	address, ok := d.addresses[node]
	return address, ok
}

func (d *table) add(id *Identity, at netip.AddrPort) {
	d.Lock()
	defer d.Unlock()
	d.keys[id.Node()] = id.PublicKey()
	d.addresses[id.Node()] = at.String()
}

func (d *table) fence(node string) {
	d.Lock()
	defer d.Unlock()
	delete(d.keys, node)
}

// founder creates a cluster and returns the identity of its first node.
func founder(t *testing.T, node string) *Identity {
	t.Helper()
	id, err := newCluster(node, netip.MustParseAddrPort("127.0.0.1:7400"))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// member returns the identity of another node in the cluster of first, a voter.
func member(t *testing.T, first *Identity, node string) *Identity {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := first.authority().certify(node, netip.MustParseAddrPort("127.0.0.1:7400"), key.Public())
	if err != nil {
		t.Fatal(err)
	}
	id, err := newIdentity(cert, key, authority{root: first.authority().root})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// prepare makes a Peer, which does not run yet, and adds it to the directory.
func prepare(t *testing.T, id *Identity, d *table) *Peer {
	t.Helper()
	p, err := New(Config{Identity: id, Listen: loopback, Nodes: d, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	d.add(id, p.Addr())
	return p
}

// run runs p until the end of the test, or until stop is called. stop waits for the end of Run.
func run(t *testing.T, p *Peer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Errorf("Run has not returned %s after its context ended", patience)
		}
	})
	t.Cleanup(stop)
	return stop
}

// echo accepts the streams of l and sends back what it receives. The names of the nodes that
// connect arrive on the channel that it returns.
func echo(t *testing.T, l net.Listener) <-chan string {
	came := make(chan string, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case came <- c.(*Conn).Node():
			default: // the channel is full, because the test does not read the names
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return came
}

// roundTrip sends a message on a stream that the other end echoes, and checks the echo.
func roundTrip(c net.Conn) error {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	var b [4]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	if string(b[:]) != "ping" {
		return fmt.Errorf("the echo of ping is %q", b)
	}
	return nil
}

// awaitClosed waits until c is closed, by this end or the other.
func awaitClosed(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("read %d bytes, error %v; want a closed connection", n, err)
	} else if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		t.Fatal("the connection is still open")
	}
}

// awaitConns waits until p has at most n connections with node.
func awaitConns(t *testing.T, p *Peer, node string, n int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		p.mu.Lock()
		have := len(p.mu.conns[node])
		p.mu.Unlock()
		if have <= n {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%d connections with %s remain; want at most %d", have, node, n)
		}
	}
}
