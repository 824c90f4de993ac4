package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"palisade/ec2/state"
	"palisade/internal/node/plane"
)

func TestNodeWithDamagedEnforcedIndexDoesNotStart(t *testing.T) {
	c := nodeConfig(t)
	path := filepath.Join(c.DataDir, "enforced")
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(c, discard); err == nil || !strings.Contains(err.Error(), path+" is damaged") {
		t.Errorf("New: error %v, want one that says the file is damaged", err)
	}
}

// TestNodeWhoseLogLostEntriesOpensNoPort: the log ends before the index that the switch enforced, so
// rules that were revoked would be in force again.
func TestNodeWhoseLogLostEntriesOpensNoPort(t *testing.T) {
	c := nodeConfig(t)
	n := newNode(t, c)
	stop := n.start(t)
	for i := range 5 {
		name := fmt.Sprint("group", i)
		if _, _, err := (backend{n.Node}).Apply(t.Context(), state.Command{Request: &state.CreateSecurityGroup{
			Account: albert, Region: c.Region, Name: name, Description: name}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	enforced := n.sw.Snapshot().Generation
	if m, err := plane.OpenEnforcedIndex(n.enforcedIndex.Path()); err != nil || m.Index() != enforced || enforced == 0 {
		t.Fatalf("the index on disk is %d, error %v; want %d, which the switch enforces, and not 0", m.Index(), err, enforced)
	}

	t.Run("whole log", func(t *testing.T) {
		n := newNode(t, c)
		if err := n.start(t)(); err != nil {
			t.Errorf("run with a complete log: %v", err)
		}
		if got := n.sw.Snapshot().Generation; got < enforced {
			t.Errorf("the switch enforces index %d, want at least %d, as before the restart", got, enforced)
		}
	})
	t.Run("log gone", func(t *testing.T) {
		if err := os.RemoveAll(filepath.Join(c.DataDir, "raft")); err != nil {
			t.Fatal(err)
		}
		n := newNode(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		err := n.Run(ctx)
		if err == nil || !strings.Contains(err.Error(), "but the log ends at 0") || !strings.Contains(err.Error(), n.enforcedIndex.Path()) {
			t.Errorf("run without the log: error %v, want one that names the index file", err)
		}
		if s := n.sw.Snapshot(); s.Generation != 0 || s.UplinkPort() != nil || n.isReady() {
			t.Errorf("the switch has generation %d and uplink %v, ready is %v; want 0, nil and false", s.Generation, s.UplinkPort(), n.isReady())
		}
	})
}
