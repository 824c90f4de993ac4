package state

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"palisade/ec2"
)

// trustState returns a State with the voter node1, and node2 and node3, which are no voters. An instance
// runs at node2, and an interface is attached there.
func trustState(t *testing.T) (*replay, *ec2.Instance) {
	r := newReplay(t)
	r.must(&PutNode{ec2.Node{ID: "node1", Zone: "us-east-1a", Role: ec2.Voter}})
	for i := 2; i <= 3; i++ {
		r.must(&PutNode{ec2.Node{ID: ec2.NodeID(fmt.Sprint("node", i)), Zone: "us-east-1b", Role: ec2.NonVoter}})
	}
	result := r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Zone: "us-east-1b"})
	return r, result.Instances[0].After
}

func isCode(err error, code string) bool {
	e, ok := errors.AsType[*ec2.Error](err)
	return ok && e.Code == code
}

func TestEachRequestHasACaller(t *testing.T) {
	for name := range callers {
		if requests[name] == nil {
			t.Errorf("callers names %s, which is no request", name)
		}
	}
	for name := range requests {
		if callers[name] == byNobody && name != "Batch" {
			t.Errorf("%s has no caller, so only the leader can propose it: add it to callers", name)
		}
	}
	r, _ := trustState(t)
	view := r.state.View()
	for name, request := range allSamples() {
		account := reflect.ValueOf(request).Elem().FieldByName("Account").IsValid() && reflect.ValueOf(request).Elem().FieldByName("Region").IsValid()
		if account && callers[name] == byVoter && name != "RegisterInterface" {
			t.Errorf("an operator may hand in %s, which changes what an account has in a region", name)
		}
		if callers[name] == byUser && view.MayPropose("node1", request) == nil {
			t.Errorf("a voter may hand in %s without a user's signature", name)
		}
	}
	for _, r := range allSamples() {
		if FromOwner(r) != (fmt.Sprintf("%T", r) == "*state.ReportInstance" || fmt.Sprintf("%T", r) == "*state.ReportInterface") {
			t.Errorf("FromOwner of %T is %t", r, FromOwner(r))
		}
	}
}

// TestNodeThatIsNoVoterMayOnlyReportItsOwn tries each request of the log from a node that is no voter.
func TestNodeThatIsNoVoterMayOnlyReportItsOwn(t *testing.T) {
	r, i := trustState(t)
	other := ec2.NodeID("node3")
	if i.Node == other {
		other = "node2"
	}
	all := allSamples()
	all["ReportInstance"] = &ReportInstance{Instance: i.ID, State: ec2.Terminated}
	all["ReportInterface"] = &ReportInterface{Interface: i.Interface}
	all["own batch"] = &Batch{[]Request{&CreateAccount{}}}
	view := r.state.View()
	for name, request := range all {
		if b, ok := request.(*Batch); ok && len(b.Requests) == 0 {
			continue
		}
		if err := view.MayPropose(other, request); err == nil {
			t.Errorf("%s may hand in %s, which is not about what is its own", other, name)
		}
	}
	for _, own := range []Request{all["ReportInstance"], all["ReportInterface"]} {
		if err := view.MayPropose(i.Node, own); err != nil {
			t.Errorf("%s may not report its own: %v", i.Node, err)
		}
	}
	if view.MayPropose("node9", all["ReportInstance"]) == nil {
		t.Error("a node that is no member may hand in a report")
	}
	if err := view.MayPropose("node1", all["FenceNode"]); err != nil {
		t.Errorf("an operator at a voter may not fence: %v", err)
	}
	if view.MayPropose("node1", all["TerminateInstances"]) == nil {
		t.Error("a voter may hand in what only a user may ask for")
	}
}

