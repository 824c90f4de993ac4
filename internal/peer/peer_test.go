package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"
)

// patience is what a loaded machine may need for what takes milliseconds.
const patience = 20 * time.Second

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// table is a Directory.
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
		return fmt.Errorf("%s is no member with that key", node)
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

// founder is the first node of a cluster; member another one.
func founder(t *testing.T, node string) *Identity {
	t.Helper()
	id, err := found(node, netip.MustParseAddrPort("127.0.0.1:7400"))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func member(t *testing.T, of *Identity, node string) *Identity {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := of.authority.certify(node, netip.MustParseAddrPort("127.0.0.1:7400"), key.Public())
	if err != nil {
		t.Fatal(err)
	}
	id, err := newIdentity(cert, key, authority{root: of.authority.root})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// prepare makes a Peer that the directory knows; run runs it until the test's end.
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

// run returns what stops p, and waits for it.
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
			t.Error("Run has not ended")
		}
	})
	t.Cleanup(stop)
	return stop
}

// echo answers every stream of l, and tells who came.
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
			default: // nobody asks
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
		return fmt.Errorf("echo of ping is %q", b)
	}
	return nil
}

// awaitClosed fails if c is not closed by the far end, or here, soon.
func awaitClosed(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want a closed connection", n, err)
	} else if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		t.Fatal("the connection was left open")
	}
}

func TestDialKnowsBothEnds(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	server, client := prepare(t, one, d), prepare(t, member(t, one, "node2"), d)
	accepted := make(chan *Conn, 1)
	l := server.Listener(ProtocolTunnel)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c.(*Conn)
		}
	}()
	run(t, server)

	// The client's Run is not needed to dial.
	c, err := client.Dial(t.Context(), "node1", ProtocolTunnel)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far := <-accepted
	defer far.Close()
	if c.Node() != "node1" || far.Node() != "node2" {
		t.Errorf("the ends are %q and %q; want node1 and node2", c.Node(), far.Node())
	}
	state := c.ConnectionState()
	if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != ProtocolTunnel {
		t.Errorf("version %x, protocol %q", state.Version, state.NegotiatedProtocol)
	}
	here, err1 := state.ExportKeyingMaterial("label", nil, 32)
	farState := far.ConnectionState()
	there, err2 := farState.ExportKeyingMaterial("label", nil, 32)
	if err1 != nil || err2 != nil || !bytes.Equal(here, there) {
		t.Errorf("exported keys differ: %x %v, %x %v", here, err1, there, err2)
	}
}

