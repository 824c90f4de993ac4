package node

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestServeWaitsForItsHandlers: after Run returns, the memory that a handler reads is unmapped.
func TestServeWaitsForItsHandlers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	entered, leave := make(chan struct{}), make(chan struct{})
	var left atomic.Bool
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(entered)
			<-leave
			left.Store(true)
		}))
	}()
	go func() {
		client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
		if answer, err := client.Get("http://node/"); err == nil {
			answer.Body.Close()
		}
	}()
	<-entered
	cancel()
	select {
	case <-ended:
		t.Fatal("serve returned while its handler was waiting")
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	if <-ended; !left.Load() {
		t.Error("serve returned before its handler ended")
	}
}

// TestHeadersAreBounded: a request with too long headers is refused, so that it takes no memory.
func TestHeadersAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	}()
	for _, c := range []struct{ size, status int }{{1 << 10, 204}, {1 << 20, 431}} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: %s\r\n\r\n", strings.Repeat("x", c.size))
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != c.status {
			t.Errorf("a header of %d bytes: answer %v, error %v; want status %d", c.size, answer, err, c.status)
		}
		conn.Close()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
