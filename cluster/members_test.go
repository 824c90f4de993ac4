package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
	"palisade/internal/testwait"
)

// nodeIDs returns names as a slice.
func nodeIDs(names ...ec2.NodeID) []ec2.NodeID { return names }

func TestFencedNodeIsExcludedAndCannotReturn(t *testing.T) {
	s := startCluster(t, 3, nil)
	for _, who := range []string{"a follower", "the leader"} {
		victim := s.follower()
		if who == "the leader" {
			victim = s.leader()
		}
		others := slices.DeleteFunc(s.running(), func(n *testNode) bool { return n == victim })
		by := others[0]
		ctx, cancel := context.WithTimeout(t.Context(), 2*testwait.Patience)
		defer cancel()
		s.fence(by, victim.name)
		if n, _ := by.View().Node(victim.name); n.Member() || len(by.View().Rotations()) != 4 {
			t.Errorf("%s was fenced: its row is %+v, want it fenced; the keys being replaced are %+v, want 4", who, n, by.View().Rotations())
		}
		testwait.For(t, who+" has left Raft", func() bool {
			return !slices.Contains(votersOf(s.leaderOtherThan(victim).servers()), victim.name)
		})
		// A fenced node applies no new entry and can make no change, before and after a restart.
		index := s.write(s.leaderOtherThan(victim), "without "+string(victim.name))
		// All other nodes refuse the fenced node, so its Run returns after five seconds. On
		// a busy machine it may already have returned.
		if err := victim.stop(); err != nil && !errors.Is(err, ErrExpelled) {
			t.Errorf("Run of %s, which is fenced: got %v, want nil or ErrExpelled", who, err)
		}
		victim.start(nil)
		testwait.For(t, who+" has no leader", func() bool { _, ok := victim.Leader(); return !ok })
		if _, err := createGroup(ctx, victim.Cluster, "by "+string(victim.name)); !errors.Is(err, ErrNoLeader) && !errors.Is(err, ErrStopped) {
			t.Errorf("write at %s, which is fenced: got %v, want ErrNoLeader", who, err)
		}
		if _, err := victim.peer.Dial(ctx, string(s.leaderOtherThan(victim).name), peer.ProtocolRaft); err == nil {
			t.Errorf("%s is fenced, and another node admitted it", who)
		}
		if got := victim.View().Index(); got >= index {
			t.Errorf("%s is fenced, and applied entries up to %d; want none from %d on", who, got, index)
		}
		testwait.For(t, who+" ends", victim.ended)
		if err := victim.stop(); !errors.Is(err, ErrExpelled) {
			t.Errorf("Run of %s, which is fenced: got %v, want ErrExpelled", who, err)
		}
		victim.stop = nil
		s.remove(victim.name)
		s.join(victim.name, ec2.Voter)
		s.waitVoters(3)
	}
}

// ended reports whether a node's Run has returned.
func (n *testNode) ended() bool {
	select {
	case <-n.stopped:
		return true
	default:
		return false
	}
}

