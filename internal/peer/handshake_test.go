package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"testing"
	"time"
)

// admissionTest has a running server and receives the names of the nodes that it admits.
type admissionTest struct {
	server    *Peer
	connected <-chan string // names of the nodes whose streams were accepted
	called    chan string   // names of the nodes whose calls were handled
}

func newAdmissionTest(t *testing.T, one *Identity, d *table) *admissionTest {
	t.Helper()
	a := &admissionTest{server: prepare(t, one, d), called: make(chan string, 100)}
	a.connected = echo(t, a.server.Listener(ProtocolRaft))
	a.server.Handle("secret", func(_ context.Context, from string, _ []byte) ([]byte, error) {
		a.called <- from
		return nil, nil
	})
	run(t, a.server)
	return a
}

// try connects to the server with a TLS configuration and sends a call. It reports whether an
// answer came.
func (a *admissionTest) try(t *testing.T, config *tls.Config) (admitted bool, err error) {
	t.Helper()
	raw, err := net.Dial("tcp", a.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(patience))
	c := tls.Client(raw, config)
	n, err := 0, c.Handshake()
	if err == nil {
		fmt.Fprintf(c, "POST /rpc/secret HTTP/1.1\r\nHost: node1\r\nContent-Length: 0\r\n\r\n")
		n, err = c.Read(make([]byte, 1))
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		t.Fatalf("the server neither answers nor closes the connection: %v", err)
	}
	return n == 1 && err == nil, err
}

// awaitNode2 waits until node2 has reached the listener or the handler.
func (a *admissionTest) awaitNode2(t *testing.T) {
	t.Helper()
	select {
	case from := <-a.connected:
		if from != "node2" {
			t.Errorf("the listener got a stream of %q; want node2", from)
		}
	case from := <-a.called:
		if from != "node2" {
			t.Errorf("the handler got a call of %q; want node2", from)
		}
	case <-time.After(patience):
		t.Error("the member reached neither the listener nor the handler")
	}
}

// clientConfig returns the configuration of a client that sends cert whichever certificates the
// server asks for. With a nil cert it sends none.
func clientConfig(version uint16, cert *tls.Certificate, protocols ...string) *tls.Config {
	c := &tls.Config{MinVersion: version, MaxVersion: version, NextProtos: protocols, InsecureSkipVerify: true}
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c
}

// twoNames returns a certificate of the cluster that names node5 in its subject and node2 in its
// URI.
func twoNames(t *testing.T, one, five *Identity) tls.Certificate {
	t.Helper()
	template := *five.cert()
	template.URIs = []*url.URL{nodeURI(one.Cluster(), "node2")}
	cert, err := sign(&template, one.authority().root, five.key.Public(), one.authority().key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: five.key}
}

func TestOnlyMembersAreAdmitted(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	a := newAdmissionTest(t, one, d)
	// The directory has the keys of node2, of node5, and of node4, which is of another cluster.
	two, foreign, five := member(t, one, "node2"), founder(t, "node4"), member(t, one, "node5")
	for _, id := range []*Identity{two, foreign, five} {
		d.add(id, a.server.Addr())
	}
	known, another, misnamed := two.Certificate(), foreign.Certificate(), twoNames(t, one, five)
	other := founder(t, "node2").Certificate()
	unknown := member(t, one, "node3").Certificate()
	stolenName := member(t, one, "node2").Certificate()
	for _, test := range []struct {
		name   string
		config *tls.Config
		admit  bool
	}{
		{"a member", clientConfig(tls.VersionTLS13, &known, ProtocolRaft), true},
		{"a call of a member", clientConfig(tls.VersionTLS13, &known, ProtocolRPC), true},
		{"no certificate", clientConfig(tls.VersionTLS13, nil, ProtocolRaft), false},
		{"a call without a certificate", clientConfig(tls.VersionTLS13, nil, ProtocolRPC), false},
		{"no certificate, join and another protocol", clientConfig(tls.VersionTLS13, nil, ProtocolJoin, ProtocolRaft), false},
		{"another authority", clientConfig(tls.VersionTLS13, &other, ProtocolRaft), false},
		{"another authority, a known key", clientConfig(tls.VersionTLS13, &another, ProtocolRaft), false},
		{"a certificate with two names", clientConfig(tls.VersionTLS13, &misnamed, ProtocolRaft), false},
		{"a node that is not in the directory", clientConfig(tls.VersionTLS13, &unknown, ProtocolRaft), false},
		{"a member's name, another key", clientConfig(tls.VersionTLS13, &stolenName, ProtocolRaft), false},
		{"TLS 1.2", clientConfig(tls.VersionTLS12, &known, ProtocolRaft), false},
		{"TLS 1.2, to join", clientConfig(tls.VersionTLS12, nil, ProtocolJoin), false},
		{"no protocol", clientConfig(tls.VersionTLS13, &known), false},
		{"a protocol without a listener", clientConfig(tls.VersionTLS13, &known, ProtocolTunnel), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if admitted, err := a.try(t, test.config); admitted != test.admit {
				t.Errorf("admitted: %t, error %v; want admitted %t", admitted, err, test.admit)
			}
			if test.admit {
				a.awaitNode2(t)
			}
		})
	}
	a.inTheClear(t)
	// Refused clients have reached neither the listener nor the handler.
	select {
	case from := <-a.connected:
		t.Errorf("the listener got a stream of a refused client as %q", from)
	case from := <-a.called:
		t.Errorf("the handler got a call of a refused client as %q", from)
	default:
	}
}

