package cluster

import (
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"palisade/ec2/state"
)

// fsm implements raft.FSM with a State. The Cluster owns it. Raft calls Apply, Snapshot and
// Restore from one goroutine; the other methods may be called from any. mu guards the fields below
// it and is a leaf.
//
// After an entry that it cannot decode, or a snapshot that it cannot read, fsm applies nothing and
// makes no snapshot, and Run ends. So the entry stays in the log for a release that can decode it.
type fsm struct {
	failed chan struct{} // closed when failure is set

	mu      sync.Mutex
	state   *state.State
	failure error
	change  chan struct{} // closed, and replaced, at the next change
}

// applied is the result of Apply, which propose gets from Raft.
type applied struct {
	result state.Result
	err    error // nil or an *ec2.Error
}

func newFSM() *fsm {
	return &fsm{failed: make(chan struct{}), state: state.NewState(), change: make(chan struct{})}
}

// Apply applies a committed entry to the State. It returns an applied, or an error if fsm failed.
func (f *fsm) Apply(entry *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	if entry.Index <= f.state.Index() {
		return applied{} // replay has applied this entry, so no proposer waits for the result
	}
	cmd, err := state.DecodeCommand(entry.Data)
	if err != nil {
		return f.failLocked(fmt.Errorf("entry %d: %w", entry.Index, err))
	}
	result, err := f.state.Apply(entry.Index, cmd)
	f.changedLocked()
	return applied{result, err}
}

// Snapshot captures the State. Persist writes it while Raft applies more entries.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return nil, f.failure
	}
	return snapshot{f.state.View()}, nil
}

// Restore replaces the State by a snapshot, all or nothing. If replay has already applied entries
// after the snapshot, Restore keeps the newer State, and Apply skips the entries that Raft repeats.
func (f *fsm) Restore(r io.ReadCloser) error {
	restored, err := state.Restore(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	if err != nil {
		return f.failLocked(err)
	}
	if restored.Index() < f.state.Index() {
		return nil
	}
	f.state = restored
	f.changedLocked()
	return nil
}

func (f *fsm) failLocked(err error) error {
	f.failure = err
	close(f.failed)
	f.changedLocked()
	return err
}

func (f *fsm) changedLocked() {
	close(f.change)
	f.change = make(chan struct{})
}

// changed returns a channel that is closed at the next change of the State, or at a failure.
func (f *fsm) changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.change
}

func (f *fsm) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failure
}

func (f *fsm) view() *state.View { return f.viewSince(nil) }

func (f *fsm) viewSince(prev *state.View) *state.View {
	f.mu.Lock()
	current := f.state
	f.mu.Unlock()
	return current.ViewSince(prev)
}

type snapshot struct{ view *state.View }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.view.WriteSnapshot(sink); err != nil {
		_ = sink.Cancel() // err says more than an error of Cancel
		return err
	}
	return sink.Close()
}

func (s snapshot) Release() {}
