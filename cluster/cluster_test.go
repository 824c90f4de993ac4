package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/testwait"
)

const (
	albert = ec2.AccountID("598916040194")
	region = ec2.Region("us-east-1")
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("PALISADE_TEST_WRITE_GROUPS_TO"); dir != "" {
		os.Exit(writeGroups(dir))
	}
	os.Exit(m.Run())
}

func bootstrap() []state.Command {
	return []state.Command{
		{Request: &state.Bootstrap{Seed: "a seed of the cluster's tests"}},
		{Request: &state.PutNetwork{Network: ec2.Network{
			VNI:         1,
			Region:      region,
			Prefix:      netip.MustParsePrefix("10.0.0.0/8"),
			Pools:       []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")},
			PublicPools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
		}}},
		{Request: &state.PutNode{Node: ec2.Node{ID: "node1", Zone: "us-east-1a"}}},
		{Request: &state.CreateAccount{ID: albert, Name: "albert", Platform: ec2.Classic, AccessKey: "AKIDALBERT", Secret: "secret"}},
	}
}

// open makes a cluster and runs it until the test ends or stop is called. stop returns Run's error.
func open(t *testing.T, cfg Config) (c *Cluster, stop func() error) {
	t.Helper()
	if cfg.Node == "" {
		cfg.Node = "node1"
	}
	if cfg.Bootstrap == nil {
		cfg.Bootstrap = bootstrap()
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return c, stop
}

func ready(t *testing.T, c *Cluster) {
	t.Helper()
	select {
	case <-c.Ready():
	case <-c.stopped:
		t.Fatal("the cluster stopped before it was ready")
	case <-time.After(testwait.Patience):
		t.Fatalf("the cluster is not ready after %s", testwait.Patience)
	}
}

func createGroup(ctx context.Context, c *Cluster, name string) (uint64, error) {
	_, index, err := asUser(ctx, c, &state.CreateSecurityGroup{Account: albert, Region: region, Name: name, Description: "test"})
	return index, err
}

func hasGroup(v *state.View, name string) bool {
	_, ok := v.GroupNamed(albert, region, "", name)
	return ok
}

func TestAppliedChangeIsVisibleAndSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	c, stop := open(t, Config{Dir: dir})
	ready(t, c)
	index, err := createGroup(t.Context(), c, "web")
	if err != nil {
		t.Fatal(err)
	}
	view, err := c.ReadView(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if view.Index() != index || !hasGroup(view, "web") {
		t.Errorf("ReadView: index %d, want %d; has group web: %t, want true", view.Index(), index, hasGroup(view, "web"))
	}
	if _, err := createGroup(t.Context(), c, "web"); !isCode(err, "InvalidGroup.Duplicate") {
		t.Errorf("second create: got %v, want InvalidGroup.Duplicate", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := createGroup(t.Context(), c, "late"); !errors.Is(err, ErrStopped) {
		t.Errorf("apply after stop: got %v, want ErrStopped", err)
	}

	c, _ = open(t, Config{Dir: dir})
	ready(t, c)
	if view := c.View(); !hasGroup(view, "web") {
		t.Error("group web is gone after a restart")
	}
	if got := c.View().Index(); got != index+1 {
		t.Errorf("index %d after a restart, want %d: was the bootstrap applied twice?", got, index+1)
	}
}

func isCode(err error, code string) bool {
	e, ok := errors.AsType[*ec2.Error](err)
	return ok && e.Code == code
}

func TestNextReturnsEverythingThenChanges(t *testing.T) {
	dir := t.TempDir()
	c, stop := open(t, Config{Dir: dir})
	ready(t, c)
	first, err := c.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := len(first.Changes().Groups); got != 1 {
		t.Errorf("the first View has %d new groups, want 1, the default group", got)
	}
	for _, name := range []string{"a", "b"} {
		if _, err := createGroup(t.Context(), c, name); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = c.Apply(t.Context(), state.Command{Request: &state.DeleteSecurityGroup{Account: albert, Region: region, Group: state.GroupSelector{Name: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	changes := second.Changes().Groups
	if len(changes) != 1 || changes[0].Before != nil || changes[0].After.Name != "b" {
		t.Errorf("changes %+v, want group b alone, because a was created and deleted", changes)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Next without a change: got %v, want context.DeadlineExceeded", err)
	}

	// After a restart the first View has every acknowledged change.
	for n := range 5 {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		c, stop = open(t, Config{Dir: dir})
		view, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if !hasGroup(view, fmt.Sprint("r", i)) {
				t.Errorf("restart %d: the first View has no group r%d", n, i)
			}
		}
		if _, err := createGroup(t.Context(), c, fmt.Sprint("r", n)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecondProcessCannotOpenLog(t *testing.T) {
	dir := t.TempDir()
	c, _ := open(t, Config{Dir: dir})
	ready(t, c)
	second, err := New(Config{Node: "node1", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("second Run: got %v, want an error that the log is in use", err)
	}
}

func TestRefusedBootstrapEndsRun(t *testing.T) {
	c, stop := open(t, Config{Dir: t.TempDir(), Bootstrap: []state.Command{{Request: &state.Bootstrap{}}}})
	<-c.stopped
	if err := stop(); !isCode(err, "MissingParameter") {
		t.Errorf("Run: got %v, want the error of the refused bootstrap command", err)
	}
}

func TestUnknownCommandStopsTheNodeAndStaysInTheLog(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second Run finds the command when it replays the log
		c, stop := open(t, Config{Dir: dir})
		select {
		case <-c.Ready():
			_ = c.raft.Apply([]byte(`{"v":1,"type":"FromTheFuture","time":"2026-01-02T03:04:05Z","body":{}}`), 0).Error()
		case <-c.stopped:
		}
		<-c.stopped
		if err := stop(); err == nil || !strings.Contains(err.Error(), "FromTheFuture") {
			t.Errorf("Run: got %v, want an error that names the unknown command", err)
		}
		if _, err := createGroup(t.Context(), c, "after"); !errors.Is(err, ErrStopped) {
			t.Errorf("apply: got %v, want ErrStopped", err)
		}
	}
}

func TestSnapshotsBoundTheLogAndAreRestored(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, SnapshotThreshold: 20, SnapshotInterval: 5 * time.Millisecond, TrailingLogs: 5}
	c, stop := open(t, cfg)
	ready(t, c)
	for n := range 100 {
		if _, err := createGroup(t.Context(), c, fmt.Sprint("g", n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		t.Fatal(err)
	}
	first, err := c.store.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	if first < 50 {
		t.Errorf("the log still begins at entry %d, want its oldest entries deleted", first)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	c, stop = open(t, cfg)
	ready(t, c)
	for n := range 100 {
		if !hasGroup(c.View(), fmt.Sprint("g", n)) {
			t.Fatalf("group g%d is missing after the restart", n)
		}
	}
	if _, err := createGroup(t.Context(), c, "more"); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	// Run fails on a damaged snapshot and does not use an older one.
	newest := newestSnapshot(t, dir)
	data, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(newest, data, 0o600); err != nil {
		t.Fatal(err)
	}
	c, stop = open(t, cfg)
	select {
	case <-c.stopped:
	case <-c.Ready():
	}
	if err := stop(); err == nil {
		t.Error("Run accepted a damaged snapshot")
	}
}

// newestSnapshot returns the path of the snapshot that a restart restores. Two snapshots may have
// the same index, so it uses Raft's own list, which has the newest first.
func newestSnapshot(t *testing.T, dir string) string {
	t.Helper()
	list, err := snapshotsOf(dir)
	if err != nil || len(list) == 0 {
		t.Fatalf("no snapshot in %s: %v", dir, err)
	}
	return filepath.Join(dir, "snapshots", list[0].ID, "state.bin")
}
