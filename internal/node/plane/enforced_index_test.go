package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"palisade/ec2"
)

func TestEnforcedMarkOnlyAdvances(t *testing.T) {
	path := filepath.Join(t.TempDir(), "enforced")
	m, err := openEnforced(path)
	if err != nil || m.index != 0 {
		t.Fatalf("a new mark: %d, %v", m.index, err)
	}
	for _, step := range []struct{ to, want uint64 }{{7, 7}, {7, 7}, {3, 7}, {1 << 40, 1 << 40}} {
		if err := m.advance(step.to); err != nil {
			t.Fatal(err)
		}
		again, err := openEnforced(path)
		if err != nil || again.index != step.want || m.index != step.want {
			t.Errorf("after advance(%d): %d, on disk %d, %v; want %d", step.to, m.index, again.index, err, step.want)
		}
	}
	if files, _ := filepath.Glob(path + "*"); len(files) != 1 {
		t.Errorf("left beside the mark: %v", files)
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := m.advance(1<<40 + 1); err == nil || m.index != 1<<40 {
		t.Errorf("advance without a disk: %v, index %d", err, m.index)
	}
}

func TestDamagedEnforcedMarkIsAnError(t *testing.T) {
	c := nodeConfig(t)
	path := filepath.Join(c.DataDir, "enforced")
	m := &enforcedMark{path: path}
	if err := m.advance(0x0102030405060708); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{"empty": {}, "cut": whole[:11], "too long": append(whole[:12:12], 0)}
	for bit := range len(whole) * 8 {
		b := append([]byte(nil), whole...)
		b[bit/8] ^= 1 << (bit % 8)
		damaged[fmt.Sprint("bit ", bit)] = b
	}
	for name, data := range damaged {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openEnforced(path); err == nil || !strings.Contains(err.Error(), path+" is damaged") {
			t.Errorf("%s: %v, want that it is damaged", name, err)
		}
	}
	if _, err := New(c, discard); err == nil || !strings.Contains(err.Error(), path+" is damaged") {
		t.Errorf("a node with a damaged mark: %v", err)
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
		if _, _, err := backend(n).Apply(t.Context(), ec2.Command{Request: &ec2.CreateSecurityGroup{
			Account: albert, Region: c.Region, Name: name, Description: name}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	enforced := n.sw.Snapshot().Generation
	if m, err := openEnforced(n.plane.mark.path); err != nil || m.index != enforced || enforced == 0 {
		t.Fatalf("the mark is %d, %v; the switch goes by %d", m.index, err, enforced)
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
		if err == nil || !strings.Contains(err.Error(), "is not in the log") || !strings.Contains(err.Error(), n.plane.mark.path) {
			t.Errorf("a node without its log: %v", err)
		}
		if s := n.sw.Snapshot(); s.Generation != 0 || s.UplinkPort() != nil || n.isReady() {
			t.Errorf("its switch goes by generation %d, uplink %v, ready %v", s.Generation, s.UplinkPort(), n.isReady())
		}
	})
}

// TestNothingIsEnforcedThatIsNotMarked: the mark comes first. If it cannot be written, by a
// full disk or a crash in between, the switch keeps the state it has, so that a node that
// restarts never enforces less than it has enforced before. Nor does it take an older state
// than the mark names.
func TestNothingIsEnforcedThatIsNotMarked(t *testing.T) {
	d := newDrawing(t)
	plane := d.node.plane
	enforced, older := plane.enforced(), d.view
	unchanged := func(what string, err error) {
		t.Helper()
		if got := d.node.sw.Snapshot().Generation; err == nil || got != enforced || plane.enforced() != enforced || plane.mark.index != enforced {
			t.Errorf("%s: %v; the switch enforces %d, settled is %d, and the mark is at %d; want an error and %d", what, err, got, plane.settled.Load(), plane.mark.index, enforced)
		}
	}
	path := plane.mark.path
	plane.mark.path = filepath.Join(t.TempDir(), "gone", "enforced")
	d.decide(&ec2.CreateSecurityGroup{Account: dev, Region: region, VPC: d.vpc.ID, Name: "after", Description: "after"})
	unchanged("without a disk", plane.apply(d.state.ViewSince(d.view)))
	plane.mark.path = path
	d.catchUp()
	enforced = plane.enforced()
	unchanged("an older state", plane.apply(older))
	if again, err := openEnforced(path); err != nil || again.index != enforced {
		t.Errorf("on disk the mark is at %d, %v; want %d", again.index, err, enforced)
	}
}
