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

// store is Raft's log and its vote, in one bbolt file. Every write is one transaction
// and on disk when it returns; bbolt locks the file against a second process.
//
// It also keeps the commit index: staged by Raft, written in the transaction of the
// next entries. So a restarted node knows which of its entries are decided before it
// hears from any other.
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
	bucketStable = []byte("stable") // raft's keys, and keyCommit
	keyCommit    = []byte("palisade/commit")
)

// errNoKey has the text that raft asks for.
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

func (s *store) FirstIndex() (uint64, error) { return s.edge((*bolt.Cursor).First) }
func (s *store) LastIndex() (uint64, error)  { return s.edge((*bolt.Cursor).Last) }

func (s *store) edge(move func(*bolt.Cursor) ([]byte, []byte)) (index uint64, err error) {
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
		data := tx.Bucket(bucketLog).Get(number(index))
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
			if err := log.Put(number(e.Index), data); err != nil {
				return fmt.Errorf("store entry %d: %w", e.Index, err)
			}
		}
		if commit == 0 {
			return nil
		}
		return tx.Bucket(bucketStable).Put(keyCommit, number(commit))
	})
}

func (s *store) DeleteRange(low, high uint64) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketLog).Cursor()
		for k, _ := c.Seek(number(low)); k != nil && binary.BigEndian.Uint64(k) <= high; k, _ = c.Next() {
			if err := c.Delete(); err != nil {
				return fmt.Errorf("delete entries %d to %d: %w", low, high, err)
			}
		}
		return nil
	})
}

// StageCommitIndex keeps the commit index for the next StoreLogs.
func (s *store) StageCommitIndex(index uint64) error {
	s.staged.Lock()
	defer s.staged.Unlock()
	s.staged.commit = max(s.staged.commit, index)
	return nil
}

// GetCommitIndex tells Raft of nothing to replay: Cluster does that itself, before it
// starts Raft. Raft 1.8.0's own replay passes over the entries that name the voters, so
// that a node without a snapshot never votes again, and waits for ever once there are
// more entries than its queue holds.
func (s *store) GetCommitIndex() (uint64, error) { return 0, nil }

// commitIndex is the newest commit index on disk, never beyond the log.
func (s *store) commitIndex() (uint64, error) {
	commit, err := s.GetUint64(keyCommit)
	if err != nil && !errors.Is(err, errNoKey) {
		return 0, err
	}
	last, err := s.LastIndex()
	return min(commit, last), err
}

// commands calls do with each entry that changes the State, from low to high.
func (s *store) commands(low, high uint64, do func(*raft.Log) error) error {
	return s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketLog).Cursor()
		next := low
		for k, data := c.Seek(number(low)); k != nil; k, data = c.Next() {
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

// configuration is the newest entry from low on that names the servers, or nil.
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

func (s *store) SetUint64(key []byte, value uint64) error { return s.Set(key, number(value)) }

func (s *store) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("key %q holds %d bytes, not a number", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// An entry is as raft has it, with names of our own, for the file outlives its versions.
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
