package cluster

//lint:file-ignore SA1019 Raft still uses the deprecated fields if a header has no name, so they are checked too.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"palisade/ec2"
)

// logOf opens a store with the entries from index first to last; every third is a configuration.
func logOf(t *testing.T, first, last uint64) *store {
	t.Helper()
	s, err := openStore(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for i := first; i <= last; i++ {
		e := &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: []byte(fmt.Sprint(i))}
		if i%3 == 0 {
			e.Type = raft.LogConfiguration
			e.Data = raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(fmt.Sprint("node", i)), Address: "192.0.2.1:1"}}})
		}
		if err := s.StoreLog(e); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func indexes(t *testing.T, s *store, low, high uint64) (all []uint64, err error) {
	t.Helper()
	err = s.commands(low, high, func(e *raft.Log) error { all = append(all, e.Index); return nil })
	return all, err
}

func TestStoreDeletesTheEntriesFromLowToHigh(t *testing.T) {
	for _, tt := range []struct{ low, high, first, last uint64 }{
		{1, 4, 5, 10}, {7, 10, 1, 6}, {7, 20, 1, 6}, {10, 10, 1, 9}, {0, 0, 1, 10}, {11, 12, 1, 10},
	} {
		s := logOf(t, 1, 10)
		if err := s.DeleteRange(tt.low, tt.high); err != nil {
			t.Fatal(err)
		}
		first, err := s.FirstIndex()
		last, err2 := s.LastIndex()
		if errors.Join(err, err2) != nil || first != tt.first || last != tt.last {
			t.Errorf("after DeleteRange(%d, %d) the log has entries %d to %d, error %v; want %d to %d", tt.low, tt.high, first, last, errors.Join(err, err2), tt.first, tt.last)
		}
	}
}

// A log from which an entry is missing, or that has one in the wrong place, is not replayed beyond that.
func TestStoreReplaysNoLogWithAGap(t *testing.T) {
	s := logOf(t, 4, 10)
	if all, err := indexes(t, s, 4, 8); err != nil || !slices.Equal(all, []uint64{4, 5, 7, 8}) {
		t.Errorf("the commands from 4 to 8 are %v, error %v; want 4, 5, 7, 8", all, err)
	}
	if all, err := indexes(t, s, 3, 8); err == nil || len(all) != 0 {
		t.Errorf("the commands from 3 are %v, error %v; want an error because entry 3 is missing", all, err)
	}
	stop := errors.New("stop")
	if err := s.commands(4, 8, func(*raft.Log) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the error of a command is %v, want %v", err, stop)
	}
	if newest, err := s.configuration(4); err != nil || newest == nil || newest.Servers[0].ID != "node9" {
		t.Errorf("the newest configuration is %v, error %v; want that of entry 9", newest, err)
	}
	if newest, err := s.configuration(10); err != nil || newest != nil {
		t.Errorf("from entry 10 on the configuration is %v, error %v; want none", newest, err)
	}
	put := func(key uint64, data []byte) {
		t.Helper()
		if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketLog).Put(encodeIndex(key), data) }); err != nil {
			t.Fatal(err)
		}
	}
	other, err := encodeEntry(&raft.Log{Index: 6, Type: raft.LogCommand})
	if err != nil {
		t.Fatal(err)
	}
	put(7, other) // an entry with another index than its key
	if all, err := indexes(t, s, 4, 8); err == nil || len(all) != 2 {
		t.Errorf("with a misplaced entry the commands are %v, error %v; want 4, 5 and an error", all, err)
	}
	if err := s.DeleteRange(7, 7); err != nil {
		t.Fatal(err)
	}
	if all, err := indexes(t, s, 4, 8); err == nil || len(all) != 2 {
		t.Errorf("without entry 7 the commands are %v, error %v; want 4, 5 and an error", all, err)
	}
	seventh, err := encodeEntry(&raft.Log{Index: 7, Type: raft.LogCommand})
	if err != nil {
		t.Fatal(err)
	}
	put(8, seventh) // the right entry under another key
	if all, err := indexes(t, s, 4, 8); err == nil || len(all) != 2 {
		t.Errorf("with entry 7 in the place of entry 8 the commands are %v, error %v; want 4, 5 and an error", all, err)
	}
	put(7, []byte("damaged"))
	if _, err := indexes(t, s, 4, 8); err == nil {
		t.Error("a damaged entry was replayed")
	}
	put(10, []byte("damaged"))
	if _, err := s.configuration(4); err == nil {
		t.Error("a damaged entry was read as a configuration")
	}
	if _, err := openStore(filepath.Join(t.TempDir())); err == nil {
		t.Error("a directory was opened as a log")
	}
	if _, err := openStore("/dev/null/log"); err == nil {
		t.Error("a log was opened below a file")
	}
}

