package cluster

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

// A node is expelled if at least half of the voters, itself included, refuse it.
func TestHalfOfTheVotersMustRefuse(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, tt := range []struct {
		voters, refuse int
		enough         bool
		why            string
	}{
		{0, 0, false, "no leader has contacted this node since it joined"},
		{1, 0, false, "it reaches 1 of 1 voters (node1)"},
		{2, 0, false, "it reaches 2 of 2 voters (node1, node2)"},
		{2, 1, true, "it reaches 1 of 2 voters (node1); refused by node2: was this node fenced or removed?"},
		{3, 1, false, "it reaches 2 of 3 voters (node1, node3); refused by node2: was this node fenced or removed?"},
		{3, 2, true, "it reaches 1 of 3 voters (node1); refused by node2, node3: was this node fenced or removed?"},
		{4, 1, false, "it reaches 3 of 4 voters (node1, node3, node4); refused by node2: was this node fenced or removed?"},
		{4, 2, true, "it reaches 2 of 4 voters (node1, node4); refused by node2, node3: was this node fenced or removed?"},
		{4, 3, true, "it reaches 1 of 4 voters (node1); refused by node2, node3, node4: was this node fenced or removed?"},
	} {
		s := newCircle(t, tt.voters, nil)
		var want []string
		for i := range tt.refuse {
			s.neighbours[name(i+2)].refuses(true)
			want = append(want, string(name(i+2)))
		}
		if refused, enough := s.refusals(t.Context()); !slices.Equal(refused, want) || enough != tt.enough {
			t.Errorf("%d of %d voters refuse: refused by %v, enough: %v; want %v, %v", tt.refuse, tt.voters, refused, enough, want, tt.enough)
		}
		if err := s.whyNoLeader(t.Context()); !errors.Is(err, ErrNoLeader) || err.Error() != ErrNoLeader.Error()+": "+tt.why {
			t.Errorf("%d of %d voters refuse: %v; want %s", tt.refuse, tt.voters, err, tt.why)
		}
	}
}

// A voter that does not answer does not count as one that refuses.
func TestSilentVotersDoNotRefuse(t *testing.T) {
	t.Parallel() // it mostly waits
	s := newCircle(t, 3, func(_ ec2.NodeID, p *peer.Peer) {
		p.Handle(methodMembers, func(context.Context, string, []byte) ([]byte, error) { return []byte("{"), nil })
	})
	if a, err := s.call(t.Context(), "node2", methodMembers, question{}); err == nil {
		t.Errorf("an answer that cannot be decoded: %+v", a)
	}
	s.neighbours["node2"].stop()
	if err := s.whyNoLeader(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "it reaches 2 of 3 voters (node1, node3), not node2") {
		t.Errorf("why there is no leader: %v", err)
	}
	s.neighbours["node3"].stop()
	if refused, enough := s.refusals(t.Context()); len(refused) > 0 || enough {
		t.Errorf("refused by %v, enough: %v; want none", refused, enough)
	}
	if err := s.whyNoLeader(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "it reaches 1 of 3 voters (node1), not node2, node3") {
		t.Errorf("why there is no leader: %v", err)
	}
	if err := s.withLeader(t.Context(), nil); !errors.Is(err, ErrNoLeader) || !strings.Contains(err.Error(), "not node2, node3") {
		t.Errorf("a call without a leader: %v, want ErrNoLeader with the voters", err)
	}
}

// The cluster's authority was replaced while this node was away, so it cannot check the certificates of the
// others. It learns whether it is still a member by asking for a certificate.
func TestNodeWithoutTheNewAuthorityHearsWhetherItIsAMember(t *testing.T) {
	s := newCircle(t, 2, func(_ ec2.NodeID, p *peer.Peer) {
		p.HandleRenew(func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("not now") })
	})
	n := s.neighbours["node2"]
	root, key, err := n.id.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.id.Trust(root), n.id.SetAuthorityKey(root, key)); err != nil {
		t.Fatal(err)
	}
	cert, err := n.id.Certify(root, "node2", n.peer.Addr(), n.id.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.id.Renew(root, cert, false), n.id.ShowOnly(root)); err != nil {
		t.Fatal(err)
	}
	for _, refuse := range []bool{false, true, false} {
		n.refuses(refuse)
		refused, enough := s.refusals(t.Context())
		if enough != refuse || (len(refused) > 0) != refuse || n.count() == 0 {
			t.Errorf("node2 refuses: %v; refused by %v, enough: %v, connections judged: %d", refuse, refused, enough, n.count())
		}
		if err := s.ping(t.Context(), []ec2.NodeID{"node2"})["node2"]; err == nil || errors.Is(err, peer.ErrNotAdmitted) != refuse {
			t.Errorf("node2 refuses: %v; the ping's error is %v", refuse, err)
		}
	}
	if bytes.Equal(n.id.RootPEM(), s.cfg.Identity.RootPEM()) {
		t.Error("the authority is the same, so the test checks nothing")
	}
}

// Refusals stop a node only if five follow each other: a leader, or a voter that admits the node,
// between them shows that it is a member.
func TestRefusalsThatAreNotInARowDoNotStopANode(t *testing.T) {
	t.Parallel() // it mostly waits
	interrupted := newCircle(t, 2, nil)
	led := newCircle(t, 2, nil)
	steady := newCircle(t, 2, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	refusals := func(s *circle, n int) func() bool {
		return func() bool { return s.neighbours["node2"].count() >= n || len(s.expelled) > 0 }
	}
	for _, s := range []*circle{interrupted, led, steady} {
		s.neighbours["node2"].refuses(true)
		s.tasks.start(func() { s.runExpulsionCheck(ctx) })
		defer s.tasks.stop()
		defer cancel()
	}
	testwait.For(t, "node2 has refused four times", func() bool { return refusals(interrupted, 4)() && refusals(led, 4)() })
	n := interrupted.neighbours["node2"]
	n.refuses(false)
	led.lead("node2")
	testwait.For(t, "node2 has admitted node1", func() bool { return refusals(interrupted, 1)() })
	<-onBeat(expulsionEvery) // a check is made while there is a leader
	time.Sleep(expulsionEvery / 2)
	led.lead("")
	n.refuses(true)
	led.neighbours["node2"].refuses(true)
	testwait.For(t, "node2 has refused twice more", func() bool { return refusals(interrupted, 2)() && refusals(led, 2)() })
	select {
	case err := <-steady.expelled:
		if n := steady.neighbours["node2"].count(); !errors.Is(err, ErrExpelled) || !strings.Contains(err.Error(), "these voters refuse it: node2.") || n != refusalsInARow {
			t.Errorf("after %d refusals: %v; want ErrExpelled by node2 after %d", n, err, refusalsInARow)
		}
	case <-time.After(expulsionEvery):
		t.Error("a node that was refused each time has not ended")
	}
	if len(interrupted.expelled) > 0 || len(led.expelled) > 0 {
		t.Errorf("a node ended whose refusals were not in a row; after a voter had admitted it: %d, after it had a leader: %d", len(interrupted.expelled), len(led.expelled))
	}
}
