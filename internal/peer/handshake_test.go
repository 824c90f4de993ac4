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

func TestOnlyMembersAreAdmitted(t *testing.T) {
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

// TestMemberFencedDuringItsHandshakeIsClosed: the directory changes, and Drop is called, after the
// handshake's check and before the connection can be found.
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

// TestSilentConnectionsGiveWayToMembers: more connections than there are places, and none says a word.
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
		t.Fatalf("a member among silent strangers: %v", err)
	}
	defer c.Close()
	server.pending.Lock()
	n := server.pending.order.Len()
	server.pending.Unlock()
	if n > maxPending {
		t.Errorf("%d strangers; want at most %d", n, maxPending)
	}
	for _, s := range silent[:more] {
		awaitClosed(t, s)
	}
	if err := roundTrip(c); err != nil {
		t.Errorf("a member behind silent strangers: %v", err)
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
