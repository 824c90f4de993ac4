package cluster

import (
	"context"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

// handIn hands a command to the leader as a node's own code does, and returns the leader's error.
func (n *testNode) handIn(t *testing.T, cmd state.Command) error {
	t.Helper()
	data, err := encode(cmd)
	if err != nil {
		t.Fatal(err)
	}
	a, err := n.callLeader(t.Context(), n.nodes.leader().name, methodApply, data)
	if err != nil {
		t.Fatal(err)
	}
	return a.err()
}

// TestNodeCannotReportInterfacesOfAnotherNode: a node that is no voter hands in reports about an instance of
// another node, commands of users and operators, and audit records. None of them becomes an entry.
func TestNodeCannotReportInterfacesOfAnotherNode(t *testing.T) {
	s := startCluster(t, 1, nil)
	n := s.join("node2", ec2.NonVoter)
	leader := s.leader()
	run, _ := s.apply(leader, &state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 2, MaxCount: 2})
	var own, others *ec2.Instance
	for _, i := range run.Instances {
		if i.After.Node == "node2" {
			own = i.After
		} else {
			others = i.After
		}
	}
	report := func(i *ec2.Instance) *state.ReportInstance {
		eni, _ := leader.View().Interface(i.Interface)
		return &state.ReportInstance{Instance: i.ID, InterfaceEpoch: eni.Epoch, State: ec2.Running}
	}
	index := leader.View().Index()
	audit := &ec2.Audit{Account: albert, Action: "Forged", Source: "192.0.2.1"}
	for what, cmd := range map[string]state.Command{
		"report of another node":    {Request: report(others)},
		"in another node's name":    {Request: report(others), From: "node1"},
		"interface of another node": {Request: &state.ReportInterface{Interface: others.Interface}},
		"report with an audit":      {Request: report(own), Audit: audit},
		"report with a signature":   {Request: report(own), Signature: &state.Signature{Account: albert, ID: []byte("x"), Until: time.Now().Add(time.Hour)}},
		"user's request":            {Request: &state.TerminateInstances{Account: albert, Region: region, Instances: []ec2.InstanceID{others.ID}}, Audit: audit},
		"operator's request":        {Request: &state.FenceNode{Node: "node1"}, Audit: &ec2.Audit{Action: "FenceNode"}},
		"admission":                 {Request: &state.AdmitNode{Node: ec2.Node{ID: "evil"}}},
		"key of users":              {Request: &state.CreateAccessKey{Account: albert, ID: "AKIDEVIL"}},
		"leader's request":          {Request: &state.PutNode{Node: ec2.Node{ID: "node2", Zone: "us-east-1a", Role: ec2.Voter}}},
		"interface of anybody":      {Request: &state.RegisterInterface{Account: albert, Region: region, Node: "node2"}},
		"all in a batch":            {Request: &state.Batch{Requests: []state.Request{report(own), report(others)}}},
	} {
		if err := n.handIn(t, cmd); !isCode(err, "UnauthorizedOperation") {
			t.Errorf("%s: error %v, want UnauthorizedOperation", what, err)
		}
	}
	if now := leader.View().Index(); now != index {
		t.Errorf("refused commands became %d entries", now-index)
	}
	if len(leader.Refused()) == 0 {
		t.Error("the leader counted no refusal")
	}
	if err := n.handIn(t, state.Command{Request: report(own), From: "node1"}); err != nil { // the leader sets From
		t.Errorf("a report about the node's own instance: %v", err)
	}
	if i, _ := leader.View().Instance(own.ID); i.State != ec2.Running {
		t.Errorf("the instance is %s, want running", i.State)
	}
}

// TestVoterHandsInWhatItsOperatorAsksFor: the audit record names the voter, and no account.
func TestVoterHandsInWhatItsOperatorAsksFor(t *testing.T) {
	s := startCluster(t, 2, nil)
	voter := s.follower()
	token := &state.CreateJoinToken{ID: "t", SecretHash: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", Expires: time.Now().Add(time.Hour)}
	audit := &ec2.Audit{Source: "control socket of another", Action: "CreateJoinToken", RequestID: "1"}
	err, _ := s.retry(func(ctx context.Context) error {
		_, _, err := voter.Apply(ctx, state.Command{Request: token, Audit: audit})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for r := range voter.View().AuditRecords() {
		if r.Action == "CreateJoinToken" && r.Source == audit.Source && r.Via != voter.name {
			t.Errorf("the audit record is %+v, want one passed on by %s", r, voter.name)
		}
	}
	forged := &ec2.Audit{Account: albert, Action: "CreateJoinToken"}
	if err := voter.handIn(t, state.Command{Request: &state.FenceNode{Node: "node9"}, Audit: forged}); !isCode(err, "UnauthorizedOperation") {
		t.Errorf("an audit record of an account: error %v, want UnauthorizedOperation", err)
	}
	if err := voter.handIn(t, state.Command{Request: &state.TerminateInstances{Account: albert, Region: region}}); !isCode(err, "UnauthorizedOperation") {
		t.Errorf("a user's request: error %v, want UnauthorizedOperation", err)
	}
}

// What the leader proposes says who handed it in: a voter's operator by the voter's record, a node that is no
// voter by the leader's record.
func TestHandedInCommandsNameTheirNode(t *testing.T) {
	s := newCircle(t, 3, nil)
	s.put(s.member("node3", func(n *ec2.Node) { n.Role = ec2.NonVoter }))
	fence := &state.FenceNode{Node: "node3"}
	audit := &ec2.Audit{Source: "control socket of another", Action: "FenceNode", Via: "another"}
	for _, tt := range []struct {
		what string
		from ec2.NodeID
		cmd  state.Command
		ok   bool
	}{
		{"a voter's operator", "node2", state.Command{Request: fence, Audit: audit, From: "node1"}, true},
		{"a voter itself", "node2", state.Command{Request: fence}, true},
		{"in the name of an account", "node2", state.Command{Request: fence, Audit: &ec2.Audit{Account: albert}}, false},
		{"in the name of an access key", "node2", state.Command{Request: fence, Audit: &ec2.Audit{AccessKey: "AKIDALBERT"}}, false},
		{"with a user's signature", "node2", state.Command{Request: fence, Audit: audit, Signature: &state.Signature{Account: albert}}, false},
		{"an operator of a node that is no voter", "node3", state.Command{Request: fence, Audit: audit}, false},
		{"a stranger", "node9", state.Command{Request: fence, Audit: audit}, false},
	} {
		got, err := s.handedIn(tt.from, tt.cmd)
		if (err == nil) != tt.ok || err != nil && !isCode(err, "UnauthorizedOperation") {
			t.Errorf("%s: %v, want accepted: %v", tt.what, err, tt.ok)
			continue
		}
		if err == nil && (got.From != tt.from || (got.Audit != nil) != (tt.cmd.Audit != nil) || got.Audit != nil && (got.Audit.Via != tt.from || got.Audit.Source != audit.Source || got.Audit.Action != audit.Action)) {
			t.Errorf("%s: it is from %s with the record %+v, want from %s", tt.what, got.From, got.Audit, tt.from)
		}
	}
	if audit.Via != "another" {
		t.Errorf("the caller's record was changed to %+v", audit)
	}
	a := detachedBy("node3", &state.UnregisterInterface{Interface: "eni-1"})
	if a.Source != "control socket of node3" || a.Via != "node3" || a.Action != "UnregisterInterface" || a.RequestID == "" || len(a.Parameters) != 1 || a.Parameters["NetworkInterfaceId"] != "eni-1" {
		t.Errorf("the record of a detached interface is %+v", a)
	}
}
