package state

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
)

var (
	gossipKey  = []byte("a gossip key of thirty-two bytes")
	otherKey   = []byte("another key of thirty-two bytes.")
	secretHash = strings.Repeat("5e", 32)
)

// admit admits a node with a new join token and returns the node.
func (r *replay) admit(id ec2.NodeID, zone string, role ec2.NodeRole) *ec2.Node {
	r.t.Helper()
	token := "for-" + string(id) + "-" + r.now.Format("150405.000") + "-" + string(rune('a'+r.state.Index()%26))
	r.must(&CreateJoinToken{ID: token, SecretHash: secretHash, Role: role, Expires: r.now.Add(time.Hour)})
	return r.must(&AdmitNode{Token: token, SecretHash: secretHash, Node: joiner(id, zone, token)}).Node
}

// joiner returns the row that a node sends when it joins. Key stands for its public key.
func joiner(id ec2.NodeID, zone, key string) ec2.Node {
	last := map[ec2.NodeID]string{"node2": "12", "node3": "13", "node4": "14", "node5": "15"}[id]
	if last == "" {
		last = "99"
	}
	return ec2.Node{ID: id, Zone: zone, Address: "192.0.2." + last + ":7400", PublicKey: []byte("the key of " + key)}
}

// newTrio returns a replay with three voters: node1 and node2 in zone a, node3 in zone b.
func newTrio(t testing.TB) *replay {
	r := newReplay(t)
	r.admit("node2", "us-east-1a", ec2.Voter)
	r.admit("node3", "us-east-1b", ec2.Voter)
	return r
}

func (r *replay) node(id ec2.NodeID) *ec2.Node {
	r.t.Helper()
	n, ok := r.state.View().Node(id)
	if !ok {
		r.t.Fatalf("node %s does not exist", id)
	}
	return n
}

func (r *replay) instance(id ec2.InstanceID) *ec2.Instance {
	r.t.Helper()
	i, ok := r.state.View().Instance(id)
	if !ok {
		r.t.Fatalf("instance %s does not exist", id)
	}
	return i
}

func TestNodeNumbersAreNeverReused(t *testing.T) {
	r := newReplay(t)
	if n := r.node("node1"); n.Number != 1 || n.Admitted != 1 {
		t.Errorf("the first node is %+v, want number 1", n)
	}
	seen := map[uint32]ec2.NodeID{1: "node1"}
	admitted := uint64(1)
	check := func(n *ec2.Node) {
		t.Helper()
		if seen[n.Number] != "" || n.Admitted <= admitted || n.State != "" {
			t.Errorf("node %+v: want an admission above %d and a new number, which belonged to %q", n, admitted, seen[n.Number])
		}
		seen[n.Number], admitted = n.ID, n.Admitted
	}
	check(r.admit("node2", "us-east-1a", ec2.Voter))
	check(r.admit("node3", "us-east-1b", ec2.NonVoter))
	r.must(&RemoveNode{Node: "node3"})
	check(r.admit("node3", "us-east-1b", ec2.NonVoter))
	r.must(&FenceNode{Node: "node2"})
	check(r.admit("node2", "us-east-1a", ec2.Voter))

	// PutNode of a member is no admission.
	was := *r.node("node2")
	r.must(&PutNode{ec2.Node{ID: "node2", Zone: "us-east-1c", Number: 77, Admitted: 77}})
	was.Zone = "us-east-1c"
	if diff := cmp.Diff(&was, r.node("node2")); diff != "" {
		t.Errorf("PutNode with another zone changed more than the zone:\n%s", diff)
	}
	restored, err := Restore(bytes.NewReader(r.snapshot()))
	if err != nil {
		t.Fatal(err)
	}
	r.state = restored
	check(r.admit("node4", "us-east-1a", ec2.Voter))
}

