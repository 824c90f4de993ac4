package state

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzApply applies each input that can be decoded as a command. Apply must not panic, a refused
// command must change nothing, and the State must survive a snapshot.
func FuzzApply(f *testing.F) {
	for _, req := range allSamples() {
		data, err := EncodeCommand(Command{Time: epoch0, Request: req, Audit: sampleAudit()})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cmd, err := DecodeCommand(data)
		if err != nil {
			return
		}
		r := newReplay(t)
		r.run(1)
		before := r.snapshot()
		_, err = r.state.Apply(r.state.Index()+1, cmd)
		after := r.snapshot()
		if err != nil && !bytes.Equal(withoutAudit(withoutIndex(before)), withoutAudit(withoutIndex(after))) {
			t.Errorf("a refused command changed the state:\n%s", cmp.Diff(string(before), string(after)))
		}
		restored, err := Restore(bytes.NewReader(after))
		if err != nil {
			t.Fatal(err)
		}
		if again := snapshotOf(t, restored); !bytes.Equal(after, again) {
			t.Errorf("the restored state differs:\n%s", cmp.Diff(string(after), string(again)))
		}
		r.state = restored
		r.must(&Sweep{})
	})
}

// FuzzRestore restores arbitrary bytes. The result must be an error, or a State that can apply
// commands and that equals its own restored snapshot.
func FuzzRestore(f *testing.F) {
	f.Add(snapshotOf(f, newReplay(f).state))
	f.Add([]byte(furnishedSnapshot(f)))
	f.Add(snapshotOf(f, newVPCWorld(f).state))
	for _, version := range []string{"v1.jsonl", "v2.jsonl"} {
		stored, err := os.ReadFile(filepath.Join("testdata", "snapshots", version))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(stored)
	}
	after := slices.Concat(randomHistory(3, 30), vpcHistory(3, 60))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Restore(bytes.NewReader(data))
		if err != nil || s.Index() > 1<<62 || s.current.Load().meta.Serial > 1<<31 || s.current.Load().meta.NodeNumber > 1<<31 {
			return
		}
		once := snapshotOf(t, s)
		again, err := Restore(bytes.NewReader(once))
		if err != nil {
			t.Fatalf("the snapshot of a restored state is refused: %v", err)
		}
		for n, req := range after {
			index := s.Index() + 1
			cmd := Command{Time: epoch0.Add(time.Duration(n) * time.Minute), Request: req}
			_, errA := s.Apply(index, cmd)
			_, errB := again.Apply(index, cmd)
			if (errA == nil) != (errB == nil) {
				t.Fatalf("%T: the state returned %v, its copy %v", req, errA, errB)
			}
		}
		if a, b := snapshotOf(t, s), snapshotOf(t, again); !bytes.Equal(a, b) {
			t.Errorf("the state and its copy differ:\n%s", cmp.Diff(string(a), string(b)))
		}
	})
}
