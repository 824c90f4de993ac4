package state

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"
	"time"

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

func TestAuditedCommandIsRead(t *testing.T) {
	path := filepath.Join("testdata", "commands", "v1-audited.json")
	cmd := Command{Time: epoch0, Request: &CreateSecurityGroup{Account: albert, Region: east, Name: "web", Description: "web servers"}, Audit: sampleAudit()}
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
	got, err := DecodeCommand(stored)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, cmd) {
		t.Errorf("%s was decoded as %+v with audit %+v, want %+v with %+v", path, got.Request, got.Audit, cmd.Request, cmd.Audit)
	}
}

// Each command with an Audit leaves a record, refused or not. Commands that nodes propose leave
// none. The newest records are kept, also in a snapshot.
func TestAuditRecordsAreKeptUpToALimit(t *testing.T) {
	r := newReplay(t)
	r.must(&putSettings{ec2.Settings{AuditRecords: 3}})
	apply := func(name string, a *ec2.Audit) error {
		t.Helper()
		_, err := r.state.Apply(r.state.Index()+1, Command{
			Time: epoch0.Add(time.Duration(r.state.Index()) * time.Second), Request: &CreateSecurityGroup{Account: albert, Region: east, Name: name, Description: "x"}, Audit: a,
		})
		return err
	}
	records := func() (list []ec2.AuditRecord) {
		for a := range r.state.View().AuditRecords() {
			list = append(list, *a)
		}
		return list
	}

	if err := apply("unaudited", nil); err != nil || len(records()) != 0 {
		t.Fatalf("a command without Audit got error %v and left the records %v, want neither", err, records())
	}
	a := sampleAudit()
	if err := apply("web", a); err != nil {
		t.Fatal(err)
	}
	before := r.snapshot()
	if err := apply("web", a); err == nil {
		t.Fatal("the same group was created twice")
	}
	if !bytes.Equal(withoutAudit(withoutIndex(before)), withoutAudit(withoutIndex(r.snapshot()))) {
		t.Errorf("a refused command changed more than the audit records:\n%s\n%s", before, r.snapshot())
	}
	got := records()
	if len(got) != 2 || got[0].Number != 1 || got[0].Error != "" || got[1].Error != "InvalidGroup.Duplicate" || got[1].Message == "" ||
		!reflect.DeepEqual(got[1].Audit, *a) || got[1].Index != r.state.Index() || !got[1].Time.Equal(epoch0.Add(time.Duration(r.state.Index()-1)*time.Second)) {
		t.Errorf("the audit records are %+v, want one of a success and one of a failure", got)
	}

	for _, name := range []string{"a", "b", "c", "d"} {
		if err := apply(name, a); err != nil {
			t.Fatal(err)
		}
	}
	if got := records(); len(got) != 3 || got[0].Number != 4 || got[2].Number != 6 {
		t.Errorf("with a limit of 3 the records are %+v, want numbers 4 to 6", got)
	}
	if _, ok := r.state.View().AuditRecord(3); ok {
		t.Error("record 3 was not deleted")
	}
	r.must(&putSettings{ec2.Settings{AuditRecords: 1}})
	if err := apply("e", a); err != nil {
		t.Fatal(err)
	}
	if got := records(); len(got) != 1 || got[0].Number != 7 {
		t.Errorf("with a limit of 1 the records are %+v, want number 7", got)
	}

	restored, err := Restore(bytes.NewReader(r.snapshot()))
	if err != nil {
		t.Fatal(err)
	}
	if again := snapshotOf(t, restored); !bytes.Equal(again, r.snapshot()) {
		t.Errorf("the restored state differs:\n%s", again)
	}
	if _, err := Restore(bytes.NewReader(bytes.Replace(r.snapshot(), []byte(`"Audited":7`), []byte(`"Audited":6`), 1))); err == nil {
		t.Error("a snapshot with a record above the last number was restored")
	}
}
