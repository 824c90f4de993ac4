package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"palisade/ec2"
)

const albert = ec2.AccountID("598916040194")

// patience is what a loaded machine may need for what takes far less.
const patience = time.Minute

var discard = slog.New(slog.DiscardHandler)

// nodeConfig is a node without uplink or images: it needs no root.
func nodeConfig(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{
		Name: "node1", Zone: "us-east-1a", Region: "us-east-1", DataDir: dir,
		APISocket: filepath.Join(dir, "api.sock"), ControlSocket: filepath.Join(dir, "control.sock"), Arena: filepath.Join(dir, "arena"),
		Classic: Classic{
			Network: netip.MustParsePrefix("10.0.0.0/8"), Pools: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")},
			PublicPools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
		},
		Account: []Account{{ID: albert, Name: "albert", Platform: ec2.Classic, AccessKey: "AKIDALBERT", SecretKey: "secret"}},
	}
}

type testNode struct{ *Node }

// request sends a request to the node's control socket and returns the answer, or the error that
// it names.
func request[T any](t *testing.T, n testNode, method, path string, body any) (answer T, err error) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	n.control.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, bytes.NewReader(data)))
	if w.Code != http.StatusOK {
		var refusal struct{ Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &refusal); err != nil || refusal.Error == "" {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		return answer, errors.New(refusal.Error)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer, nil
}

func newNode(t *testing.T, c Config) testNode {
	t.Helper()
	n, err := New(c, discard)
	if err != nil {
		t.Fatal(err)
	}
	return testNode{n}
}

// start runs the node and returns when it is ready. What it returns stops the node.
func (n testNode) start(t *testing.T) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop = func() error {
		cancel()
		err := <-ended
		ended <- nil // a second stop is no error
		return err
	}
	t.Cleanup(func() { _ = stop() })
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !n.isReady(); {
		select {
		case <-tick.C:
		case err := <-ended:
			t.Fatalf("the node ended: %v", err)
		case <-deadline:
			t.Fatalf("the node is not ready after %s", patience)
		}
	}
	return stop
}