// TestApplyChecksTheCallerAgain: a command names the node that handed it in, and every node checks it.
func TestApplyChecksTheCallerAgain(t *testing.T) {
	r, i := trustState(t)
	apply := func(from ec2.NodeID, request Request) error {
		_, err := r.state.Apply(r.state.Index()+1, Command{Time: r.now, Request: request, From: from})
		return err
	}
	lease, _ := r.state.View().Interface(i.Interface)
	running := &ReportInstance{Instance: i.ID, InterfaceEpoch: lease.Epoch, State: ec2.Running}
	other := ec2.NodeID("node3")
	if i.Node == other {
		other = "node2"
	}
	for from, request := range map[ec2.NodeID]Request{other: running, "node2": &CreateAccount{ID: "111122223333", Name: "eve", AccessKey: "AKIDEVE", Secret: "e"}} {
		if err := apply(from, request); !isCode(err, "UnauthorizedOperation") {
			t.Errorf("%T from %s: error %v, want UnauthorizedOperation", request, from, err)
		}
		if err := apply(from, &Batch{[]Request{request}}); !isCode(err, "UnauthorizedOperation") {
			t.Errorf("%T in a batch from %s: error %v, want UnauthorizedOperation", request, from, err)
		}
	}
	if now, _ := r.state.View().Instance(i.ID); now.State != ec2.Pending {
		t.Errorf("the instance is %s after a report of another node, want pending", now.State)
	}
	for _, from := range []ec2.NodeID{i.Node, ""} { // "" in a log of an earlier release
		if err := apply(from, running); err != nil {
			t.Errorf("a report from %q: %v", from, err)
		}
	}
}

func TestSignedRequestIsCarriedOutOnce(t *testing.T) {
	r := newReplay(t)
	create := func(name string, s *Signature) error {
		_, err := r.state.Apply(r.state.Index()+1, Command{Time: r.now, Signature: s, Request: &CreateSecurityGroup{Account: albert, Region: east, Name: name, Description: "x"}})
		return err
	}
	a := &Signature{albert, []byte("a"), r.now.Add(5 * time.Minute)}
	if err := create("one", a); err != nil {
		t.Fatal(err)
	}
	restored, err := Restore(bytes.NewReader(r.snapshot())) // as a new leader that began with a snapshot
	if err != nil {
		t.Fatal(err)
	}
	r.state = restored
	if err := create("two", a); !isCode(err, "AuthFailure") {
		t.Errorf("the same signature again: error %v, want AuthFailure", err)
	}
	if err := r.state.View().CheckSignature(a); !isCode(err, "AuthFailure") {
		t.Errorf("the View's check: error %v, want AuthFailure", err)
	}
	b := &Signature{albert, []byte("b"), r.now.Add(5 * time.Minute)}
	if err := create("one", b); !isCode(err, "InvalidGroup.Duplicate") {
		t.Fatalf("a second group of the name: error %v", err)
	}
	if err := create("two", b); err != nil {
		t.Errorf("a signature whose request was refused: %v", err)
	}
	// Once a signature has expired it is forgotten, and refused as expired, also if the clock of the next leader
	// is slow.
	r.now = r.now.Add(5 * time.Minute)
	if err := create("three", &Signature{albert, []byte("c"), r.now.Add(5 * time.Minute)}); err != nil {
		t.Fatal(err)
	}
	n := 0
	for range rows[Signature](r.state.View().txn(), tableSignature, indexID, "") {
		n++
	}
	if n != 1 {
		t.Errorf("%d signatures are remembered, want 1", n)
	}
	r.now = r.now.Add(-5 * time.Minute)
	if err := create("four", a); !isCode(err, "RequestExpired") {
		t.Errorf("an expired signature at a slow clock: error %v, want RequestExpired", err)
	}
}

func TestSignaturesAreBoundedForEachAccount(t *testing.T) {
	r := newReplay(t)
	tx := newTx(r.state.db, r.state.Index()+1)
	tx.countSignature(albert, maxSignatures)
	tx.commit()
	s := &Signature{albert, []byte("a"), r.now.Add(time.Hour)}
	tx = newTx(r.state.db, r.state.Index()+2)
	defer tx.Abort()
	if err := tx.checkSignature(s); !isCode(err, "RequestLimitExceeded") {
		t.Errorf("a signature beyond the limit: error %v, want RequestLimitExceeded", err)
	}
	if err := tx.checkSignature(&Signature{mary, s.ID, s.Until}); err != nil {
		t.Errorf("a signature of another account: %v", err)
	}
}

func TestCommandKeepsItsCallerAndSignature(t *testing.T) {
	cmd := Command{Time: epoch0, Request: &Sweep{}, From: "node2", Signature: &Signature{albert, []byte("id"), epoch0.Add(time.Minute)}}
	data, err := EncodeCommand(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeCommand(data); err != nil || !reflect.DeepEqual(got, cmd) {
		t.Errorf("decoded %+v, error %v; want %+v", got, err, cmd)
	}
}
