package node

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// TestNoHandlerOutlivesServe: what a handler reads is gone once the node's Run returns.
func TestNoHandlerOutlivesServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := listen(path)
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
		t.Fatal("serve returned before its handler")
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	if <-ended; !left.Load() {
		t.Error("the handler has not ended")
	}
}