// leaderOtherThan waits for a leader that is not the node expelled, which may still believe that it
// leads.
func (s *testCluster) leaderOtherThan(expelled *testNode) (leader *testNode) {
	s.t.Helper()
	testwait.For(s.t, "a node other than "+string(expelled.name)+" leads", func() bool {
		for _, n := range s.running() {
			if n != expelled && n.leads() {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

func TestRemovedNodeIsDisconnected(t *testing.T) {
	s := startCluster(t, 3, nil)
	gone := s.follower()
	ctx, cancel := context.WithTimeout(t.Context(), testwait.Patience)
	defer cancel()
	open, err := gone.peer.Dial(ctx, string(s.leader().name), peer.ProtocolRaft)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	s.remove(gone.name)
	if err := open.SetReadDeadline(time.Now().Add(testwait.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection of a removed node is still open")
	}
	testwait.For(t, "the node has left Raft", func() bool { return len(s.leaderOtherThan(gone).servers().Servers) == 2 })
	if _, err := gone.peer.Dial(ctx, string(s.leaderOtherThan(gone).name), peer.ProtocolRaft); err == nil {
		t.Error("another node admitted a removed node")
	}
}

// A removed node is refused by a node that has no leader and was restarted, also if a voter whose state is
// older still names it as a member, and if its name has passed to another node.
func TestExpelledNodeIsRefusedByNodeThatIsNotCurrent(t *testing.T) {
	s := startCluster(t, 3, nil)
	gone := s.follower()
	at := s.leaderOtherThan(gone)
	row, _ := at.View().Node(gone.name)
	key := row.PublicKey
	s.remove(gone.name)
	testwait.For(t, "all have removed the node", func() bool {
		return !slices.ContainsFunc(s.running(), func(n *testNode) bool { return n != gone && !n.View().IsExpelled(key) })
	})
	for _, n := range s.running() {
		if n != at {
			n.kill()
		}
	}
	at.kill()
	at.start(nil) // it has no leader
	testwait.For(t, "the node has its log again", func() bool { return at.View().IsExpelled(key) })
	at.directory.vouch([]vouchedNode{{Node: gone.name, PublicKey: key, Votes: true}})
	if err := at.Directory().Check(string(gone.name), key); err == nil || at.directory.isCurrent() {
		t.Errorf("a node that is not current (%t) admits a removed node", !at.directory.isCurrent())
	}
}

func TestNonVoterForwardsWritesWithoutVote(t *testing.T) {
	s := startCluster(t, 1, nil)
	nonVoter := s.join("node2", ec2.NonVoter)
	testwait.For(t, "the node is one of Raft's servers", func() bool { return len(s.leader().servers().Servers) == 2 })
	s.write(nonVoter, "from the non-voter")
	if got := votersOf(s.leader().servers()); !slices.Equal(got, nodeIDs("node1")) {
		t.Errorf("voters %v, want node1 alone", got)
	}
	if nonVoter.Role() != "non-voter" || s.leader().Role() != "leader" {
		t.Errorf("node2 has role %q, want non-voter; node1 has role %q, want leader", nonVoter.Role(), s.leader().Role())
	}
	nonVoter.kill()
	s.write(s.leader(), "without it")
}

// Fence is refused if the remaining voters would be too few for a majority, because then nothing
// could change again.
func TestFenceIsRefusedWithoutMajority(t *testing.T) {
	s := startCluster(t, 3, nil)
	down := s.follower()
	down.kill()
	err, _ := s.retry(func(ctx context.Context) error { return s.leader().Fence(ctx, s.follower().name, nil) })
	if !isCode(err, "IncorrectState") {
		t.Fatalf("fence a second of three voters while one is down: got %v, want IncorrectState", err)
	}
	s.fence(s.leader(), down.name)
	s.waitVoters(2)
	s.write(s.leader(), "by two")
}

func TestNodeWithLostLogRefusesToStart(t *testing.T) {
	s := startCluster(t, 3, nil)
	last := s.write(s.leader(), "before")
	s.waitAll(last)
	n := s.follower()
	n.kill()
	if err := os.RemoveAll(filepath.Join(n.dir, "raft")); err != nil {
		t.Fatal(err)
	}
	s.cfg = func(c *Config) { c.Decided = last }
	n.start(nil)
	if err := n.stop(); err == nil || !strings.Contains(err.Error(), "let it join again") {
		t.Errorf("Run: got %v, want an error that contains \"let it join again\"", err)
	}
	n.stop = nil
	s.cfg = nil
	s.fence(s.leader(), n.name)
	back := s.join(n.name, ec2.Voter)
	s.waitVoters(3)
	if !hasGroup(back.View(), "before") {
		t.Error("the node that joined again lacks the group that was created before")
	}
}

// A cluster of one that is restarted with a peer address keeps its log and accepts other nodes.
func TestClusterOfOneAcceptsOtherNodes(t *testing.T) {
	s := newCluster(t, nil)
	first := s.add("node1")
	c, stop := open(t, Config{Dir: filepath.Join(first.dir, "raft")})
	ready(t, c)
	if _, err := createGroup(t.Context(), c, "from before"); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	id, err := peer.Init(first.identityDir(), "node1", first.address)
	if err != nil {
		t.Fatal(err)
	}
	first.start(nil)
	ready(t, first.Cluster)
	s.apply(first, &state.PutNode{Node: ec2.Node{ID: "node1", Zone: "us-east-1a", Address: first.address.String(), PublicKey: id.PublicKey()}})
	second := s.join("node2", ec2.Voter)
	s.waitVoters(2)
	if !hasGroup(second.View(), "from before") {
		t.Error("the second node lacks the group that was created before it joined")
	}
	for _, server := range second.servers().Servers {
		if n := s.all[ec2.NodeID(server.ID)]; string(server.Address) != n.address.String() {
			t.Errorf("Raft has address %[2]s for %[1]s, want %[3]s", server.ID, server.Address, n.address)
		}
	}
}

func TestNextChangeFollowsMembers(t *testing.T) {
	view := func(nodes ...ec2.Node) *state.View {
		st := state.NewState()
		for i, n := range nodes {
			n.Zone = "z"
			fence := n.State == ec2.Fenced
			if _, err := st.Apply(uint64(2*i+1), state.Command{Request: &state.PutNode{Node: n}}); err != nil {
				t.Fatal(err)
			}
			if fence {
				if _, err := st.Apply(uint64(2*i+2), state.Command{Request: &state.FenceNode{Node: n.ID}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		return st.View()
	}
	n := func(id, address string, role ec2.NodeRole, state ec2.NodeState) ec2.Node {
		return ec2.Node{ID: ec2.NodeID(id), Address: address, Role: role, State: state}
	}
	r := func(id, address string, suffrage raft.ServerSuffrage) raft.Server {
		return raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(address), Suffrage: suffrage}
	}
	const a, b, c = "192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"
	one, oneIn := n("a", a, "", ""), r("a", a, raft.Voter)
	for _, test := range []struct {
		what    string
		nodes   []ec2.Node
		servers []raft.Server
		want    string
	}{
		{"nothing to do", []ec2.Node{one}, []raft.Server{oneIn}, ""},
		{"the State does not know the address yet", []ec2.Node{n("a", "", "", "")}, []raft.Server{oneIn}, ""},
		{"a new voter", []ec2.Node{one, n("b", b, "", "")}, []raft.Server{oneIn}, "add without a vote b"},
		{"a new voter is a server without a vote", []ec2.Node{one, n("b", b, "", "")}, []raft.Server{oneIn, r("b", b, raft.Nonvoter)}, "give a vote to b"},
		{"a voter has another address", []ec2.Node{one, n("b", b, "", "")}, []raft.Server{oneIn, r("b", c, raft.Voter)}, "change the address of b"},
		{"a non-voter", []ec2.Node{one, n("b", b, ec2.NonVoter, "")}, []raft.Server{oneIn}, "add without a vote b"},
		{"a non-voter is a server", []ec2.Node{one, n("b", b, ec2.NonVoter, "")}, []raft.Server{oneIn, r("b", b, raft.Nonvoter)}, ""},
		{"a voter becomes a non-voter", []ec2.Node{one, n("b", b, ec2.NonVoter, "")}, []raft.Server{oneIn, r("b", b, raft.Voter)}, "take the vote of b"},
		{"fenced, before another is added", []ec2.Node{one, n("b", b, "", ec2.Fenced), n("c", c, "", "")}, []raft.Server{oneIn, r("b", b, raft.Voter)}, "remove b"},
		{"no State yet", nil, []raft.Server{oneIn}, ""},
		{"a node without an address, before another", []ec2.Node{one, n("b", "", "", ""), n("c", c, "", "")}, []raft.Server{oneIn}, "add without a vote c"},
		{"fenced, and no server", []ec2.Node{one, n("b", b, "", ec2.Fenced)}, []raft.Server{oneIn}, ""},
		{"two new voters are servers", []ec2.Node{one, n("b", b, "", ""), n("c", c, "", "")}, []raft.Server{oneIn, r("b", b, raft.Nonvoter), r("c", c, raft.Nonvoter)}, "give a vote to b"},
		{"removed", []ec2.Node{one}, []raft.Server{oneIn, r("b", b, raft.Voter)}, "remove b"},
		{"the leader is fenced", []ec2.Node{n("b", b, "", ""), n("a", a, "", ec2.Fenced)}, []raft.Server{oneIn, r("b", b, raft.Voter)}, "hand over leadership from a"},
		{"the leader is removed", []ec2.Node{n("b", b, "", "")}, []raft.Server{oneIn, r("b", b, raft.Voter)}, "hand over leadership from a"},
	} {
		got := ""
		if change := nextChange("a", a, view(test.nodes...), raft.Configuration{Servers: test.servers}); change != nil {
			got = change.String()
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.what, got, test.want)
		}
	}
}

func TestEnforcementReportsEachNodeWithinItsDeadline(t *testing.T) {
	gate := make(chan struct{}) // node3 enforces no index above 4 until gate is closed
	s := startCluster(t, 3, func(c *Config) {
		if c.Node != "node3" {
			return
		}
		c.Enforced = func() uint64 {
			select {
			case <-gate:
				return 1 << 60
			default:
				return 4
			}
		}
		c.WaitEnforced = func(ctx context.Context, _ uint64) bool {
			select {
			case <-gate:
				return true
			case <-ctx.Done():
				return false
			}
		}
	})
	at := func(n *testNode, index uint64, timeout time.Duration) Enforcement {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		expired := make(chan time.Time, 1) // received by this process, so a busy machine delays it as much as the call
		context.AfterFunc(ctx, func() { expired <- time.Now() })
		e, err := n.Enforcement(ctx, index)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		select {
		case at := <-expired:
			if late := now.Sub(at); late > 500*time.Millisecond {
				t.Errorf("Enforcement returned %s after its deadline of %s, want at most 500ms", late, timeout)
			}
		default:
		}
		return e
	}
	check := func(what string, got, want Enforcement) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	const lagging = 4 * time.Second // long enough for node1 and node2 to answer, even on a busy machine
	index := s.write(s.leader(), "web")
	for _, n := range []*testNode{s.leader(), s.follower()} {
		check("node3 lags, asked at "+string(n.name), at(n, index, lagging), Enforcement{
			Index: index, Enforced: nodeIDs("node1", "node2"), Pending: []Pending{{"node3", "enforces 4"}},
		})
	}
	timer := time.AfterFunc(200*time.Millisecond, func() { close(gate) })
	defer timer.Stop()
	check("node3 catches up", at(s.all["node1"], index, testwait.Patience), Enforcement{Index: index, Enforced: nodeIDs("node1", "node2", "node3")})

	s.all["node2"].kill()
	asker := s.leader()
	check("node2 is stopped", at(asker, index, lagging), Enforcement{
		Index: index, Enforced: nodeIDs("node1", "node3"), Pending: []Pending{{"node2", "does not answer"}},
	})
	s.fence(asker, "node2")
	check("node2 is fenced", at(asker, index, testwait.Patience), Enforcement{Index: index, Enforced: nodeIDs("node1", "node3"), Excluded: nodeIDs("node2")})
}
