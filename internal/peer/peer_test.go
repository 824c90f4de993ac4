package peer

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

func TestDropClosesEveryConnectionOfTheNode(t *testing.T) {
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
	if _, err := client.Call(t.Context(), "node1", "echo", nil); err != nil { // leaves an idle connection open
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
			t.Errorf("the call in progress got error %v; want the error of a closed connection", err)
		}
	case <-time.After(patience):
		t.Error("the call in progress has not returned")
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
		t.Errorf("the server has connections with %d nodes; want 0", n)
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
		t.Fatalf("connection %d was opened, want it refused", maxConns+1)
	}
	last.Close()
	awaitConns(t, server, "node2", maxConns-1)
	c, err := client.Dial(t.Context(), "node1", ProtocolRaft)
	if err != nil {
		t.Fatalf("dial after one of the connections was closed: %v", err)
	}
	c.Close()
}

func TestRunEndsCallsAndConnections(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	server, client := prepare(t, one, d), prepare(t, member(t, one, "node2"), d)
	echo(t, server.Listener(ProtocolRaft))
	started := make(chan struct{})
	var answered bool
	server.Handle("wait", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		close(started)
		<-ctx.Done()
		<-time.After(200 * time.Millisecond) // this handler ends late
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
		t.Error("Run returned before a handler had ended")
	}
	awaitClosed(t, c)
	awaitClosed(t, silent)
	<-calling
	if _, err := server.Dial(t.Context(), "node2", ProtocolRaft); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial after Run: got %v; want net.ErrClosed", err)
	}
	if err := server.Run(t.Context()); err == nil {
		t.Error("a second Run returned nil, want an error")
	}
}
