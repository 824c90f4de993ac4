package state

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
)

// Version 1 had no node numbers. Restore assigns the same numbers on every node.
func TestSnapshotOfVersion1IsRead(t *testing.T) {
	stored, err := os.ReadFile(filepath.Join("testdata", "snapshots", "v1.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Restore(bytes.NewReader(stored))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(
		`"version":1`, `"version":2`,
		`"TerminatedFor":3600000000000}}`, `"TerminatedFor":3600000000000},"NodeNumber":1}`,
		`"Zone":"us-east-1a"}`, `"Zone":"us-east-1a","Number":1,"Admitted":1}`,
	).Replace(string(stored))
	if diff := cmp.Diff(want, string(snapshotOf(t, got))); diff != "" {
		t.Errorf("the snapshot changed when it was read and written:\n%s", diff)
	}
}

func TestSnapshotOfThisVersionIsRead(t *testing.T) {
	s := NewState()
	for n, req := range randomHistory(1, 120) {
		_, _ = s.Apply(uint64(n+1), Command{Time: epoch0.Add(time.Duration(n) * time.Second), Request: req})
	}
	expectStoredSnapshot(t, s, "v2.jsonl")
}

// expectStoredSnapshot checks that a snapshot from testdata is read and written again unchanged.
// With -update it first writes the file from s.
func expectStoredSnapshot(t *testing.T, s *State, name string) {
	t.Helper()
	path := filepath.Join("testdata", "snapshots", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, snapshotOf(t, s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Restore(bytes.NewReader(stored))
	if err != nil {
		t.Fatal(err)
	}
	if again := snapshotOf(t, got); !bytes.Equal(again, stored) {
		t.Errorf("the snapshot changed when it was read and written:\n%s", cmp.Diff(string(stored), string(again)))
	}
}

func TestDamagedSnapshotsAreRefused(t *testing.T) {
	s := NewState()
	for n, req := range randomHistory(2, 80) {
		_, _ = s.Apply(uint64(n+1), Command{Time: epoch0, Request: req})
	}
	good := snapshotOf(t, s)
	lines := strings.SplitAfter(string(good), "\n")
	for what, data := range map[string]string{
		"empty":              "",
		"no end":             strings.Join(lines[:len(lines)-2], ""),
		"cut off":            string(good[:len(good)/2]),
		"one row missing":    strings.Join(append(append([]string{}, lines[:5]...), lines[6:]...), ""),
		"no meta":            lines[0] + `{"table":"end","rows":0}`,
		"data after the end": string(good) + "{}",
		"new version":        strings.Replace(string(good), `"version":2`, `"version":3`, 1),
		"new table":          strings.Replace(string(good), `"table":"node"`, `"table":"host"`, 1),
		"new field":          strings.Replace(string(good), `"Zone":`, `"Area":`, 1),
		"no number":          strings.Replace(string(good), `"Number":1,`, ``, 1),
		"high number":        strings.Replace(string(good), `"Number":1,`, `"Number":4000,`, 1),
		"other format":       strings.Replace(string(good), snapshotFormat, "other", 1),
	} {
		if _, err := Restore(strings.NewReader(data)); err == nil {
			t.Errorf("%s: the snapshot was restored, want an error", what)
		}
	}
}

// accountHistory returns a log with sealed access keys and audited commands.
func accountHistory() []Command {
	network := ec2.Network{VNI: 1, Region: east, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Pools: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")}}
	return []Command{
		{Request: &Batch{[]Request{
			&Bootstrap{Seed: "seed", Settings: ec2.Settings{AuditRecords: 3}}, &SealSecrets{Key: "0123456789abcdef"},
			&PutNode{ec2.Node{ID: "node1", Zone: "us-east-1a"}}, &PutNetwork{network},
			&CreateAccount{ID: albert, Name: "albert", Platform: ec2.Classic, AccessKey: "AKIDALBERT", Sealed: sampleSealed},
		}}},
		{Request: &CreateAccessKey{albert, "AKIDALBERTSECOND", sampleSealed}, Audit: &ec2.Audit{Source: "control socket of node1", Action: "CreateAccessKey", RequestID: "1"}},
		{Request: &UpdateAccessKey{albert, "AKIDALBERT", true}},
		{Request: &CreateSecurityGroup{Account: albert, Region: east, Name: "web", Description: "web servers"}, Audit: sampleAudit()},
		{Request: &CreateSecurityGroup{Account: albert, Region: east, Name: "web", Description: "again"}, Audit: sampleAudit()},
		{Request: &CreateSecurityGroup{Account: albert, Region: east, Name: "db", Description: "databases"}, Audit: sampleAudit()},
	}
}

func TestSnapshotWithAccountsAndAuditRecordsIsRead(t *testing.T) {
	for name, unchained := range map[string]bool{"v2-accounts.jsonl": true, "v2-audit-rings.jsonl": false} {
		s := NewState()
		for n, cmd := range accountHistory() {
			cmd.Time, cmd.unchained = epoch0.Add(time.Duration(n)*time.Second), unchained
			_, _ = s.Apply(uint64(n+1), cmd)
		}
		expectStoredSnapshot(t, s, name)
		now := laterSettings.ReplaceAll(snapshotOf(t, s), nil)
		if stored, err := os.ReadFile(filepath.Join("testdata", "snapshots", name)); err != nil || !bytes.Equal(stored, now) {
			t.Errorf("%s: the history gives another snapshot than when the file was written (read error %v):\n%s", name, err, cmp.Diff(string(stored), string(now)))
		}
	}
}

// laterSettings matches the defaults of settings that no release had when the files were written.
var laterSettings = regexp.MustCompile(`,"((Templates|TemplateVersions|PlacementGroups|DHCPOptions|PrefixLists)PerRegion|NATGatewaysPerZone|PeeringsPerVPC|PeeringRequests|ACLsPerVPC|EntriesPerACL|PrefixList(Entries|Versions))":\d+`)