func TestPutNodeRefusesInvalidNodes(t *testing.T) {
	r := newTrio(t)
	r.refused(&PutNode{ec2.Node{ID: "node9"}}, "MissingParameter")
	r.refused(&PutNode{ec2.Node{ID: "node9", Zone: "us-east-1a", Role: "king"}}, "InvalidParameterValue")
	r.refused(&PutNode{ec2.Node{ID: "node9", Zone: "us-east-1a", Address: "somewhere"}}, "InvalidParameterValue")
	r.refused(&PutNode{ec2.Node{ID: "node9", Zone: "us-east-1a", Address: "0.0.0.0:7400"}}, "InvalidParameterValue")
	r.refused(&PutNode{ec2.Node{ID: "node9", Zone: "us-east-1a", Address: "192.0.2.12:7400"}}, "EntityAlreadyExists")
	r.refused(&PutNode{ec2.Node{ID: "node9", Zone: "us-east-1a", PublicKey: r.node("node3").PublicKey}}, "EntityAlreadyExists")
	r.must(&FenceNode{Node: "node2"})
	r.must(&FenceNode{Node: "node3"})
	r.refused(&PutNode{ec2.Node{ID: "node2", Zone: "us-east-1a"}}, "IncorrectState")
	r.refused(&PutNode{ec2.Node{ID: "node1", Zone: "us-east-1a", Role: ec2.NonVoter}}, "IncorrectState") // the last voter
	r.must(&PutNode{ec2.Node{ID: "node9", Zone: "us-east-1a", Address: "192.0.2.12:7400"}})              // the address of the fenced node2 is free
}

func TestJoinTokenAdmitsOneNode(t *testing.T) {
	r := newReplay(t)
	expires := r.now.Add(10 * time.Minute)
	create := func(id string, role ec2.NodeRole) *CreateJoinToken {
		return &CreateJoinToken{ID: id, SecretHash: secretHash, Role: role, Expires: expires}
	}
	r.must(create("t1", ec2.NonVoter))
	r.refused(create("t1", ec2.NonVoter), "EntityAlreadyExists")
	r.refused(create("", ec2.NonVoter), "InvalidParameterValue")
	r.refused(create("t2", "king"), "InvalidParameterValue")
	r.refused(&CreateJoinToken{ID: "t2", SecretHash: "5e", Expires: expires}, "InvalidParameterValue")
	r.refused(&CreateJoinToken{ID: "t2", SecretHash: secretHash, Expires: r.now}, "InvalidParameterValue")

	admit := func(change func(*AdmitNode)) *AdmitNode {
		a := &AdmitNode{Token: "t1", SecretHash: secretHash, Node: joiner("node2", "us-east-1a", "node2")}
		if change != nil {
			change(a)
		}
		return a
	}
	for _, c := range []struct {
		what   string
		change func(*AdmitNode)
		code   string
	}{
		{"unknown token", func(a *AdmitNode) { a.Token = "t9" }, "AuthFailure"},
		{"wrong secret", func(a *AdmitNode) { a.SecretHash = strings.Repeat("5f", 32) }, "AuthFailure"},
		{"no secret", func(a *AdmitNode) { a.SecretHash = "" }, "AuthFailure"},
		{"another role", func(a *AdmitNode) { a.Node.Role = ec2.Voter }, "AuthFailure"},
		{"a member's name", func(a *AdmitNode) { a.Node.ID = "node1" }, "EntityAlreadyExists"},
		{"a bad name", func(a *AdmitNode) { a.Node.ID = "node 2/.." }, "InvalidParameterValue"},
		{"no zone", func(a *AdmitNode) { a.Node.Zone = "" }, "MissingParameter"},
		{"no address", func(a *AdmitNode) { a.Node.Address = "" }, "MissingParameter"},
		{"no key", func(a *AdmitNode) { a.Node.PublicKey = nil }, "MissingParameter"},
		{"a bad address", func(a *AdmitNode) { a.Node.Address = "node2:7400" }, "InvalidParameterValue"},
	} {
		t.Run(c.what, func(t *testing.T) {
			r.t = t
			r.refused(admit(c.change), c.code)
		})
	}
	r.t = t

	n := r.must(admit(nil)).Node // the refused requests have not used the token
	if n.Role != ec2.NonVoter || n.Number != 2 {
		t.Errorf("admitted as %+v, want number 2 and the role of the token", n)
	}
	// The answer was lost, and the same node asks again.
	before := r.snapshot()
	if again := r.must(admit(nil)).Node; again != n {
		t.Errorf("the repeated request returned %+v, want %+v", again, n)
	}
	if !bytes.Equal(withoutIndex(before), withoutIndex(r.snapshot())) {
		t.Error("the repeated request changed the state")
	}
	r.refused(admit(func(a *AdmitNode) { a.Node.PublicKey = []byte("another key") }), "AuthFailure")
	r.refused(admit(func(a *AdmitNode) { a.Node = joiner("node3", "us-east-1a", "node3") }), "AuthFailure")
	r.must(&FenceNode{Node: "node2"})
	r.refused(admit(nil), "AuthFailure") // a fenced node cannot use its old token again

	r.must(create("t3", ec2.Voter))
	r.refused(&AdmitNode{Token: "t3", SecretHash: secretHash, Node: joiner("node2", "us-east-1a", "node2")}, "AuthFailure") // fenced with that key
	r.now = expires
	r.refused(&AdmitNode{Token: "t3", SecretHash: secretHash, Node: joiner("node3", "us-east-1b", "node3")}, "AuthFailure")
	r.must(&Sweep{})
	for k := range r.state.View().JoinTokens() {
		t.Errorf("token %s still exists after it expired", k.ID)
	}
}

