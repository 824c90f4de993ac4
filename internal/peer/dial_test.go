package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"
)

func TestDialAuthenticatesBothEnds(t *testing.T) {
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

	// The client may dial although its Run was not called.
	c, err := client.Dial(t.Context(), "node1", ProtocolTunnel)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	remote := <-accepted
	defer remote.Close()
	if c.Node() != "node1" || remote.Node() != "node2" {
		t.Errorf("the server is %q, want node1; the client is %q, want node2", c.Node(), remote.Node())
	}
	state := c.ConnectionState()
	if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != ProtocolTunnel {
		t.Errorf("TLS version %x, want %x; protocol %q, want %q", state.Version, tls.VersionTLS13, state.NegotiatedProtocol, ProtocolTunnel)
	}
	local, err1 := state.ExportKeyingMaterial("label", nil, 32)
	remoteState := remote.ConnectionState()
	exported, err2 := remoteState.ExportKeyingMaterial("label", nil, 32)
	if err1 != nil || err2 != nil || !bytes.Equal(local, exported) {
		t.Errorf("exported keys differ: client %x, error %v; server %x, error %v", local, err1, exported, err2)
	}
}

func TestDialRefusesAnotherNode(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	client := prepare(t, one, d)
	three := prepare(t, member(t, one, "node3"), d)
	echo(t, three.Listener(ProtocolRaft))
	run(t, three)
	two := member(t, one, "node2")
	d.add(two, three.Addr()) // node3 has the address of node2

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
		t.Error("dialled node2 and got node3")
	}
	d.Lock()
	d.keys["node2"] = three.id.PublicKey() // its certificate still names node3
	d.Unlock()
	if err := dial("node2"); err == nil {
		t.Error("dialled node2 and got node3, which has the key of node2 in the directory")
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

// tlsServer starts a server and returns its address. The server accepts every client, sends the
// byte accepted and closes the connection.
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

// In TLS 1.3 a client's handshake succeeds before the server has checked the client's certificate.
// Dial fails nevertheless if the server then refuses the client.
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
		t.Fatal("Dial succeeded, although the server does not admit the client")
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	client := prepare(t, one, d)
	l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts connections, and no process answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.DialAddress(ctx, "node2", l.Addr().String(), ProtocolRaft); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial a node that does not answer: got %v; want context.DeadlineExceeded", err)
	}
}
