package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

type codedError struct{}

func (codedError) Error() string { return "no leader" }
func (codedError) Code() string  { return "NoLeader" }

// callers returns two members: server, which runs with the handlers, and client, which does not run.
func callers(t *testing.T, handlers map[string]Handler) (server, client *Peer) {
	t.Helper()
	d := newTable()
	one := founder(t, "node1")
	server, client = prepare(t, one, d), prepare(t, member(t, one, "node2"), d)
	for method, h := range handlers {
		server.Handle(method, h)
	}
	run(t, server)
	return server, client
}

func TestCallReturnsTheAnswerOrTheError(t *testing.T) {
	_, client := callers(t, map[string]Handler{
		"echo": func(_ context.Context, from string, body []byte) ([]byte, error) {
			return append([]byte(from+" says "), body...), nil
		},
		"nothing": func(context.Context, string, []byte) ([]byte, error) { return nil, nil },
		"plain":   func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("no such thing") },
		"coded": func(context.Context, string, []byte) ([]byte, error) {
			return nil, fmt.Errorf("apply: %w", codedError{})
		},
		"remote": func(context.Context, string, []byte) ([]byte, error) {
			return nil, &RemoteError{Code: "Server.NodeFenced", Text: "node2 is fenced"}
		},
		"long": func(context.Context, string, []byte) ([]byte, error) { return make([]byte, MaxMessage+1), nil },
		"full": func(_ context.Context, _ string, body []byte) ([]byte, error) { return body, nil },
	})
	full := bytes.Repeat([]byte("x"), MaxMessage)
	for _, test := range []struct {
		method, body, want, code, text string
	}{
		{method: "echo", body: "hello", want: "node2 says hello"},
		{method: "nothing"},
		{method: "full", body: string(full), want: string(full)},
		{method: "plain", text: "no such thing"},
		{method: "coded", code: "NoLeader", text: "apply: no leader"},
		{method: "remote", code: "Server.NodeFenced", text: "node2 is fenced"},
		{method: "long", code: CodeTooLarge, text: "the answer is longer than 8388608 bytes"},
		{method: "unheard-of", code: CodeUnknownMethod, text: `node1 has no method "unheard-of"`},
	} {
		answer, err := client.Call(t.Context(), "node1", test.method, []byte(test.body))
		if test.text == "" {
			if err != nil || string(answer) != test.want {
				t.Errorf("call %s: answer %.80q, error %v; want answer %.80q", test.method, answer, err, test.want)
			}
			continue
		}
		remote, ok := errors.AsType[*RemoteError](err)
		if !ok || remote.Code != test.code || remote.Text != test.text {
			t.Errorf("call %s: error %v; want code %q, text %q", test.method, err, test.code, test.text)
		}
	}
	if _, err := client.Call(t.Context(), "node1", "echo", append(full, 'x')); err == nil {
		t.Error("Call sent a body that is too large, want an error")
	}
	if _, err := client.Call(t.Context(), "node1", "echo?x=y z", nil); err == nil {
		t.Error("Call accepted an invalid name of a method")
	}
}

// The server also refuses a body that is too large, in case a client sends one.
func TestOversizedCallIsRefused(t *testing.T) {
	called := false
	_, client := callers(t, map[string]Handler{
		"echo": func(context.Context, string, []byte) ([]byte, error) { called = true; return nil, nil },
	})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://node1/rpc/echo", bytes.NewReader(make([]byte, MaxMessage+1)))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.transport.RoundTrip(request)
	if err == nil { // an error is correct too, because the server may close the connection before the client has sent all
		response.Body.Close()
		if response.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("status is %s; want %d", response.Status, http.StatusRequestEntityTooLarge)
		}
	}
	if called {
		t.Error("the handler was called with the body that is too large")
	}
}