// inTheClear sends a call, and what Raft's transport sends first for AppendEntries, without TLS. The
// server closes the connection, and answers at most with a TLS alert.
func (a *admissionTest) inTheClear(t *testing.T) {
	t.Helper()
	for _, sent := range []string{"POST /rpc/secret HTTP/1.1\r\nHost: node1\r\nContent-Length: 0\r\n\r\n", "\x00\x8aRPCHeader\x83"} {
		c, err := net.Dial("tcp", a.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write([]byte(sent))
		_ = c.(*net.TCPConn).CloseWrite()
		const alert = 21 // RFC 8446, section 5.1
		answer, err := io.ReadAll(c)
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() || len(answer) > 0 && answer[0] != alert {
			t.Errorf("%q in the clear: answer %q, error %v; want a TLS alert or nothing", sent, answer, err)
		}
	}
}

// The node is removed from the directory and Drop is called, both after the handshake's check of
// the directory and before Drop can find the connection.
func TestMemberFencedDuringItsHandshakeIsClosed(t *testing.T) {
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
		t.Error("a node fenced during its handshake was admitted")
	default:
	}
}

// fencing is a Directory that accepts each node once, then removes it and calls drop.
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

func TestServerGivesNoSessionTickets(t *testing.T) {
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
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // a session ticket would arrive before this byte
			t.Fatal(err)
		}
		if err := roundTrip(c); err != nil {
			t.Fatal(err)
		}
		if _, ok := cache.Get("node1"); ok || c.ConnectionState().DidResume {
			t.Fatal("the server sent a session ticket")
		}
		c.Close()
	}
}

// The test opens more silent connections than pending has places.
func TestSilentConnectionsGiveWayToMembers(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	server, client := prepare(t, one, d), prepare(t, member(t, one, "node2"), d)
	echo(t, server.Listener(ProtocolRaft))
	run(t, server)
	const more = 20
	var silent []net.Conn
	for range maxPending + more {
		c, err := net.Dial("tcp", server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	c, err := client.Dial(t.Context(), "node1", ProtocolRaft)
	if err != nil {
		t.Fatalf("a member dials while silent connections are open: %v", err)
	}
	defer c.Close()
	server.pending.Lock()
	n := server.pending.order.Len()
	server.pending.Unlock()
	if n > maxPending {
		t.Errorf("%d pending connections; want at most %d", n, maxPending)
	}
	for _, s := range silent[:more] {
		awaitClosed(t, s)
	}
	if err := roundTrip(c); err != nil {
		t.Errorf("a round trip of the member after silent connections were closed: %v", err)
	}
}

func TestSlowHandshakeIsClosed(t *testing.T) {
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
	// This client completes a handshake with the join protocol and then sends nothing.
	joining, err := tls.Dial("tcp", server.Addr().String(), &tls.Config{NextProtos: []string{ProtocolJoin}, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer joining.Close()
	awaitClosed(t, silent)
	awaitClosed(t, joining)
	if took := time.Since(began); took < handshakeTimeout-time.Second {
		t.Errorf("the connections were closed after %v; want about %v", took, handshakeTimeout)
	}
}
