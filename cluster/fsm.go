package cluster

import (
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"palisade/ec2/state"
)

// fsm is the State behind Raft's interface. Raft calls Apply, Snapshot and Restore from
// one goroutine; views may be taken from any.
//
// It fails once and for all when it meets an entry it does not know or a snapshot it
// cannot read. From then on it applies nothing and makes no snapshot, so what it could
// not apply stays in the log for a release that can, and Run ends the node.
type fsm struct {
	failed chan struct{} // closed with the failure

	mu      sync.Mutex
	state   *state.State
	failure error
	change  chan struct{} // closed by the next change
}

// applied is what Apply answers to the proposer.
type applied struct {
	result state.Result
	err    error // nil or an *ec2.Error
}

func newFSM() *fsm {
	return &fsm{failed: make(chan struct{}), state: state.NewState(), change: make(chan struct{})}
}

// Apply runs one committed entry.
func (f *fsm) Apply(entry *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	if entry.Index <= f.state.Index() {
		return applied{} // replayed at the start; nobody waits for its result
	}
	cmd, err := state.DecodeCommand(entry.Data)
	if err != nil {
		return f.failLocked(fmt.Errorf("entry %d: %w", entry.Index, err))
	}
	result, err := f.state.Apply(entry.Index, cmd)
	f.changedLocked()
	return applied{result, err}
}

// Snapshot takes the State as it is; Persist writes it while the log goes on.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return nil, f.failure
	}
	return snapshot{f.state.View()}, nil
}

// Restore replaces the State, all or nothing. What replay knew to be decided can be newer
// than a snapshot of the leader's; then it stays, and Raft repeats what lies between.
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

// moved is closed by the next change after the call.
func (f *fsm) moved() <-chan struct{} {
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
		_ = sink.Cancel() // the write's error says more
		return err
	}
	return sink.Close()
}

func (s snapshot) Release() {}