func TestJoinTokensAreBounded(t *testing.T) {
	r := newReplay(t)
	token := func(n int) *CreateJoinToken {
		return &CreateJoinToken{ID: strings.Repeat("t", 1+n%60) + string(rune('a'+n/60)), SecretHash: secretHash, Expires: r.now.Add(time.Hour)}
	}
	for n := range maxJoinTokens {
		r.must(token(n))
	}
	r.refused(token(maxJoinTokens), "ResourceLimitExceeded")
	r.now = r.now.Add(2 * time.Hour)
	r.must(token(0)) // the other tokens have expired
}

func TestGossipKeyIsReplacedOnFenceAndRemoval(t *testing.T) {
	r := newTrio(t)
	if k := r.state.View().GossipKey(); k != nil {
		t.Errorf("a cluster without gossip has the key %q, want none", k)
	}
	r.refused(&FenceNode{Node: "node2", GossipKey: []byte("short")}, "InvalidParameterValue")
	r.must(&FenceNode{Node: "node2", GossipKey: gossipKey})
	if k := r.state.View().GossipKey(); !bytes.Equal(k, gossipKey) {
		t.Errorf("after a fence the gossip key is %q, want %q", k, gossipKey)
	}
	r.must(&FenceNode{Node: "node2", GossipKey: otherKey}) // a second fence changes nothing
	if k := r.state.View().GossipKey(); !bytes.Equal(k, gossipKey) {
		t.Errorf("a second fence changed the gossip key to %q, want %q", k, gossipKey)
	}
	r.must(&RemoveNode{Node: "node2", GossipKey: otherKey})
	if k := r.state.View().GossipKey(); !bytes.Equal(k, otherKey) {
		t.Errorf("after a removal the gossip key is %q, want %q", k, otherKey)
	}

	s := NewState()
	if _, err := s.Apply(1, Command{Time: epoch0, Request: &Bootstrap{Seed: "x", GossipKey: gossipKey}}); err != nil {
		t.Fatal(err)
	}
	if k := s.View().GossipKey(); !bytes.Equal(k, gossipKey) {
		t.Errorf("the bootstrapped cluster has the gossip key %q, want %q", k, gossipKey)
	}
}

func TestLastVoterIsNotFencedOrRemoved(t *testing.T) {
	r := newReplay(t)
	r.admit("node2", "us-east-1a", ec2.NonVoter)
	r.refused(&FenceNode{Node: "node1"}, "IncorrectState")
	r.refused(&RemoveNode{Node: "node1"}, "IncorrectState")
	r.refused(&FenceNode{Node: "node7"}, "InvalidNode.NotFound")
	r.refused(&RemoveNode{Node: "node7"}, "InvalidNode.NotFound")
	r.admit("node3", "us-east-1b", ec2.Voter)
	r.must(&FenceNode{Node: "node1"})
	r.refused(&FenceNode{Node: "node3"}, "IncorrectState")
	r.must(&RemoveNode{Node: "node1"})
	r.must(&RemoveNode{Node: "node2"})
	r.refused(&RemoveNode{Node: "node3"}, "IncorrectState")
}

func TestChangesContainNodes(t *testing.T) {
	r := newReplay(t)
	old := r.state.View()
	r.admit("node2", "us-east-1a", ec2.Voter)
	r.must(&FenceNode{Node: "node2"})
	now := r.state.ViewSince(old)
	list := now.Changes().Nodes
	if len(list) != 1 || list[0].Before != nil || list[0].After != r.node("node2") || list[0].After.State != ec2.Fenced {
		t.Errorf("the changes are %+v, want node2 as a new, fenced node", list)
	}
	r.must(&RemoveNode{Node: "node2"})
	if list = r.state.ViewSince(now).Changes().Nodes; len(list) != 1 || list[0].After != nil {
		t.Errorf("the changes are %+v, want node2 removed", list)
	}
	if list = r.state.View().Changes().Nodes; len(list) != 1 || list[0].After.ID != "node1" {
		t.Errorf("the changes of a new View are %+v, want node1", list)
	}
}
