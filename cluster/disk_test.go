package cluster

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"palisade/ec2"
	"palisade/ec2/state"
)

// Each method of a store whose file is closed returns an error, and none returns an old or empty value.
func TestClosedStoreReturnsErrors(t *testing.T) {
	s := logOf(t, 1, 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var entry raft.Log
	index := func(_ uint64, err error) error { return err }
	for what, err := range map[string]error{
		"FirstIndex":  index(s.FirstIndex()),
		"LastIndex":   index(s.LastIndex()),
		"GetLog":      s.GetLog(1, &entry),
		"StoreLog":    s.StoreLog(&raft.Log{Index: 6}),
		"DeleteRange": s.DeleteRange(1, 2),
		"commitIndex": index(s.commitIndex()),
		"commands":    s.commands(1, 5, func(*raft.Log) error { return nil }),
		"configuration": func() error {
			_, err := s.configuration(1)
			return err
		}(),
		"Set":       s.SetUint64([]byte("k"), 1),
		"GetUint64": index(s.GetUint64([]byte("k"))),
	} {
		if err == nil {
			t.Errorf("%s of a closed store returned no error", what)
		}
	}
	c := &Cluster{fsm: newFSM(), store: s, cfg: Config{Node: "node1", Dir: "d"}}
	for what, err := range map[string]error{
		"checkLog": c.checkLog(),
		"replay":   c.replay(raft.NewInmemSnapshotStore()),
		"decided":  index(c.decided(raft.Configuration{})),
	} {
		if err == nil {
			t.Errorf("%s with a closed store returned no error", what)
		}
	}
}

// An entry that cannot be decoded ends the replay, and a log that ends before the enforced index is reported.
func TestReplayReportsWhatTheLogLacks(t *testing.T) {
	for _, tt := range []struct {
		last, decided uint64
		err, warning  string
	}{
		{0, 0, "", ""}, {0, 5, "", "log on disk ends before the enforced index"}, {5, 5, "entry 1:", ""},
	} {
		var log bytes.Buffer
		c := &Cluster{fsm: newFSM(), store: logOf(t, 1, tt.last), cfg: Config{Node: "node1", Decided: tt.decided, Logger: slog.New(slog.NewTextHandler(&log, nil))}}
		err := c.replay(raft.NewInmemSnapshotStore())
		if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) || (log.Len() > 0) != (tt.warning != "") || !strings.Contains(log.String(), tt.warning) {
			t.Errorf("%+v: error %v, log %q", tt, err, &log)
		}
	}
}

