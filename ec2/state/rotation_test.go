package state

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
)

func rotationSamples() map[string]Request {
	return map[string]Request{
		"BeginRotation":        &BeginRotation{ec2.GossipKey, "an operator asked for it"},
		"AdvanceRotation":      &AdvanceRotation{ec2.GossipKey, 12, ec2.RotationDue, ec2.RotationSpread, keyID(1), ""},
		"AdvanceRotation-ca":   &AdvanceRotation{ec2.Authority, 12, ec2.RotationDue, ec2.RotationSpread, ec2.AuthorityID("pem"), "pem"},
		"FenceNode-rotate":     &FenceNode{Node: "node2", Rotate: true},
		"RemoveNode-rotate":    &RemoveNode{Node: "node2", Rotate: true},
		"SealSecrets-replaces": &SealSecrets{keyID(2), map[string][]byte{"AKIDALBERT": []byte("box")}, keyID(1)},
		"Bootstrap-gossip-id":  &Bootstrap{Seed: "seed", Gossip: keyID(1)},
	}
}

func keyID(n int) string { return fmt.Sprintf("%016x", n) }

// randomRotation begins a rotation or advances one, sometimes wrongly.
func randomRotation(rng *rand.Rand, v *View) Request {
	under := v.Rotations()
	if len(under) == 0 || rng.IntN(4) == 0 {
		return &BeginRotation{[]ec2.KeyKind{ec2.GossipKey, ec2.TunnelKeys, ec2.ClusterKey, ec2.Authority, "other"}[rng.IntN(5)], "test"}
	}
	steps := []ec2.RotationStep{ec2.RotationDue, ec2.RotationSpread, ec2.RotationUse, ec2.RotationDrop, ec2.RotationDone}
	r := under[rng.IntN(len(under))]
	a := &AdvanceRotation{Kind: r.Kind, Index: r.Index, From: r.Step, To: steps[rng.IntN(5)]}
	if a.To == ec2.RotationSpread {
		a.Key = keyID(int(v.Index()))
	}
	if a.To == ec2.RotationSpread && r.Kind == ec2.Authority {
		a.Certificate = fmt.Sprint("certificate ", v.Index())
		a.Key = ec2.AuthorityID(a.Certificate)
	}
	return a
}

func (r *replay) rotation(kind ec2.KeyKind) ec2.Rotation {
	r.t.Helper()
	now, ok := r.state.View().Rotation(kind)
	if !ok {
		r.t.Fatalf("no rotation of %s is under way", kind)
	}
	return now
}

// advance takes a rotation to its next step.
func (r *replay) advance(kind ec2.KeyKind, to ec2.RotationStep, key string) {
	r.t.Helper()
	now := r.rotation(kind)
	r.must(&AdvanceRotation{kind, now.Index, now.Step, to, key, ""})
}

func (r *replay) wantRing(want ...string) {
	r.t.Helper()
	if got := r.state.View().GossipRing(); !slices.Equal(got, want) {
		r.t.Errorf("the gossip keys are %v, want %v", got, want)
	}
}

func kindsOf(v *View) (kinds []ec2.KeyKind) {
	for _, r := range v.Rotations() {
		kinds = append(kinds, r.Kind)
	}
	slices.Sort(kinds)
	return kinds
}

// A gossip key is used only after all nodes have it, and the old one dropped only after none uses it.
func TestGossipKeyIsReplacedStepByStep(t *testing.T) {
	r := newTrio(t)
	r.must(&BeginRotation{ec2.GossipKey, "test"})
	r.advance(ec2.GossipKey, ec2.RotationSpread, keyID(1))
	r.wantRing()
	r.advance(ec2.GossipKey, ec2.RotationUse, "")
	r.advance(ec2.GossipKey, ec2.RotationDone, "")
	r.wantRing(keyID(1))
	r.must(&BeginRotation{ec2.GossipKey, "test"})
	began := r.rotation(ec2.GossipKey)
	r.must(&BeginRotation{ec2.GossipKey, "again"}) // resumes
	if now := r.rotation(ec2.GossipKey); now != began {
		t.Errorf("a second request changed the rotation to %+v, want %+v", now, began)
	}
	r.refused(&AdvanceRotation{ec2.GossipKey, began.Index, ec2.RotationSpread, ec2.RotationUse, "", ""}, "IncorrectState")
	r.refused(&AdvanceRotation{ec2.GossipKey, began.Index - 1, ec2.RotationDue, ec2.RotationSpread, keyID(2), ""}, "IncorrectState")
	r.refused(&AdvanceRotation{ec2.GossipKey, began.Index, ec2.RotationDue, ec2.RotationDone, "", ""}, "InvalidParameterValue")
	r.refused(&AdvanceRotation{ec2.GossipKey, began.Index, ec2.RotationDue, ec2.RotationSpread, keyID(1), ""}, "InvalidParameterValue")
	r.refused(&BeginRotation{"other", "test"}, "InvalidParameterValue")
	r.advance(ec2.GossipKey, ec2.RotationSpread, keyID(2))
	r.wantRing(keyID(1))
	r.advance(ec2.GossipKey, ec2.RotationDue, "") // nobody had it
	r.advance(ec2.GossipKey, ec2.RotationSpread, keyID(3))
	r.advance(ec2.GossipKey, ec2.RotationUse, "")
	r.wantRing(keyID(3), keyID(1))
	r.advance(ec2.GossipKey, ec2.RotationDone, "")
	r.wantRing(keyID(3))
	if n := len(r.state.View().Rotations()); n != 0 {
		t.Errorf("%d rotations are under way at the end, want 0", n)
	}
}