func TestStrangerReachesNothing(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	server := prepare(t, one, d)
	came := echo(t, server.Listener(ProtocolRaft))
	called := make(chan string, 100)
	server.Handle("secret", func(_ context.Context, from string, _ []byte) ([]byte, error) {
		called <- from
		return nil, nil
	})
	run(t, server)

	two := member(t, one, "node2")
	d.add(two, server.Addr())
	known := two.Certificate()
	other := founder(t, "node2").Certificate()
	unknown := member(t, one, "node3").Certificate()
	stolenName := member(t, one, "node2").Certificate()
	// The directory alone must not do either: these keys it knows.
	foreign := founder(t, "node4")
	d.add(foreign, server.Addr())
	another := foreign.Certificate()
	five := member(t, one, "node5")
	d.add(five, server.Addr())
	template := *five.cert
	template.URIs = []*url.URL{nodeURI(one.Cluster(), "node2")}
	bent, err := sign(&template, one.authority.root, five.key.Public(), one.authority.key)
	if err != nil {
		t.Fatal(err)
	}
	misnamed := tls.Certificate{Certificate: [][]byte{bent.Raw}, PrivateKey: five.key}
	config := func(version uint16, cert *tls.Certificate, protocols ...string) *tls.Config {
		c := &tls.Config{MinVersion: version, MaxVersion: version, NextProtos: protocols, InsecureSkipVerify: true}
		if cert != nil {
			// Whatever the server says it accepts.
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
		return c
	}
	for _, test := range []struct {
		name   string
		config *tls.Config
		admit  bool
	}{
		{"a member", config(tls.VersionTLS13, &known, ProtocolRaft), true},
		{"a member, calling", config(tls.VersionTLS13, &known, ProtocolRPC), true},
		{"no certificate", config(tls.VersionTLS13, nil, ProtocolRaft), false},
		{"no certificate, calling", config(tls.VersionTLS13, nil, ProtocolRPC), false},
		{"no certificate, behind join", config(tls.VersionTLS13, nil, ProtocolJoin, ProtocolRaft), false},
		{"another authority", config(tls.VersionTLS13, &other, ProtocolRaft), false},
		{"another authority, a known key", config(tls.VersionTLS13, &another, ProtocolRaft), false},
		{"two names", config(tls.VersionTLS13, &misnamed, ProtocolRaft), false},
		{"not in the directory", config(tls.VersionTLS13, &unknown, ProtocolRaft), false},
		{"a member's name, another key", config(tls.VersionTLS13, &stolenName, ProtocolRaft), false},
		{"TLS 1.2", config(tls.VersionTLS12, &known, ProtocolRaft), false},
		{"TLS 1.2, to join", config(tls.VersionTLS12, nil, ProtocolJoin), false},
		{"no protocol", config(tls.VersionTLS13, &known), false},
		{"a protocol that nobody serves", config(tls.VersionTLS13, &known, ProtocolTunnel), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			raw, err := net.Dial("tcp", server.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			raw.SetDeadline(time.Now().Add(patience))
			c := tls.Client(raw, test.config)
			n, err := 0, c.Handshake()
			if err == nil {
				fmt.Fprintf(c, "POST /rpc/secret HTTP/1.1\r\nHost: node1\r\nContent-Length: 0\r\n\r\n")
				n, err = c.Read(make([]byte, 1))
			}
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				t.Fatalf("left waiting: %v", err)
			}
			if admitted := n == 1 && err == nil; admitted != test.admit {
				t.Errorf("admitted: %v (%v); want %v", admitted, err, test.admit)
			}
			if test.admit {
				select {
				case from := <-came:
					if from != "node2" {
						t.Errorf("came %q", from)
					}
				case from := <-called:
					if from != "node2" {
						t.Errorf("called by %q", from)
					}
				case <-time.After(patience):
					t.Error("the member did not arrive")
				}
			}
		})
	}
	// Who was refused has met neither a stream's listener nor a handler.
	select {
	case from := <-came:
		t.Errorf("a stranger came as %q", from)
	case from := <-called:
		t.Errorf("a stranger called as %q", from)
	default:
	}
}

func TestDialChecksWhoAnswers(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	client := prepare(t, one, d)
	three := prepare(t, member(t, one, "node3"), d)
	echo(t, three.Listener(ProtocolRaft))
	run(t, three)
	two := member(t, one, "node2")
	d.add(two, three.Addr()) // node3 sits where node2 should

	dial := func(node string) error {
		c, err := client.DialAddress(t.Context(), node, three.Addr().String(), ProtocolRaft)
		if err != nil {
			return err
		}
		defer c.Close()
		return roundTrip(c)
	}
	if err := dial("node3"); err != nil {
		t.Fatalf("dial node3: %v", err)
	}
	if err := dial("node2"); err == nil {
		t.Error("dialled node2, and node3 was taken for it")
	}
	d.Lock()
	d.keys["node2"] = three.id.PublicKey() // the name in the certificate counts too
	d.Unlock()
	if err := dial("node2"); err == nil {
		t.Error("dialled node2, and node3 was taken for it, by its key")
	}
	d.fence("node3")
	if err := dial("node3"); err == nil {
		t.Error("dialled a node that the directory refuses")
	}
	if _, err := client.Dial(t.Context(), "node9", ProtocolRaft); err == nil {
		t.Error("dialled a node without an address")
	}
	server := tlsServer(t, founder(t, "node3").Certificate(), ProtocolRaft)
	if _, err := client.DialAddress(t.Context(), "node3", server, ProtocolRaft); err == nil {
		t.Error("dialled another cluster's node3")
	}
}

// tlsServer does the handshake with everybody, sends the byte of admission and closes.
func tlsServer(t *testing.T, cert tls.Certificate, protocol string) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{protocol}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.Write([]byte{accepted})
			}()
		}
	}()
	return l.Addr().String()
}

