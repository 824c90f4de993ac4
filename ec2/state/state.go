package state

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// State is everything that users decided and that must be unique: the state machine
// behind the replicated log.
//
// One goroutine at a time calls Apply; any number call View, which never blocks and
// never sees half a command. Rows are immutable: a change replaces them.
type State struct {
	db      *memdb.MemDB
	current atomic.Pointer[version]
}

// A version is the State after one command.
type version struct {
	db   *memdb.MemDB // a snapshot: later commands do not touch it
	meta *meta
	tail *delta // the last command's changes; the next command links behind it
}

// meta is the one row about the whole State. It is written in the same transaction as
// the rows of the command, so a State never claims an index it does not hold.
type meta struct {
	Index    uint64    // of the last command, in the log
	Time     time.Time // never runs backwards, whatever the leader's clock does
	Serial   uint64    // the last one given out
	Seed     string    // of the cluster, set once
	Settings ec2.Settings

	NodeNumber uint32  `json:",omitempty"` // the last one given to a node
	Audited    uint64  `json:",omitempty"` // number of the newest audit record
	SealKey    string  `json:",omitempty"` // id of the key that secrets are sealed under
	GossipKey  []byte  `json:",omitempty"` // nil: of a cluster that was made before there was one
	VNI        ec2.VNI `json:",omitempty"` // the last one given to a VPC
}

// NewState makes an empty State.
func NewState() *State {
	db, err := memdb.NewMemDB(schema)
	if err != nil {
		panic(fmt.Sprintf("state: schema: %v", err))
	}
	s := &State{db: db}
	t := newTx(db, 0)
	t.commit()
	s.current.Store(&version{db: db.Snapshot(), meta: t.meta, tail: &delta{}})
	return s
}

// Apply runs the command at a log index. An *Error is the caller's mistake and leaves
// everything but the index, and the record of the attempt, as it was; Apply returns no
// other error. The index must be above the last one: the log has one order and no
// repeats.
func (s *State) Apply(index uint64, cmd Command) (Result, error) {
	was := s.current.Load()
	if index <= was.meta.Index {
		panic(fmt.Sprintf("state: apply index %d after %d", index, was.meta.Index))
	}

	t := newTx(s.db, index)
	t.TrackChanges()
	t.advance(cmd.Time)
	result, err := cmd.Request.apply(t)
	refusal, ok := err.(*ec2.Error)
	if err != nil {
		if !ok {
			panic(fmt.Sprintf("state: apply %T at %d: %v", cmd.Request, index, err))
		}
		t.Abort()
		t = newTx(s.db, index)
		result = Result{}
	}
	t.audit(cmd, refusal)
	changes := t.Changes()
	t.commit()

	next := &delta{changes: changes}
	was.tail.next.Store(next)
	s.current.Store(&version{db: s.db.Snapshot(), meta: t.meta, tail: next})
	return result, err
}

// Index is the log index of the last command.
func (s *State) Index() uint64 { return s.current.Load().meta.Index }

// A tx is one command's write transaction.
type tx struct {
	*memdb.Txn
	meta *meta // this transaction's own copy, at the index of the command
}

func newTx(db *memdb.MemDB, index uint64) *tx {
	t := &tx{Txn: db.Txn(true)}
	m := *t.firstMeta()
	m.Index = index
	t.meta = &m
	return t
}

func (t *tx) firstMeta() *meta {
	if m := first[meta](t.Txn, tableMeta, indexID, key("")); m != nil {
		return m
	}
	return &meta{Settings: ec2.DefaultSettings()}
}

func (t *tx) commit() {
	t.put(tableMeta, t.meta)
	t.Txn.Commit()
}

// advance moves the State's time: max(old, stamp), so that a new leader with a slow
// clock cannot bring back what has expired.
func (t *tx) advance(stamp time.Time) {
	if stamp = stamp.UTC().Round(0); stamp.After(t.meta.Time) {
		t.meta.Time = stamp
	}
}

// serial gives out a number that was never given out before.
func (t *tx) serial() uint64 {
	t.meta.Serial++
	return t.meta.Serial
}

func (t *tx) put(table string, row any) {
	if err := t.Txn.Insert(table, row); err != nil {
		panic(fmt.Sprintf("state: put %T: %v", row, err))
	}
}

func (t *tx) del(table string, row any) {
	if err := t.Txn.Delete(table, row); err != nil {
		panic(fmt.Sprintf("state: delete %T: %v", row, err))
	}
}