// The certificate of a new authority is in the state from the first step on. It is the cluster's only after
// each step, and a voter that is fenced meanwhile does not know the one that becomes the cluster's.
func TestAuthorityIsReplacedStepByStep(t *testing.T) {
	r := newTrio(t)
	ca := ec2.Authority
	want := func(inForce, next string) {
		t.Helper()
		now, _ := r.state.View().Rotation(ca)
		if got := r.state.View().Authority(); got != inForce || now.Certificate != next {
			t.Errorf("the authority is %q, to be replaced by %q; want %q, %q", got, now.Certificate, inForce, next)
		}
	}
	spread := func(certificate string) {
		t.Helper()
		r.must(&AdvanceRotation{ca, r.rotation(ca).Index, ec2.RotationDue, ec2.RotationSpread, ec2.AuthorityID(certificate), certificate})
	}
	refuse := func(to ec2.RotationStep, key, certificate string) {
		t.Helper()
		now := r.rotation(ca)
		r.refused(&AdvanceRotation{ca, now.Index, now.Step, to, key, certificate}, "InvalidParameterValue")
	}
	r.must(&BeginRotation{ca, "test"})
	refuse(ec2.RotationSpread, keyID(1), "")
	refuse(ec2.RotationSpread, keyID(1), "one")
	refuse(ec2.RotationSpread, ec2.AuthorityID(strings.Repeat("x", 5000)), strings.Repeat("x", 5000))
	spread("one")
	want("", "one")
	refuse(ec2.RotationDrop, "", "")
	refuse(ec2.RotationDone, "", "")
	r.advance(ca, ec2.RotationUse, "")
	refuse(ec2.RotationDone, "", "")
	r.advance(ca, ec2.RotationDrop, "")
	want("", "one")
	r.advance(ca, ec2.RotationDone, "")
	want("one", "")
	r.must(&BeginRotation{ca, "test"})
	refuse(ec2.RotationSpread, ec2.AuthorityID("one"), "one") // is in force already
	spread("two")
	r.advance(ca, ec2.RotationDue, "") // nobody had it
	want("one", "")
	spread("three")
	r.advance(ca, ec2.RotationUse, "")
	r.must(&FenceNode{Node: "node3", Rotate: true})
	want("one", "")
	if now := r.rotation(ca); now.Step != ec2.RotationDue || now.Key != "" {
		t.Errorf("the key that the fenced voter got is still to be used: %+v", now)
	}
	r.must(&BeginRotation{ec2.GossipKey, "test"})
	r.refused(&AdvanceRotation{ec2.GossipKey, r.rotation(ec2.GossipKey).Index, ec2.RotationDue, ec2.RotationSpread, ec2.AuthorityID("four"), "four"}, "InvalidParameterValue")
}

// The key that an earlier release kept in the State leaves it at the end of the first rotation.
func TestGossipKeyLeavesTheState(t *testing.T) {
	r := newTrio(t)
	r.state.current.Load().meta.GossipKey = gossipKey
	r.must(&FenceNode{Node: "node2", GossipKey: gossipKey})
	r.must(&BeginRotation{ec2.GossipKey, "test"})
	r.advance(ec2.GossipKey, ec2.RotationSpread, keyID(1))
	r.advance(ec2.GossipKey, ec2.RotationUse, "")
	if len(r.state.View().GossipKey()) == 0 {
		t.Error("the old key was dropped while nodes may use it")
	}
	r.advance(ec2.GossipKey, ec2.RotationDone, "")
	if k := r.state.View().GossipKey(); k != nil {
		t.Errorf("the state still has the key %q", k)
	}
}

