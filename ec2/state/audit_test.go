package state

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
)

func sampleAudit() *ec2.Audit {
	return &ec2.Audit{
		Account: albert, AccessKey: "AKIDALBERT", Region: east, Source: "203.0.113.25", UserAgent: "aws-cli/2.9.19", RequestID: "f3e1",
		Action: "CreateSecurityGroup", Parameters: map[string]string{"GroupName": "web", "GroupDescription": "web servers"},
	}
}

var audited = regexp.MustCompile(`,"Audited":\d+|(?m)^{"table":"audit".*\n|^{"table":"end".*$`)

// withoutAudit returns a snapshot without its audit records, because a refused command adds one
// too.
func withoutAudit(snapshot []byte) []byte { return audited.ReplaceAll(snapshot, nil) }

// The log entry of this release says that its audit record is chained; that of an earlier one does not.
func TestAuditedCommandIsRead(t *testing.T) {
	for name, unchained := range map[string]bool{"v1-audited.json": true, "v1-audited-chained.json": false} {
		path := filepath.Join("testdata", "commands", name)
		cmd := Command{
			Time: epoch0, Request: &CreateSecurityGroup{Account: albert, Region: east, Name: "web", Description: "web servers"}, Audit: sampleAudit(),
			unchained: unchained,
		}
		data, err := EncodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		stored, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(append(data, '\n'), stored) {
			t.Errorf("%s: the command is now encoded as %s, want %s", name, data, stored)
		}
		got, err := DecodeCommand(stored)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, cmd) {
			t.Errorf("%s was decoded as %+v with audit %+v, want %+v with %+v", path, got, got.Audit, cmd, cmd.Audit)
		}
	}
}

// A command that was carried out for a caller leaves a record. A refused command leaves none, and
// neither does a command that a node proposes. The newest records are kept, also in a snapshot.
func TestAuditRecordsAreKeptUpToALimit(t *testing.T) {
	r := newReplay(t)
	r.must(&putSettings{ec2.Settings{AuditRecords: 3}})
	if err := r.audited(albert, "unaudited", nil); err != nil || len(recordsOf(r.state)) != 0 {
		t.Fatalf("a command without Audit got error %v and left the records %v, want neither", err, recordsOf(r.state))
	}
	a := sampleAudit()
	if err := r.audited(albert, "web", a); err != nil {
		t.Fatal(err)
	}
	before := r.snapshot()
	if err := r.audited(albert, "web", a); err == nil {
		t.Fatal("the same group was created twice")
	}
	if !bytes.Equal(withoutIndex(before), withoutIndex(r.snapshot())) {
		t.Errorf("a refused command changed more than the index:\n%s\n%s", before, r.snapshot())
	}
	got := recordsOf(r.state)
	if len(got) != 1 || got[0].Number != 1 || got[0].Position != 1 || !reflect.DeepEqual(got[0].Audit, *a) || got[0].Index != r.state.Index()-1 {
		t.Errorf("the audit records are %+v, want one of the command that was carried out", got)
	}

	for _, name := range []string{"a", "b", "c", "d"} {
		if err := r.audited(albert, name, a); err != nil {
			t.Fatal(err)
		}
	}
	if got := recordsOf(r.state); len(got) != 3 || got[0].Number != 3 || got[2].Number != 5 {
		t.Errorf("with a limit of 3 the records are %+v, want numbers 3 to 5", got)
	}
	if _, ok := r.state.View().AuditRecord(2); ok {
		t.Error("record 2 was not deleted")
	}
	r.must(&putSettings{ec2.Settings{AuditRecords: 1}})
	if err := r.audited(albert, "e", a); err != nil {
		t.Fatal(err)
	}
	if got := recordsOf(r.state); len(got) != 1 || got[0].Number != 6 {
		t.Errorf("with a limit of 1 the records are %+v, want number 6", got)
	}
	checkChains(t, r.state)

	restored, err := Restore(bytes.NewReader(r.snapshot()))
	if err != nil {
		t.Fatal(err)
	}
	if again := snapshotOf(t, restored); !bytes.Equal(again, r.snapshot()) {
		t.Errorf("the restored state differs:\n%s", again)
	}
}

// audited creates a group for an account, with an Audit that names the account, and returns the error.
func (r *replay) audited(account ec2.AccountID, name string, a *ec2.Audit) error {
	if a != nil {
		by := *a
		by.Account = account
		a = &by
	}
	_, err := r.state.Apply(r.state.Index()+1, Command{
		Time: epoch0.Add(time.Duration(r.state.Index()) * time.Second), Audit: a,
		Request: &CreateSecurityGroup{Account: albert, Region: east, Name: name, Description: "x"},
	})
	return err
}

func recordsOf(s *State) (list []ec2.AuditRecord) {
	for a := range s.View().AuditRecords() {
		list = append(list, *a)
	}
	return list
}

// checkChains checks each ring: the hashes, computed here from the records, lead from its start to its end.
func checkChains(t *testing.T, s *State) {
	t.Helper()
	view, inRings := s.View(), 0
	for ring := range view.AuditRings() {
		previous := ring.Start
		for p := ring.First; p <= ring.Last; p++ {
			r, ok := view.AuditRecordAt(ring.Account, p)
			if !ok || r.Account != ring.Account || r.Hash != r.ChainHash(previous) {
				t.Fatalf("ring %+v: record %d is %+v, want it with the hash over %s", ring, p, r, previous)
			}
			previous = r.Hash
			inRings++
		}
		if ring.End != previous {
			t.Errorf("ring %+v ends with hash %s", ring, previous)
		}
	}
	if all := len(recordsOf(s)); all != inRings {
		t.Errorf("the rings have %d records, want all %d", inRings, all)
	}
}