// What cannot be written to the log, read from it or deleted is an error that names the entry.
func TestStoreNamesTheEntryThatFails(t *testing.T) {
	s := logOf(t, 1, 5)
	late := &raft.Log{Index: 6, AppendedAt: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)} // no JSON has such a year
	if err := s.StoreLogs([]*raft.Log{{Index: 7}, late}); err == nil || !strings.Contains(err.Error(), "entry 6") {
		t.Errorf("an entry that cannot be encoded: %v, want an error that names entry 6", err)
	}
	if last, err := s.LastIndex(); err != nil || last != 5 {
		t.Errorf("the log ends at %d, error %v; want 5, because nothing of a batch is stored if one entry fails", last, err)
	}
	if err := s.db.Update(func(tx *bolt.Tx) error {
		_, err := tx.Bucket(bucketLog).CreateBucket(encodeIndex(6)) // it is no entry, so it can be neither replaced nor deleted
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.StoreLog(&raft.Log{Index: 6}); err == nil || !strings.Contains(err.Error(), "entry 6") {
		t.Errorf("an entry that cannot be stored: %v, want an error that names entry 6", err)
	}
	if err := s.DeleteRange(5, 6); err == nil || !strings.Contains(err.Error(), "entries 5 to 6") {
		t.Errorf("an entry that cannot be deleted: %v, want an error that names entries 5 to 6", err)
	}
	at := raft.Log{Index: 3}
	if err := s.GetLog(8, &at); err != raft.ErrLogNotFound || at.Index != 3 {
		t.Errorf("an entry that is not there: %v, want ErrLogNotFound", err)
	}
	if err := s.Set([]byte("k"), []byte("123")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetUint64([]byte("k")); err == nil || !strings.Contains(err.Error(), "3 bytes") {
		t.Errorf("a number of three bytes: %v, want an error that says so", err)
	}
	if _, err := s.Get([]byte("none")); err == nil || err.Error() != "not found" {
		t.Errorf("a key that is not there: %v, want not found, by which Raft knows it", err)
	}
}

// The commit index on disk is that of the entries that are there, and never decreases.
func TestCommitIndexIsStoredWithTheNextEntries(t *testing.T) {
	s := logOf(t, 1, 5)
	check := func(what string, want uint64) {
		t.Helper()
		if got, err := s.commitIndex(); err != nil || got != want {
			t.Errorf("%s: commit index %d, error %v; want %d", what, got, err, want)
		}
	}
	check("none was staged", 0)
	for _, staged := range []uint64{4, 3} {
		if err := s.StageCommitIndex(staged); err != nil {
			t.Fatal(err)
		}
	}
	check("staged, but nothing was stored", 0)
	if err := s.StoreLog(&raft.Log{Index: 6}); err != nil {
		t.Fatal(err)
	}
	check("stored", 4)
	if err := s.DeleteRange(3, 6); err != nil {
		t.Fatal(err)
	}
	check("the log was cut", 2)
	if index, err := s.GetCommitIndex(); index != 0 || err != nil {
		t.Errorf("Raft gets commit index %d, error %v; want 0, so that it replays nothing", index, err)
	}
}

// Run of a node whose disk is damaged, or is not as it left it, ends with an error that says what is wrong.
func TestRunSaysWhatIsWrongOnDisk(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, tt := range []struct {
		what   string
		damage func(t *testing.T, dir string, s *store)
		edit   func(*Config)
		want   string
	}{
		{"the snapshots are a file", func(t *testing.T, dir string, _ *store) { replace(t, filepath.Join(dir, "snapshots")) }, nil, "open snapshots in "},
		{"the snapshot's data is gone", func(t *testing.T, dir string, _ *store) { removeFile(t, newestSnapshot(t, dir)) }, nil, "open snapshot "},
		{"one entry after the snapshot is gone", func(t *testing.T, dir string, s *store) {
			list, err := snapshotsOf(dir)
			if err != nil || len(list) == 0 {
				t.Fatalf("the snapshots are %v, error %v", list, err)
			}
			first, err := s.FirstIndex()
			last, err2 := s.LastIndex()
			if err := errors.Join(err, err2, s.DeleteRange(first, last), s.StoreLog(&raft.Log{Index: list[0].Index + 2, Type: raft.LogNoop})); err != nil {
				t.Fatal(err)
			}
		}, nil, "the entries between are lost"},
		{"the newest entry is damaged", func(t *testing.T, _ string, s *store) {
			last, err := s.LastIndex()
			if err != nil {
				t.Fatal(err)
			}
			putRaw(t, s, bucketLog, encodeIndex(last), "damaged")
		}, nil, "run cluster: entry "},
		{"the commit index is damaged", func(t *testing.T, _ string, s *store) { // it counts because another is a voter
			last, err := s.LastIndex()
			two := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "node1", Address: "node1"}, {ID: "node2", Address: "node2"}}})
			if err := errors.Join(err, s.StoreLog(&raft.Log{Index: last + 1, Term: 9, Type: raft.LogConfiguration, Data: two})); err != nil {
				t.Fatal(err)
			}
			putRaw(t, s, bucketStable, keyCommit, "123")
		}, nil, "has 3 bytes"},
		{"Raft's term is damaged", func(t *testing.T, _ string, s *store) { putRaw(t, s, bucketStable, []byte("CurrentTerm"), "123") }, nil, "check for an existing log"},
		{"Raft refuses its settings", nil, func(c *Config) { c.SnapshotInterval = time.Millisecond }, "start raft"},
		{"Raft refuses the settings of a new cluster", nil, func(c *Config) { c.Dir, c.SnapshotInterval = t.TempDir(), time.Millisecond }, "bootstrap raft"},
		{"the log is a directory", nil, func(c *Config) {
			c.Dir = t.TempDir()
			if err := os.Mkdir(filepath.Join(c.Dir, "raft.db"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "run cluster: open log"},
		{"nothing", nil, nil, ""},
	} {
		dir := t.TempDir()
		cfg := Config{Node: "node1", Dir: dir, Bootstrap: bootstrap()}
		writeLog(t, cfg)
		s, err := openStore(filepath.Join(dir, "raft.db"))
		if err != nil {
			t.Fatal(err)
		}
		if tt.damage != nil {
			tt.damage(t, dir, s)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if tt.edit != nil {
			tt.edit(&cfg)
		}
		c, stop := open(t, cfg)
		select {
		case <-c.stopped:
		case <-c.Ready():
		}
		if err := stop(); (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Run ended with %v, want an error that says %q", tt.what, err, tt.want)
		}
	}
}

// writeLog runs a cluster of one until it has a snapshot and an entry after it.
func writeLog(t *testing.T, cfg Config) {
	t.Helper()
	c, stop := open(t, cfg)
	ready(t, c)
	if err := c.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if _, err := createGroup(t.Context(), c, "after the snapshot"); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// snapshotsOf lists the snapshots in a directory, the newest first.
func snapshotsOf(dir string) ([]*raft.SnapshotMeta, error) {
	store, err := raft.NewFileSnapshotStore(dir, 2, io.Discard)
	if err != nil {
		return nil, err
	}
	return store.List()
}

// replace puts a file in the place of a directory.
func replace(t *testing.T, dir string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func removeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func putRaw(t *testing.T, s *store, bucket, key []byte, value string) {
	t.Helper()
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put(key, []byte(value)) }); err != nil {
		t.Fatal(err)
	}
}

// A node that joins has no log. If it enforced an entry before, its log is gone.
func TestOnlyANewNodeMayHaveNoLog(t *testing.T) {
	empty := logOf(t, 1, 0)
	for _, tt := range []struct {
		join    bool
		decided uint64
		store   *store
		gone    bool
	}{
		{true, 5, empty, true}, {true, 0, empty, false}, {false, 5, empty, false}, {true, 5, logOf(t, 1, 2), false},
	} {
		c := &Cluster{fsm: newFSM(), store: tt.store, cfg: Config{Node: "node1", Join: tt.join, Decided: tt.decided}}
		if err := c.checkLog(); (err != nil) != tt.gone {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	// A snapshot is also a log.
	c := &Cluster{fsm: newFSM(), store: empty, cfg: Config{Node: "node1", Join: true, Decided: 5}}
	for _, cmd := range bootstrap() {
		data, err := encode(cmd)
		if err != nil {
			t.Fatal(err)
		}
		c.fsm.Apply(&raft.Log{Index: c.View().Index() + 1, Data: data})
	}
	if err := c.checkLog(); err != nil {
		t.Errorf("a node with a State: %v", err)
	}
}

// short is a writer that fails after some bytes.
type short int

func (w *short) Write(p []byte) (int, error) {
	if *w -= short(len(p)); *w < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// A backup that could not be written whole, or restored whole, is an error.
func TestBackupThatIsNotWholeIsAnError(t *testing.T) {
	c, _ := open(t, Config{Dir: t.TempDir()})
	ready(t, c)
	var file bytes.Buffer
	m, err := Save(&file, "c1", c.View())
	if err != nil {
		t.Fatal(err)
	}
	if want := (Counts{Nodes: 1, Accounts: 1, Groups: 1, Rules: m.Counts.Rules}); m.Counts != want || m.PlainSecrets != 1 || m.Index != c.View().Index() {
		t.Errorf("the manifest is %+v, want counts %+v, one secret that is not encrypted and index %d", m, want, c.View().Index())
	}
	whole := file.Len()
	for _, n := range []int{0, 10, whole - int(m.Bytes), whole - int(m.Bytes) + 1, whole - 1} {
		w := short(n)
		if got, err := Save(&w, "c1", c.View()); !errors.Is(err, io.ErrShortWrite) || got != (Manifest{}) {
			t.Errorf("%d of %d bytes could be written: manifest %+v, error %v; want ErrShortWrite", n, whole, got, err)
		}
	}
	dir := t.TempDir()
	inFile := filepath.Join(dir, "file")
	replace(t, inFile)
	dangling := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "nowhere"), dangling); err != nil {
		t.Fatal(err)
	}
	used, empty, link := filepath.Join(dir, "used"), filepath.Join(dir, "empty"), filepath.Join(dir, "link to empty")
	if err := errors.Join(os.Mkdir(used, 0o700), os.Mkdir(filepath.Join(used, "x"), 0o700), os.Mkdir(empty, 0o700), os.Symlink(empty, link)); err != nil {
		t.Fatal(err)
	}
	as := state.Recover{Node: ec2.Node{ID: "node1"}}
	for _, tt := range []struct {
		what, dir string
		as        state.Recover
		ok        bool
	}{
		{"below a file", filepath.Join(inFile, "raft"), as, false},
		{"a file", inFile, as, false},
		{"below a link to nowhere", filepath.Join(dangling, "raft"), as, false},
		{"a name that is too long for a draft", filepath.Join(dir, strings.Repeat("x", 250)), as, false},
		{"a link, which cannot be replaced by a directory", link, as, false},
		{"without a node", filepath.Join(dir, "raft"), state.Recover{}, false},
		{"with a node", filepath.Join(dir, "raft"), as, true},
	} {
		got, err := Restore(tt.dir, bytes.NewReader(file.Bytes()), tt.as)
		if (err == nil) != tt.ok || err != nil && (got != (Manifest{}) || !strings.HasPrefix(err.Error(), "restore a backup")) || err == nil && got != m {
			t.Errorf("restore to %s: manifest %+v, error %v; want it restored: %v", tt.what, got, err, tt.ok)
		}
	}
	if _, err := Restore(used, bytes.NewReader(file.Bytes()), as); err == nil || !strings.Contains(err.Error(), "already holds a log") {
		t.Errorf("restore to a directory with one entry: %v, want that it already holds a log", err)
	}
	if drafts, err := filepath.Glob(filepath.Join(dir, "*.restore-*")); err != nil || len(drafts) > 0 {
		t.Errorf("the drafts %v are left, error %v", drafts, err)
	}
	c, _ = open(t, Config{Dir: filepath.Join(dir, "raft")})
	ready(t, c)
	if at := c.View().Index(); at != m.Index+recoveredEntries {
		t.Errorf("the restored State has index %d, want %d", at, m.Index+recoveredEntries)
	}
	for _, blocked := range []string{"raft.db", "snapshots"} {
		draft := t.TempDir()
		if blocked == "snapshots" {
			replace(t, filepath.Join(draft, blocked))
		} else if err := os.Mkdir(filepath.Join(draft, blocked), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := writeRestored(draft, 10, c.View(), as.Node); err == nil {
			t.Errorf("a log was written although %s could not be", blocked)
		}
	}
}

// The one member of a restored cluster is its only voter, under its address, or its name without one.
func TestRestoredLogHasOneVoter(t *testing.T) {
	st := state.NewState()
	for address, want := range map[string]raft.ServerAddress{"": "node1", "192.0.2.1:7400": "192.0.2.1:7400"} {
		dir := t.TempDir()
		if err := writeRestored(dir, 10, st.View(), ec2.Node{ID: "node1", Address: address}); err != nil {
			t.Fatal(err)
		}
		list, err := snapshotsOf(dir)
		if err != nil || len(list) != 1 || list[0].Index != 10 || list[0].Term != 1 || len(list[0].Configuration.Servers) != 1 || list[0].Configuration.Servers[0] != (raft.Server{ID: "node1", Address: want}) {
			t.Errorf("the snapshots are %+v, error %v; want one of index 10, term 1 and node1 at %s", list, err, want)
		}
		s, err := openStore(filepath.Join(dir, "raft.db"))
		if err != nil {
			t.Fatal(err)
		}
		if term, err := s.GetUint64([]byte("CurrentTerm")); term != 1 || err != nil {
			t.Errorf("the term is %d, error %v; want 1", term, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A node that got a snapshot from its leader may still have older entries, with a gap behind them. The log begins
// after the snapshot.
func TestEntriesBeforeTheSnapshotDoNotCount(t *testing.T) {
	c, stop := open(t, Config{Dir: t.TempDir()})
	ready(t, c)
	var file bytes.Buffer
	if _, err := Save(&file, "c1", c.View()); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "raft")
	m, err := Restore(dir, &file, state.Recover{Node: ec2.Node{ID: "node1"}})
	if err != nil {
		t.Fatal(err)
	}
	index := m.Index + recoveredEntries
	s, err := openStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	group, err := encode(state.Command{Time: time.Now(), Request: &state.CreateSecurityGroup{Account: albert, Region: region, Name: "after", Description: "test"}})
	old := []*raft.Log{{Index: 1, Term: 1, Type: raft.LogNoop}, {Index: 2, Term: 1, Type: raft.LogNoop}, {Index: index + 1, Term: 1, Type: raft.LogCommand, Data: group}}
	if err := errors.Join(err, s.StoreLogs(old), s.Close()); err != nil {
		t.Fatal(err)
	}
	c, _ = open(t, Config{Dir: dir})
	ready(t, c)
	if v := c.View(); v.Index() != index+1 || !hasGroup(v, "after") {
		t.Errorf("the State has index %d and the group: %v; want %d with the group", v.Index(), hasGroup(v, "after"), index+1)
	}
}
