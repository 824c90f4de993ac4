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

// TestNodeWithDamagedEnforcedIndexDoesNotStart: it cannot know which rules it enforced before.
func TestNodeWithDamagedEnforcedIndexDoesNotStart(t *testing.T) {
	c := nodeConfig(t)
	path := filepath.Join(c.DataDir, "enforced")
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(c, discard); err == nil || !strings.Contains(err.Error(), path+" is damaged") {
		t.Errorf("a node with a damaged enforced index: %v", err)
	}
}

// TestNodeWhoseLogLostEntriesOpensNoPort: the switch has gone by an index that the log no
// longer reaches, so rules that were revoked would be back.
func TestNodeWhoseLogLostEntriesOpensNoPort(t *testing.T) {
	c := nodeConfig(t)
	n := newNode(t, c)
	stop := n.start(t)
	for i := range 5 {
		name := fmt.Sprint("group", i)
		if _, _, err := backend(n).Apply(t.Context(), state.Command{Request: &state.CreateSecurityGroup{
			Account: albert, Region: c.Region, Name: name, Description: name}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	enforced := n.sw.Snapshot().Generation
	if m, err := plane.OpenEnforcedIndex(n.mark.Path()); err != nil || m.Index() != enforced || enforced == 0 {
		t.Fatalf("the mark is %d, %v; the switch goes by %d", m.Index(), err, enforced)
	}

	t.Run("whole log", func(t *testing.T) {
		n := newNode(t, c)
		if err := n.start(t)(); err != nil {
			t.Errorf("a node whose log is whole: %v", err)
		}
		if got := n.sw.Snapshot().Generation; got < enforced {
			t.Errorf("the switch goes by %d, and went by %d before", got, enforced)
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
		if err == nil || !strings.Contains(err.Error(), "is not in the log") || !strings.Contains(err.Error(), n.mark.Path()) {
			t.Errorf("a node without its log: %v", err)
		}
		if s := n.sw.Snapshot(); s.Generation != 0 || s.UplinkPort() != nil || n.isReady() {
			t.Errorf("its switch goes by generation %d, uplink %v, ready %v", s.Generation, s.UplinkPort(), n.isReady())
		}
	})
}
