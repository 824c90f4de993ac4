// Package state is the state machine that every node of a cluster runs on the Raft log. It has
// the resources of the users, and it decides what must be decided once: which address an
// interface gets, which id a resource gets, and whether a request is refused.
//
// State.Apply carries out one Command. It is deterministic: it uses the State and the Command,
// and no clock, randomness, I/O or map order. So all nodes that apply the same log have equal
// States. The leader stamps the time into the Command; Apply chooses addresses and ids.
//
// Read State and Apply first, then Command and Request in command.go, then one request with its
// apply method, such as AuthorizeRules. All readers use a View: the rows after one command, which
// never change, with the changes since the reader's last View. The tables are in schema.go, and
// snapshots in snapshot.go.
//
// Values without behaviour, such as Group and Interface, are in ec2. Replication is in cluster,
// and the wire format of the API in ec2/query.
package state

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
	"palisade/ec2/region"
)

// State has the resources of all users and the members of the cluster.
//
// The owner of a State is the Raft state machine of a node (cluster), which calls Apply from one
// goroutine at a time. Any number of goroutines call View, ViewSince and Index meanwhile. They take
// no lock: they load the field current, which Apply stores as its last step, so they never see half
// a command. Rows are immutable: a change inserts a new row.
type State struct {
	db      *memdb.MemDB            // written by Apply alone
	current atomic.Pointer[version] // the version after the last command
}

// A version is the State after one command. It is immutable, apart from the link of its tail.
type version struct {
	db   *memdb.MemDB // a snapshot, which later commands do not change
	meta *meta
	tail *delta // the changes of the command; the next command links its delta here
}

// meta is the one row about the whole State. Each command writes it in the same transaction as
// its other rows, so Index always belongs to the rows beside it.
type meta struct {
	Index    uint64    // log index of the last command
	Time     time.Time // newest stamp of any command; never goes back
	Serial   uint64    // the last serial that was assigned
	Seed     string    // ids are derived from it; set once, by Bootstrap
	Settings ec2.Settings

	NodeNumber uint32  `json:",omitempty"` // the last number that a node got
	Audited    uint64  `json:",omitempty"` // number of the newest audit record
	AuditKept  uint64  `json:",omitempty"` // audit records in the rings of accounts
	SealKey    string  `json:",omitempty"` // id of the cluster key, which seals secrets
	GossipKey  []byte  `json:",omitempty"` // of an earlier release; nil once the key is replaced or if it never was in the log
	VNI        ec2.VNI `json:",omitempty"` // the last VNI that a VPC got

	Cuts []ec2.Cut `json:",omitempty"` // the newest, oldest first; shared with earlier versions

	Gossip    []string       `json:",omitempty"` // ids of the gossip keys, the one in use first
	Tunnels   uint64         `json:",omitempty"` // index of the entry since which tunnels need new keys
	Rotations []ec2.Rotation `json:",omitempty"` // of keys that are being replaced
	Authority string         `json:",omitempty"` // certificate of the authority, if it was ever replaced
	Expelled  []ec2.Expelled `json:",omitempty"` // nodes that were fenced or removed, oldest first
	Exposed   time.Time      `json:",omitzero"`  // when a node that could read secrets was last fenced or removed

	Regions region.Plan `json:",omitzero"` // which regions and zones there are; shared with earlier versions

	AuditChained bool `json:",omitempty"` // each audit record is in the ring of its account
}

// NewState returns an empty State.
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

// Apply carries out the command at a log index, which must be above that of the last command. The
// only error that it returns is an *ec2.Error, which means that the request was refused. A refused
// command changes nothing but the index, and audit records of an earlier release.
func (s *State) Apply(index uint64, cmd Command) (Result, error) {
	was := s.current.Load()
	if index <= was.meta.Index {
		panic(fmt.Sprintf("state: apply index %d after %d", index, was.meta.Index))
	}

	t := newTx(s.db, index)
	t.TrackChanges()
	t.advance(cmd.Time)
	result, err := t.carryOut(cmd)
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
	if err == nil {
		t.remember(cmd.Signature)
	}
	changes := t.Changes()
	t.commit()

	next := &delta{changes: changes}
	was.tail.next.Store(next)
	s.current.Store(&version{db: s.db.Snapshot(), meta: t.meta, tail: next})
	return result, err
}

// carryOut carries out the request of a command, unless the node that handed it in may not ask for
// it, or it was made from a user's request that was carried out before.
func (t *tx) carryOut(cmd Command) (Result, error) {
	if err := checkCaller(t.Txn, cmd.From, cmd.Request); err != nil {
		return Result{}, err
	}
	if err := t.checkSignature(cmd.Signature); err != nil {
		return Result{}, err
	}
	return cmd.Request.apply(t)
}

// Index returns the log index of the last command.
func (s *State) Index() uint64 { return s.current.Load().meta.Index }

// A tx is the write transaction of one command. The goroutine that calls Apply owns it, and
// memdb's writer lock is held until it is committed or aborted. The apply methods of requests
// read and write through it.
type tx struct {
	*memdb.Txn
	meta *meta // a copy that the command may change; commit writes it
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

// advance sets the time of the State to the stamp, unless the stamp is older. A new leader with
// a slow clock must not revive what has expired.
func (t *tx) advance(stamp time.Time) {
	if stamp = stamp.UTC().Round(0); stamp.After(t.meta.Time) {
		t.meta.Time = stamp
	}
}

// serial returns a number that was never returned before.
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