func TestHandlerGetsTheCallersDeadline(t *testing.T) {
	type seen struct {
		left time.Duration
		err  error
	}
	ended := make(chan seen, 1)
	_, client := callers(t, map[string]Handler{
		"wait": func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			deadline, _ := ctx.Deadline()
			left := time.Until(deadline)
			<-ctx.Done()
			ended <- seen{left, context.Cause(ctx)}
			return nil, ctx.Err()
		},
		// answers at once whether its context has a deadline, and whether that is 50 s away
		"until": func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			deadline, ok := ctx.Deadline()
			return fmt.Append(nil, ok, time.Until(deadline) > 50*time.Second), nil
		},
		"free": func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			_, ok := ctx.Deadline()
			return fmt.Append(nil, ok), nil
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if answer, err := client.Call(ctx, "node1", "until", nil); err != nil || string(answer) != "true true" {
		t.Errorf("call with a deadline in a minute: answer %q, error %v; want \"true true\"", answer, err)
	}
	if answer, err := client.Call(t.Context(), "node1", "free", nil); err != nil || string(answer) != "false" {
		t.Errorf("call without a deadline: answer %q, error %v; want \"false\"", answer, err)
	}

	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := client.Call(ctx, "node1", "wait", nil); err == nil {
		t.Error("the call returned no error at its deadline")
	}
	select {
	case s := <-ended:
		if s.left > 300*time.Millisecond {
			t.Errorf("the handler began %v before its deadline, want at most 300ms", s.left)
		}
	case <-time.After(patience):
		t.Fatal("the handler's context did not end at the caller's deadline")
	}

	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := client.Call(ctx, "node1", "wait", nil)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: got %v; want context.Canceled", err)
	}
}

// If the caller sets no deadline, the handler's context ends when the caller cancels the call.
func TestHandlerContextEndsWhenTheCallerLeaves(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	_, client := callers(t, map[string]Handler{
		"wait": func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			close(started)
			<-ctx.Done()
			close(ended)
			return nil, nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go client.Call(ctx, "node1", "wait", []byte("body"))
	<-started
	cancel()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Errorf("the handler's context has not ended %s after the caller left", patience)
	}
}

// A Peer whose Run is ending closes its connections one after the other. A call on a connection
// that is still open returns ErrNotConnected, so that the caller can ask another node.
func TestCallToAnEndingPeerReturnsErrNotConnected(t *testing.T) {
	server, client := callers(t, map[string]Handler{
		"echo": func(_ context.Context, _ string, body []byte) ([]byte, error) { return body, nil },
	})
	if _, err := client.Call(t.Context(), "node1", "echo", []byte("x")); err != nil {
		t.Fatal(err)
	}
	setClosed := func(yes bool) {
		server.mu.Lock()
		defer server.mu.Unlock()
		server.mu.closed = yes
	}
	setClosed(true)
	defer setClosed(false)
	if answer, err := client.Call(t.Context(), "node1", "echo", []byte("x")); !errors.Is(err, ErrNotConnected) {
		t.Errorf("call to a peer that is ending: answer %q, error %v; want ErrNotConnected", answer, err)
	}
}

func TestCallsShareConnections(t *testing.T) {
	server, client := callers(t, map[string]Handler{
		"echo": func(_ context.Context, _ string, body []byte) ([]byte, error) { return body, nil },
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				if _, err := client.Call(t.Context(), "node1", "echo", []byte("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	server.mu.Lock()
	n := len(server.mu.conns["node2"])
	server.mu.Unlock()
	if n < 1 || n > 8 {
		t.Errorf("200 calls by 8 goroutines left %d connections; want 1 to 8", n)
	}
}

// The last call left a connection open, and the remote node closed it when it stopped.
func TestCallSucceedsAfterTheRemoteNodeRestarts(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	echo := func(_ context.Context, _ string, body []byte) ([]byte, error) { return body, nil }
	first, client := prepare(t, one, d), prepare(t, member(t, one, "node2"), d)
	first.Handle("echo", echo)
	stop := run(t, first)
	if _, err := client.Call(t.Context(), "node1", "echo", nil); err != nil {
		t.Fatal(err)
	}
	stop()
	second := prepare(t, one, d)
	second.Handle("echo", echo)
	run(t, second)
	awaitConns(t, client, "node1", 0)
	if _, err := client.Call(t.Context(), "node1", "echo", nil); err != nil {
		t.Fatal(err)
	}
}