// keptOf returns how many records the ring of an account has.
func keptOf(s *State, account ec2.AccountID) uint64 {
	for ring := range s.View().AuditRings() {
		if ring.Account == account {
			return ring.Kept()
		}
	}
	return 0
}

// An account that makes calls without end does not erase the records of another, nor those of the
// operators, and all records together are bounded.
func TestAuditRecordsOfOneAccountDoNotEraseThoseOfAnother(t *testing.T) {
	const limit = 10
	r := newReplay(t)
	r.must(&putSettings{ec2.Settings{AuditRecords: limit}})
	n := 0
	call := func(account ec2.AccountID, times int) {
		t.Helper()
		for range times {
			n++
			if err := r.audited(account, fmt.Sprintf("group %d", n), sampleAudit()); err != nil {
				t.Fatal(err)
			}
		}
	}
	call(albert, limit-2)
	call("", limit)
	call(mary, 5*limit)
	if a, o, m := keptOf(r.state, albert), keptOf(r.state, ""), keptOf(r.state, mary); a != limit-2 || o != limit || m != limit {
		t.Errorf("the rings of albert, the operators and mary have %d, %d and %d records, want %d, %d and %d", a, o, m, limit-2, limit, limit)
	}
	for i := range 8 { // 8 more accounts, which flood
		call(ec2.AccountID(fmt.Sprintf("90000000000%d", i)), 3*limit)
	}
	total := uint64(0)
	for ring := range r.state.View().AuditRings() {
		if ring.Account != "" {
			total += ring.Kept()
		}
	}
	if a, o := keptOf(r.state, albert), keptOf(r.state, ""); total != limit*auditRings || a < limit*auditRings/10 || o != limit {
		t.Errorf("after a flood of 8 accounts the rings have %d records, that of albert %d and that of the operators %d; want %d, at least %d, %d",
			total, a, o, limit*auditRings, limit*auditRings/10, limit)
	}
	checkChains(t, r.state)
}

// The log of an earlier release has entries that are not chained. A node that replays it and a node
// that restores a snapshot from the middle of it have the same records and the same chains.
func TestAuditOfEarlierReleaseIsChainedAlikeByLogAndBySnapshot(t *testing.T) {
	const old, all = 12, 20
	history := newReplay(t)
	history.must(&putSettings{ec2.Settings{AuditRecords: 5}})
	start := history.snapshot()
	command := func(n int) Command {
		by := sampleAudit()
		by.Account = []ec2.AccountID{albert, mary, ""}[n%3]
		name := fmt.Sprintf("group %d", n-n%4/3) // every fourth exists already
		return Command{
			Time: epoch0.Add(time.Duration(n) * time.Minute), Audit: by, unchained: n < old,
			Request: &CreateSecurityGroup{Account: albert, Region: east, Name: name, Description: "x"},
		}
	}
	for from := 0; from <= all; from++ { // the number of entries before the snapshot
		s, err := Restore(bytes.NewReader(start))
		if err != nil {
			t.Fatal(err)
		}
		for n := range all {
			if n == from {
				if s, err = Restore(bytes.NewReader(snapshotOf(t, s))); err != nil {
					t.Fatal(err)
				}
			}
			stored, err := EncodeCommand(command(n))
			if err != nil {
				t.Fatal(err)
			}
			cmd, err := DecodeCommand(stored)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.Apply(s.Index()+1, cmd)
			if chained := s.View().AuditChained(); chained != (n >= old) {
				t.Fatalf("after entry %d the records are chained: %t, want %t", n, chained, n >= old)
			}
		}
		checkChains(t, s)
		if from == 0 {
			history.state = s
			continue
		}
		if got := snapshotOf(t, s); !bytes.Equal(got, history.snapshot()) {
			t.Errorf("restored from a snapshot after %d entries, the state differs:\n%s", from, cmp.Diff(string(history.snapshot()), string(got)))
		}
	}
	refused := 0
	for _, r := range recordsOf(history.state) {
		if r.Error != "" {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no refused command of the earlier release was kept")
	}
}

// A snapshot whose audit records were changed is refused.
func TestSnapshotWithChangedAuditRecordsIsRefused(t *testing.T) {
	r := newReplay(t)
	for i := range 4 {
		if err := r.audited([]ec2.AccountID{albert, mary}[i%2], fmt.Sprintf("group %d", i), sampleAudit()); err != nil {
			t.Fatal(err)
		}
	}
	good := string(r.snapshot())
	lines := strings.SplitAfter(good, "\n")
	isAudit := func(line string) bool { return strings.HasPrefix(line, `{"table":"audit",`) }
	last := slices.IndexFunc(lines, isAudit)
	for what, changed := range map[string]string{
		"number above the last": strings.Replace(good, `"Audited":4`, `"Audited":3`, 1),
		"changed content":       strings.Replace(good, `"Source":"203.0.113.25"`, `"Source":"203.0.113.26"`, 1),
		"changed end":           strings.Replace(good, `"Last":2,`, `"Last":1,`, 1),
		"another count":         strings.Replace(good, `"AuditKept":4`, `"AuditKept":3`, 1),
		"a record less": strings.Replace(strings.Join(slices.Delete(slices.Clone(lines), last, last+1), ""),
			fmt.Sprintf(`"rows":%d`, len(lines)-3), fmt.Sprintf(`"rows":%d`, len(lines)-4), 1),
		"no chain": strings.Replace(good, `,"AuditChained":true`, ``, 1),
	} {
		if _, err := Restore(strings.NewReader(changed)); err == nil || changed == good || !strings.Contains(err.Error(), "audit") {
			t.Errorf("%s: the restore of the changed snapshot (changed: %t) returned %v, want an error about the audit", what, changed != good, err)
		}
	}
}
