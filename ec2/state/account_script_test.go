package state

import (
	"net/netip"
	"testing"
	"time"

	"palisade/ec2"
)

// accountScript is a log with sealed keys and with records of who asked for what.
func accountScript() []Command {
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

func TestSnapshotOfAccountsIsRead(t *testing.T) {
	s := NewState()
	for n, cmd := range accountScript() {
		cmd.Time = epoch0.Add(time.Duration(n) * time.Second)
		_, _ = s.Apply(uint64(n+1), cmd)
	}
	expectKeptSnapshot(t, s, "v2-accounts.jsonl")
}
