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
	"palisade/internal/bootfile/bootfiletest"
)

const albert = ec2.AccountID("598916040194")

// patience is how long a test waits for something that takes much less on an idle machine.
const patience = time.Minute

var discard = slog.New(slog.DiscardHandler)

// nodeConfig is the configuration of a node that needs no root: it has no uplink and boots no instances.
func nodeConfig(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{
		Name: "node1", Zone: "us-east-1a", Region: "us-east-1", DataDir: dir,
		APISocket: filepath.Join(dir, "api.sock"), ControlSocket: filepath.Join(dir, "control.sock"), Arena: filepath.Join(bootfiletest.Dir(t), "arena"),
		Classic: Classic{
			Network: netip.MustParsePrefix("10.0.0.0/8"), Pools: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")},
			PublicPools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
		},
		Account: []Account{{ID: albert, Name: "albert", Platform: ec2.Classic, AccessKey: "AKIDALBERT", SecretKey: "secret"}},
	}
}

// A testNode is a node whose log is kept for reports.
type testNode struct {
	*Node
	log *logBuffer
}

// request sends a request to the node's control socket and returns the decoded answer, or the error in
// it.
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
			t.Fatalf("%s %s: status %d without an error in its body %s", method, path, w.Code, w.Body)
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
	log := &logBuffer{}
	n, err := New(c, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	return testNode{n, log}
}

// start runs the node and waits until it is ready. The function stop ends the node and returns the error
// of Run.
func (n testNode) start(t *testing.T) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop = func() error {
		cancel()
		err := <-ended
		ended <- nil // for a second call of stop
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