// What a fenced or removed node knew is replaced: by a key that it has not got, if it was already being
// replaced.
func TestExpelledNodeKnowsNoKey(t *testing.T) {
	r := newTrio(t)
	r.must(&BeginRotation{ec2.GossipKey, "test"})
	r.advance(ec2.GossipKey, ec2.RotationSpread, keyID(1))
	r.must(&FenceNode{Node: "node3", Rotate: true})
	fenced := r.state.View().Index()
	if now := r.rotation(ec2.GossipKey); now.Step != ec2.RotationDue || now.Key != "" || now.Index != fenced {
		t.Errorf("the key that the fenced node may have got is still to be used: %+v", now)
	}
	if got, want := kindsOf(r.state.View()), []ec2.KeyKind{ec2.Authority, ec2.GossipKey, ec2.ClusterKey, ec2.TunnelKeys}; !slices.Equal(got, want) {
		t.Errorf("after the fence of a voter %v are replaced, want %v", got, want)
	}
	if got := r.state.View().TunnelEpoch(); got != fenced {
		t.Errorf("tunnels have new keys since index %d, want %d", got, fenced)
	}
	r.advance(ec2.TunnelKeys, ec2.RotationDone, "")
	r.must(&RemoveNode{Node: "node3", Rotate: true}) // its keys were replaced when it was fenced
	if got := r.state.View().TunnelEpoch(); got != fenced {
		t.Errorf("the removal of a fenced node began a rotation at index %d", got)
	}
}

func TestIdentityOfExpelledNodeIsRefusedForGood(t *testing.T) {
	r := newTrio(t)
	node, _ := r.state.View().Node("node3")
	if r.state.View().IsExpelled(node.PublicKey) {
		t.Fatal("a member is refused")
	}
	r.must(&RemoveNode{Node: "node3", Rotate: true})
	r.must(&CreateJoinToken{"t9", secretHash, ec2.Voter, r.now.Add(time.Hour)})
	again := *node
	r.refused(&AdmitNode{"t9", secretHash, again}, "AuthFailure")
	again.PublicKey = []byte("a new key")
	r.must(&AdmitNode{"t9", secretHash, again})
	v := r.state.View()
	if !v.IsExpelled(node.PublicKey) || v.IsExpelled(again.PublicKey) {
		t.Errorf("refused: the key of the removed node %t, want true; of the new node of its name %t, want false", v.IsExpelled(node.PublicKey), v.IsExpelled(again.PublicKey))
	}
}

// All secrets change keys in one entry: none is left out, and no key that is not being replaced.
func TestClusterKeyIsReplacedForAllSecretsAtOnce(t *testing.T) {
	r := newTrio(t)
	r.must(&SealSecrets{Key: keyID(1), AccessKeys: map[string][]byte{"AKIDALBERT": []byte("box"), "AKIDMARY": []byte("box")}})
	all := map[string][]byte{}
	for k := range r.state.View().AccessKeys() {
		all[k.ID] = []byte("new " + k.ID)
	}
	seal := &SealSecrets{keyID(2), all, keyID(1)}
	r.refused(seal, "IncorrectState")
	r.must(&FenceNode{Node: "node3", Rotate: true})
	fenced := r.state.View()
	r.advance(ec2.ClusterKey, ec2.RotationSpread, keyID(2))
	r.refused(&AdvanceRotation{ec2.ClusterKey, fenced.Index(), ec2.RotationSpread, ec2.RotationUse, "", ""}, "InvalidParameterValue")
	r.now = r.now.Add(time.Second)
	r.must(&CreateAccessKey{albert, "AKIDALBERTSECOND", ec2.SealedSecret{Key: keyID(1), Box: []byte("box")}})
	r.refused(seal, "IncorrectState") // it lacks the key that was created meanwhile
	all["AKIDALBERTSECOND"] = []byte("new")
	r.must(seal)
	for k := range r.state.View().AccessKeys() {
		if k.Sealed.Key != keyID(2) || string(k.Sealed.Box) != string(all[k.ID]) {
			t.Errorf("%s is sealed as %q under %s, want %q under %s", k.ID, k.Sealed.Box, k.Sealed.Key, all[k.ID], keyID(2))
		}
	}
	r.refused(seal, "IncorrectState")
	r.advance(ec2.ClusterKey, ec2.RotationDone, "")

	exposed := 0
	for k := range r.state.View().ExposedAccessKeys() {
		if exposed++; k.ID == "AKIDALBERTSECOND" {
			t.Errorf("%s was created after the fence, and counts as exposed", k.ID)
		}
	}
	if exposed != len(all)-1 {
		t.Errorf("%d access keys are exposed, want the %d that the fenced voter could read", exposed, len(all)-1)
	}
}

// A node without a vote has no key of the authority and none of the secrets.
func TestFenceOfNonVoterKeepsClusterKey(t *testing.T) {
	r := newTrio(t)
	r.must(&PutNode{ec2.Node{ID: "node3", Zone: "us-east-1a", Role: ec2.NonVoter}})
	r.must(&FenceNode{Node: "node3", Rotate: true})
	if got, want := kindsOf(r.state.View()), []ec2.KeyKind{ec2.GossipKey, ec2.TunnelKeys}; !slices.Equal(got, want) {
		t.Errorf("%v are replaced, want %v", got, want)
	}
	for k := range r.state.View().ExposedAccessKeys() {
		t.Errorf("access key %s counts as exposed", k.ID)
	}
}