// TestDialFailsWhenNotAdmitted: in TLS 1.3 a client's handshake succeeds before the server
// judged its certificate.
func TestDialFailsWhenNotAdmitted(t *testing.T) {
	one := founder(t, "node1")
	all, without := newTable(), newTable()
	server := prepare(t, one, without)
	echo(t, server.Listener(ProtocolRaft))
	run(t, server)
	client := prepare(t, member(t, one, "node2"), all)
	all.add(one, server.Addr())
	if c, err := client.Dial(t.Context(), "node1", ProtocolRaft); err == nil {
		c.Close()
		t.Fatal("dialled a node that does not admit this one")
	}
}

func TestDropEndsEveryConnection(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	server, client := prepare(t, one, d), prepare(t, member(t, one, "node2"), d)
	echo(t, server.Listener(ProtocolRaft))
	echo(t, client.Listener(ProtocolRaft))
	started := make(chan struct{})
	server.Handle("wait", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	server.Handle("echo", func(_ context.Context, _ string, body []byte) ([]byte, error) { return body, nil })
	run(t, server)
	run(t, client)
	inward, err := client.Dial(t.Context(), "node1", ProtocolRaft)
	if err != nil {
		t.Fatal(err)
	}
	outward, err := server.Dial(t.Context(), "node2", ProtocolRaft)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(roundTrip(inward), roundTrip(outward)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Call(t.Context(), "node1", "echo", nil); err != nil { // leaves an idle connection
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := client.Call(t.Context(), "node1", "wait", nil)
		waiting <- err
	}()
	<-started

	d.fence("node2")
	server.Drop("node2")
	awaitClosed(t, inward)
	awaitClosed(t, outward)
	select {
	case err := <-waiting:
		if _, ok := errors.AsType[*RemoteError](err); err == nil || ok {
			t.Errorf("the call under way: %v; want a broken connection", err)
		}
	case <-time.After(patience):
		t.Error("the call under way goes on")
	}
	if _, err := client.Call(t.Context(), "node1", "echo", nil); err == nil {
		t.Error("a fenced node's call was answered")
	}
	if _, err := client.Dial(t.Context(), "node1", ProtocolRaft); err == nil {
		t.Error("a fenced node was admitted")
	}
	if _, err := server.Dial(t.Context(), "node2", ProtocolRaft); err == nil {
		t.Error("a fenced node was dialled")
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	if n := len(server.mu.conns); n != 0 {
		t.Errorf("%d nodes have connections; want none", n)
	}
}

// TestMemberFencedDuringHandshake: the directory changes, and Drop is called, after the
// handshake's check and before the connection can be found.
func TestMemberFencedDuringHandshake(t *testing.T) {
	one := founder(t, "node1")
	two := member(t, one, "node2")
	d := &fencing{table: newTable()}
	server, err := New(Config{Identity: one, Listen: loopback, Nodes: d, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	d.add(one, server.Addr())
	d.add(two, server.Addr())
	d.drop = func() { server.Drop("node2") }
	came := echo(t, server.Listener(ProtocolRaft))
	run(t, server)
	all := newTable()
	client := prepare(t, two, all)
	all.add(one, server.Addr())
	if c, err := client.Dial(t.Context(), "node1", ProtocolRaft); err == nil {
		awaitClosed(t, c)
	}
	select {
	case <-came:
		t.Error("a node fenced during its handshake was let in")
	default:
	}
}

// fencing fences whoever it has just let pass.
type fencing struct {
	*table
	drop func()
}

func (f *fencing) Check(node string, publicKey []byte) error {
	err := f.table.Check(node, publicKey)
	if err == nil {
		f.fence(node)
		f.drop()
	}
	return err
}

func TestNoSessionIsResumed(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	server := prepare(t, one, d)
	echo(t, server.Listener(ProtocolRaft))
	run(t, server)
	two := member(t, one, "node2")
	d.add(two, server.Addr())
	cache := tls.NewLRUClientSessionCache(8)
	config := &tls.Config{
		NextProtos: []string{ProtocolRaft}, Certificates: []tls.Certificate{two.Certificate()},
		InsecureSkipVerify: true, ClientSessionCache: cache, ServerName: "node1",
	}
	for range 2 {
		c, err := tls.Dial("tcp", server.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // a ticket would stand before it
			t.Fatal(err)
		}
		if err := roundTrip(c); err != nil {
			t.Fatal(err)
		}
		if _, ok := cache.Get("node1"); ok || c.ConnectionState().DidResume {
			t.Fatal("the server gave a ticket")
		}
		c.Close()
	}
}

// TestSilentStrangersGiveWay: more connections than there are places, and none says a word.
func TestSilentStrangersGiveWay(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	server, client := prepare(t, one, d), prepare(t, member(t, one, "node2"), d)
	echo(t, server.Listener(ProtocolRaft))
	run(t, server)
	const more = 20
	var silent []net.Conn
	for range maxStrangers + more {
		c, err := net.Dial("tcp", server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	c, err := client.Dial(t.Context(), "node1", ProtocolRaft)
	if err != nil {
		t.Fatalf("a member among silent strangers: %v", err)
	}
	defer c.Close()
	server.strangers.Lock()
	n := server.strangers.order.Len()
	server.strangers.Unlock()
	if n > maxStrangers {
		t.Errorf("%d strangers; want at most %d", n, maxStrangers)
	}
	for _, s := range silent[:more] {
		awaitClosed(t, s)
	}
	if err := roundTrip(c); err != nil {
		t.Errorf("a member behind silent strangers: %v", err)
	}
}

func TestSlowHandshakeEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a timeout of 5 s")
	}
	t.Parallel()
	server := prepare(t, founder(t, "node1"), newTable())
	run(t, server)
	began := time.Now()
	silent, err := net.Dial("tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	// This one shakes hands to join, and then says nothing.
	joining, err := tls.Dial("tcp", server.Addr().String(), &tls.Config{NextProtos: []string{ProtocolJoin}, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer joining.Close()
	awaitClosed(t, silent)
	awaitClosed(t, joining)
	if took := time.Since(began); took < handshakeTimeout-time.Second {
		t.Errorf("closed after %v; a slow member has %v", took, handshakeTimeout)
	}
}

func TestConnectionsWithOneNodeAreBounded(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	server, client := prepare(t, one, d), prepare(t, member(t, one, "node2"), d)
	echo(t, server.Listener(ProtocolRaft))
	run(t, server)
	var last *Conn
	for range maxConns {
		c, err := client.Dial(t.Context(), "node1", ProtocolRaft)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		last = c
	}
	if c, err := client.Dial(t.Context(), "node1", ProtocolRaft); err == nil {
		c.Close()
		t.Fatalf("connection %d was opened", maxConns+1)
	}
	last.Close()
	awaitConns(t, server, "node2", maxConns-1)
	c, err := client.Dial(t.Context(), "node1", ProtocolRaft)
	if err != nil {
		t.Fatalf("after one was closed: %v", err)
	}
	c.Close()
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
			t.Fatalf("%d connections with %s are left; want %d", have, node, n)
		}
	}
}

func TestRunEndsEverything(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	server, client := prepare(t, one, d), prepare(t, member(t, one, "node2"), d)
	echo(t, server.Listener(ProtocolRaft))
	started := make(chan struct{})
	var answered bool
	server.Handle("wait", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		close(started)
		<-ctx.Done()
		<-time.After(200 * time.Millisecond) // it takes its time to end
		answered = true
		return nil, nil
	})
	stop := run(t, server)
	c, err := client.Dial(t.Context(), "node1", ProtocolRaft)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	calling := make(chan struct{})
	go func() {
		defer close(calling)
		client.Call(t.Context(), "node1", "wait", nil)
	}()
	<-started
	silent, err := net.Dial("tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	stop()
	if !answered {
		t.Error("Run ended before a handler")
	}
	awaitClosed(t, c)
	awaitClosed(t, silent)
	<-calling
	if _, err := server.Dial(t.Context(), "node2", ProtocolRaft); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial after Run: %v; want net.ErrClosed", err)
	}
	if err := server.Run(t.Context()); err == nil {
		t.Error("ran twice")
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	client := prepare(t, one, d)
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, in the kernel, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.DialAddress(ctx, "node2", l.Addr().String(), ProtocolRaft); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v; want context.DeadlineExceeded", err)
	}
}