func TestRefusalsAreCountedAndListedInOrder(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	c := &Cluster{}
	for _, k := range []struct {
		node ec2.NodeID
		call string
	}{{"b", "x"}, {"a", "y"}, {"b", "x"}, {"a", "x"}, {"b", "a"}} {
		c.refused.note(logger, k.node, k.call, errors.New("no voter"))
	}
	want := []Refusal{{"a", "x", 1}, {"a", "y", 1}, {"b", "a", 1}, {"b", "x", 2}}
	if got := c.Refused(); !slices.Equal(got, want) {
		t.Errorf("the refused calls are %v, want %v", got, want)
	}
	if n := strings.Count(log.String(), "call of another node refused"); n != 1 {
		t.Errorf("%d refusals within a second were logged, want 1:\n%s", n, &log)
	}
	c.refused.logged = time.Now().Add(-time.Second)
	c.refused.note(logger, "a", "x", nil)
	c.refused.logged = time.Now().Add(-time.Second)
	c.refused.note(logger, "a", "x", nil)
	if text := log.String(); !strings.Contains(text, "not_logged=4") || strings.Count(text, "not_logged=0") != 2 {
		t.Errorf("the log does not say how many refusals it leaves out:\n%s", text)
	}
	for i := range 2 * maxRefusals {
		c.refused.note(slog.New(slog.DiscardHandler), ec2.NodeID(fmt.Sprint("n", i)), "x", nil)
	}
	c.refused.note(slog.New(slog.DiscardHandler), "b", "x", nil)
	if all := c.Refused(); !slices.Contains(all, Refusal{"b", "x", 3}) {
		t.Errorf("a kind that was counted before is not counted any more: %v", all[:4])
	}
	if n := len(c.Refused()); n != maxRefusals {
		t.Errorf("%d kinds are counted, want at most %d", n, maxRefusals)
	}
}

func TestWarningsOfRaftAreLoggedOnceInAWhile(t *testing.T) {
	var log bytes.Buffer
	s := &logSink{log: slog.New(slog.NewTextHandler(&log, nil))}
	warn := func(msg string, args ...any) { s.Accept("raft", hclog.Warn, msg, args...) }
	for range 3 {
		warn("cannot reach", "peer", hclog.Fmt("%d of %d", 1, 2))
		warn("skipping application of old log")
	}
	s.Accept("raft", hclog.Info, "entering follower state")
	s.Accept("raft", hclog.Error, "broken")
	text := log.String()
	if strings.Count(text, "level=WARN msg=\"raft: cannot reach\" peer=\"1 of 2\"") != 1 || strings.Count(text, "level=ERROR msg=\"raft: broken\"") != 1 || strings.Count(text, "\n") != 2 {
		t.Errorf("the log is\n%s, want the warning and the error, once each", text)
	}
	s.Accept("raft", hclog.Info, "later a warning")
	if warn("later a warning"); !strings.Contains(log.String(), "level=WARN msg=\"raft: later a warning\"") {
		t.Errorf("a message that was no warning before is not logged as one:\n%s", &log)
	}
	s.logged["cannot reach"] = time.Now().Add(-repeatAfter)
	if warn("cannot reach"); strings.Count(log.String(), "cannot reach") != 2 {
		t.Errorf("the warning was not logged again after %v:\n%s", repeatAfter, &log)
	}
}

// A call names its caller in each field that Raft reads.
func TestCallsNameTheirCaller(t *testing.T) {
	own, other := []byte("node1"), []byte("node2")
	header := func(id, addr []byte) raft.RPCHeader { return raft.RPCHeader{ID: id, Addr: addr} }
	for name, tt := range map[string]struct {
		call any
		ok   bool
	}{
		"append":                 {&raft.AppendEntriesRequest{RPCHeader: header(own, own), Leader: own}, true},
		"append without leader":  {&raft.AppendEntriesRequest{RPCHeader: header(own, own)}, true},
		"append, other leader":   {&raft.AppendEntriesRequest{RPCHeader: header(own, own), Leader: other}, false},
		"append, other id":       {&raft.AppendEntriesRequest{RPCHeader: header(other, own), Leader: own}, false},
		"append, other address":  {&raft.AppendEntriesRequest{RPCHeader: header(own, other), Leader: own}, false},
		"append without id":      {&raft.AppendEntriesRequest{RPCHeader: header(nil, own), Leader: own}, false},
		"append without address": {&raft.AppendEntriesRequest{RPCHeader: header(own, nil), Leader: own}, false},
		"vote":                   {&raft.RequestVoteRequest{RPCHeader: header(own, own), Candidate: own}, true},
		"vote, other candidate":  {&raft.RequestVoteRequest{RPCHeader: header(own, own), Candidate: other}, false},
		"snapshot, other leader": {&raft.InstallSnapshotRequest{RPCHeader: header(own, own), Leader: other}, false},
		"something else":         {"text", false},
	} {
		if err := checkNames("node1", tt.call); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want accepted: %v", name, err, tt.ok)
		}
	}
}

func TestVotersAreListedInOrder(t *testing.T) {
	got := votersOf(raft.Configuration{Servers: []raft.Server{{ID: "c"}, {ID: "d", Suffrage: raft.Nonvoter}, {ID: "a"}, {ID: "b"}}})
	if !slices.Equal(got, []ec2.NodeID{"a", "b", "c"}) {
		t.Errorf("the voters are %v, want a, b, c", got)
	}
	if _, err := decodeAnswer([]byte("{")); err == nil {
		t.Error("a truncated answer was decoded")
	}
}

// failing is a snapshot that cannot be written.
type failing struct{ cancelled, closed bool }

func (f *failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }
func (f *failing) Close() error              { f.closed = true; return nil }
func (f *failing) ID() string                { return "x" }
func (f *failing) Cancel() error             { f.cancelled = true; return nil }

func TestSnapshotThatCannotBeWrittenIsCancelled(t *testing.T) {
	c, _ := open(t, Config{Dir: t.TempDir()})
	ready(t, c)
	sink := &failing{}
	if err := (snapshot{c.View()}).Persist(sink); !errors.Is(err, io.ErrShortWrite) || !sink.cancelled || sink.closed {
		t.Errorf("Persist returned %v, cancelled: %v, closed: %v; want %v, true, false", err, sink.cancelled, sink.closed, io.ErrShortWrite)
	}
}
