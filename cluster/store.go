package cluster

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// store has Raft's log and vote in one bbolt file. The Cluster's Run owns it. Every write is one
// transaction, and is on disk when it returns. bbolt locks the file against a second process.
// Methods may be called from any goroutine; staged's mutex is a leaf.
//
// It also has the commit index, which Raft passes to StageCommitIndex and the next StoreLogs
// writes. So a restarted node knows which of its entries are committed before another node answers.
type store struct {
	db *bolt.DB

	staged struct {
		sync.Mutex
		commit uint64
	}
}

var (
	_ raft.CommitTrackingLogStore = (*store)(nil)
	_ raft.StableStore            = (*store)(nil)
)

var (
	bucketLog    = []byte("log")    // big-endian index -> entry
	bucketStable = []byte("stable") // Raft's keys, and keyCommit
	keyCommit    = []byte("palisade/commit")
)

// errNoKey is returned by Get for a key without a value. Raft recognizes it by its text.
var errNoKey = errors.New("not found")

func openStore(path string) (*store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 200 * time.Millisecond})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open log: %s is in use by another process", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketLog, bucketStable} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open log %s: %w", path, err), db.Close())
	}
	return &store{db: db}, nil
}

func (s *store) Close() error { return s.db.Close() }

func (s *store) FirstIndex() (uint64, error) { return s.endIndex((*bolt.Cursor).First) }
func (s *store) LastIndex() (uint64, error)  { return s.endIndex((*bolt.Cursor).Last) }

func (s *store) endIndex(move func(*bolt.Cursor) ([]byte, []byte)) (index uint64, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		if k, _ := move(tx.Bucket(bucketLog).Cursor()); k != nil {
			index = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return index, err
}

func (s *store) GetLog(index uint64, entry *raft.Log) error {
	return s.db.View(func(tx *bolt.Tx) error {
		data := tx.Bucket(bucketLog).Get(encodeIndex(index))
		if data == nil {
			return raft.ErrLogNotFound
		}
		return decodeEntry(data, entry)
	})
}

func (s *store) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

func (s *store) StoreLogs(entries []*raft.Log) error {
	s.staged.Lock()
	commit := s.staged.commit
	s.staged.Unlock()
	return s.db.Update(func(tx *bolt.Tx) error {
		log := tx.Bucket(bucketLog)
		for _, e := range entries {
			data, err := encodeEntry(e)
			if err != nil {
				return err
			}
			if err := log.Put(encodeIndex(e.Index), data); err != nil {
				return fmt.Errorf("store entry %d: %w", e.Index, err)
			}
		}
		if commit == 0 {
			return nil
		}
		return tx.Bucket(bucketStable).Put(keyCommit, encodeIndex(commit))
	})
}

func (s *store) DeleteRange(low, high uint64) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketLog).Cursor()
		for k, _ := c.Seek(encodeIndex(low)); k != nil && binary.BigEndian.Uint64(k) <= high; k, _ = c.Next() {
			if err := c.Delete(); err != nil {
				return fmt.Errorf("delete entries %d to %d: %w", low, high, err)
			}
		}
		return nil
	})
}

// StageCommitIndex keeps the commit index in memory until the next StoreLogs writes it.
func (s *store) StageCommitIndex(index uint64) error {
	s.staged.Lock()
	defer s.staged.Unlock()
	s.staged.commit = max(s.staged.commit, index)
	return nil
}

// GetCommitIndex returns 0, so that Raft replays nothing, because Cluster.replay does. In Raft
// 1.8.0 Raft's own replay ignores configuration entries, so that a node without a snapshot never
// votes again. It also blocks for ever if there are more entries than its queue holds.
func (s *store) GetCommitIndex() (uint64, error) { return 0, nil }

// commitIndex returns the commit index on disk, or the index of the last entry if that is lower.
func (s *store) commitIndex() (uint64, error) {
	commit, err := s.GetUint64(keyCommit)
	if err != nil && !errors.Is(err, errNoKey) {
		return 0, err
	}
	last, err := s.LastIndex()
	return min(commit, last), err
}

// commands calls do with each command from index low to high. A gap in the log is an error.
func (s *store) commands(low, high uint64, do func(*raft.Log) error) error {
	return s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketLog).Cursor()
		next := low
		for k, data := c.Seek(encodeIndex(low)); k != nil; k, data = c.Next() {
			var e raft.Log
			if err := decodeEntry(data, &e); err != nil {
				return fmt.Errorf("entry %d: %w", next, err)
			}
			if e.Index > high {
				return nil
			}
			if e.Index != next || binary.BigEndian.Uint64(k) != next {
				return fmt.Errorf("entry %d is missing from the log", next)
			}
			next++
			if e.Type != raft.LogCommand {
				continue
			}
			if err := do(&e); err != nil {
				return err
			}
		}
		return nil
	})
}

// configuration returns the newest configuration of Raft in the entries from low on, or nil.
func (s *store) configuration(low uint64) (newest *raft.Configuration, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketLog).Cursor()
		for k, data := c.Last(); k != nil && binary.BigEndian.Uint64(k) >= low; k, data = c.Prev() {
			var e raft.Log
			if err := decodeEntry(data, &e); err != nil {
				return fmt.Errorf("entry %d: %w", binary.BigEndian.Uint64(k), err)
			}
			if e.Type == raft.LogConfiguration {
				servers := raft.DecodeConfiguration(e.Data)
				newest = &servers
				return nil
			}
		}
		return nil
	})
	return newest, err
}

func (s *store) Set(key, value []byte) error {
	return s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketStable).Put(key, value) })
}

func (s *store) Get(key []byte) (value []byte, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		data := tx.Bucket(bucketStable).Get(key)
		if data == nil {
			return errNoKey
		}
		value = append([]byte{}, data...)
		return nil
	})
	return value, err
}

func (s *store) SetUint64(key []byte, value uint64) error { return s.Set(key, encodeIndex(value)) }

func (s *store) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("key %q has %d bytes, not 8", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

func encodeIndex(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// An entry is the JSON of a raft.Log in the file. Its field names are ours, because the file must
// stay readable when a new version of Raft renames fields.
type entry struct {
	Index      uint64       `json:"index"`
	Term       uint64       `json:"term"`
	Type       raft.LogType `json:"type"`
	Data       []byte       `json:"data,omitempty"`
	Extensions []byte       `json:"ext,omitempty"`
	AppendedAt time.Time    `json:"at"`
}

func encodeEntry(e *raft.Log) ([]byte, error) {
	data, err := json.Marshal(entry{e.Index, e.Term, e.Type, e.Data, e.Extensions, e.AppendedAt})
	if err != nil {
		return nil, fmt.Errorf("encode entry %d: %w", e.Index, err)
	}
	return data, nil
}

func decodeEntry(data []byte, into *raft.Log) error {
	var e entry
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("decode entry: %w", err)
	}
	*into = raft.Log{Index: e.Index, Term: e.Term, Type: e.Type, Data: e.Data, Extensions: e.Extensions, AppendedAt: e.AppendedAt}
	return nil
}
