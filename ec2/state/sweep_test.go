package state

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
)

func TestAddressWaitsForEveryMember(t *testing.T) {
	r := newTrio(t)
	r.must(&putSettings{ec2.Settings{TerminatedFor: 1000 * time.Hour}})
	i := r.place()["node1"]
	lease := r.lease(i.ID)
	r.must(&TerminateInstances{albert, east, []ec2.InstanceID{i.ID}})
	r.report(i.ID, ec2.Terminated)
	freed := r.state.Index()
	inQuarantine := func() bool {
		return first[address](r.state.View().txn(), tableAddress, indexID, addressKey(lease.VNI, lease.Private)) != nil
	}
	all := func(index uint64) map[ec2.NodeID]uint64 {
		return map[ec2.NodeID]uint64{"node1": index, "node2": index, "node3": index}
	}
	without := func(id ec2.NodeID, c map[ec2.NodeID]uint64) map[ec2.NodeID]uint64 { delete(c, id); return c }
	sweep := func(what string, confirmed map[ec2.NodeID]uint64, want bool) {
		t.Helper()
		due, ok := r.state.View().SweepDueWith(confirmed)
		if isDue := ok && !due.After(r.now); isDue == want {
			t.Errorf("%s: a sweep is due: %v, want %v", what, isDue, !want)
		}
		r.must(&Sweep{Confirmed: confirmed})
		if got := inQuarantine(); got != want {
			t.Fatalf("%s: the address rests: %v, want %v", what, got, want)
		}
	}
	sweep("at once", all(freed), true)
	r.now = r.now.Add(time.Minute)
	sweep("nobody has answered", map[ec2.NodeID]uint64{}, true)
	sweep("one has not answered", without("node2", all(freed)), true)
	late := all(freed)
	late["node3"] = freed - 1
	sweep("one is behind", late, true)
	for range 3 { // however long it takes
		r.now = r.now.Add(24 * time.Hour)
		sweep("one never answers", without("node2", all(freed+100)), true)
	}
	r.must(&FenceNode{Node: "node2"})
	sweep("that one is fenced", without("node2", all(freed)), false)
}

func TestRemovedNodeHoldsNoAddress(t *testing.T) {
	r := newTrio(t)
	for _, i := range r.place() {
		r.must(&TerminateInstances{albert, east, []ec2.InstanceID{i.ID}})
		r.report(i.ID, ec2.Terminated)
	}
	r.must(&RemoveNode{Node: "node3"})
	r.now = r.now.Add(time.Minute)
	index := r.state.Index()
	r.must(&Sweep{Confirmed: map[ec2.NodeID]uint64{"node1": index, "node2": index}})
	for a := range rows[address](r.state.View().txn(), tableAddress, indexID, "") {
		t.Errorf("address %s rests still: %+v", a.Addr, a)
	}
}

func TestSweepWithoutConfirmationsGoesByTime(t *testing.T) {
	r := newTrio(t)
	i := r.place()["node1"]
	r.must(&TerminateInstances{albert, east, []ec2.InstanceID{i.ID}})
	r.report(i.ID, ec2.Terminated)
	r.now = r.now.Add(time.Minute)
	r.must(&Sweep{})
	if _, ok := r.state.View().SweepDue(); !ok {
		t.Fatal("nothing is left to sweep, want the terminated instance")
	}
	for a := range rows[address](r.state.View().txn(), tableAddress, indexID, "") {
		if a.Interface == "" {
			t.Errorf("address %s rests still", a.Addr)
		}
	}
}

// A rest is what a test remembers of an address that was freed, beside the State.
type rest struct {
	since time.Time
	index uint64
}

// TestNoAddressIsLeasedTooEarly follows random histories with a model of its own: when
// an address is freed it starts to rest; a sweep ends that if the quarantine is over and
// every member has confirmed; an interface that comes with a resting address is the
// failure, and so is one that no command gave back.
func TestNoAddressIsLeasedTooEarly(t *testing.T) {
	reused, blocked := 0, 0
	for seed := range uint64(20) {
		s := NewState()
		resting := make(map[netip.Addr]rest)
		owned := make(map[netip.Addr]bool) // ever leased
		had := make(map[ec2.InterfaceID]*ec2.Interface)
		for n, req := range script(seed+100, 400) {
			index := uint64(n + 1)
			cmd := Command{Time: epoch0.Add(time.Duration(index) * 7 * time.Second), Request: req}
			_, err := s.Apply(index, cmd)
			v := s.View()
			if sweep, ok := req.(*Sweep); ok && err == nil {
				for addr, r := range resting {
					switch {
					case cmd.Time.Before(r.since.Add(v.Settings().Quarantine)):
					case !everyMemberHas(v, sweep.Confirmed, r.index):
						blocked++
					default:
						delete(resting, addr)
					}
				}
			}
			now := make(map[ec2.InterfaceID]*ec2.Interface)
			for i := range v.Interfaces() {
				now[i.ID] = i
				if had[i.ID] != nil {
					continue
				}
				for _, addr := range []netip.Addr{i.Private, i.Public} {
					if r, ok := resting[addr]; ok {
						t.Fatalf("seed %d, index %d: %s is leased to %s, and rests since %s, index %d", seed, index, addr, i.ID, r.since, r.index)
					}
					if owned[addr] {
						reused++
					}
					owned[addr] = true
				}
			}
			for id, i := range had {
				if now[id] == nil {
					resting[i.Private], resting[i.Public] = rest{cmd.Time, index}, rest{cmd.Time, index}
				}
			}
			had = now
			checkResting(t, v, resting)
		}
	}
	if reused < 100 || blocked < 100 {
		t.Errorf("%d addresses were used again and %d sweeps had to wait; the histories prove little", reused, blocked)
	}
}

func everyMemberHas(v *View, confirmed map[ec2.NodeID]uint64, index uint64) bool {
	if confirmed == nil {
		return true
	}
	for n := range v.Nodes() {
		if has, ok := confirmed[n.ID]; n.State != ec2.Fenced && (!ok || has < index) {
			return false
		}
	}
	return true
}

// checkResting compares the State's resting addresses with the model's: none is
// forgotten, and none is kept for ever.
func checkResting(t *testing.T, v *View, model map[netip.Addr]rest) {
	t.Helper()
	count := 0
	for a := range rows[address](v.txn(), tableAddress, indexID, "") {
		if a.Interface != "" {
			continue
		}
		count++
		if r := model[a.Addr]; !r.since.Equal(a.Freed) || r.index != a.FreedIndex {
			t.Fatalf("index %d: %s rests since %s, index %d; want %s, index %d", v.Index(), a.Addr, a.Freed, a.FreedIndex, r.since, r.index)
		}
	}
	if count != len(model) {
		t.Fatalf("index %d: %d addresses rest, want %d", v.Index(), count, len(model))
	}
}

// randomConfirmed is what members may have confirmed by now: mostly enough, sometimes
// too little, nothing, or not asked.
func randomConfirmed(rng *rand.Rand, v *View) map[ec2.NodeID]uint64 {
	if rng.IntN(10) == 0 {
		return nil
	}
	confirmed := make(map[ec2.NodeID]uint64)
	for n := range v.Nodes() {
		switch rng.IntN(12) {
		case 0: // no answer
		case 1:
			confirmed[n.ID] = v.Index() - min(v.Index(), rng.Uint64N(40))
		default:
			confirmed[n.ID] = v.Index()
		}
	}
	return confirmed
}

// randomNodeRequest admits, fences, moves and removes. Tokens are made and used up one
// by one, so that both sometimes fail.
func randomNodeRequest(rng *rand.Rand, v *View) Request {
	name := ec2.NodeID(fmt.Sprintf("node%d", 1+rng.IntN(6)))
	zone := "us-east-1" + string(rune('a'+rng.IntN(3)))
	role := []ec2.NodeRole{"", ec2.Voter, ec2.NonVoter}[rng.IntN(3)]
	tokens := slices.Collect(v.JoinTokens())
	switch rng.IntN(8) {
	case 0, 1:
		return &CreateJoinToken{ID: fmt.Sprintf("t%d", v.Index()), SecretHash: strings.Repeat("5e", 32), Role: role, Expires: v.Time().Add(time.Hour)}
	case 2, 3, 4:
		if len(tokens) == 0 {
			break
		}
		n := ec2.Node{ID: name, Zone: zone, Address: fmt.Sprintf("192.0.2.%d:7400", 10+rng.IntN(20)), PublicKey: fmt.Appendf(nil, "key %d", v.Index())}
		return &AdmitNode{Token: tokens[rng.IntN(len(tokens))].ID, SecretHash: strings.Repeat("5e", 32), Node: n}
	case 5:
		return &FenceNode{Node: name, GossipKey: fmt.Appendf(nil, "key at index %4d", v.Index())}
	case 6:
		return &RemoveNode{Node: name}
	}
	return &PutNode{ec2.Node{ID: name, Zone: zone, Role: role}}
}

// checkNodes asserts what must hold of the table: a consumer of changes has it, a number
// is one node's, a voter is left, and a fenced node holds no lease.
func checkNodes(t *testing.T, followed map[ec2.NodeID]*ec2.Node, v *View) {
	t.Helper()
	numbers := make(map[uint32]bool)
	count, voters := 0, 0
	for n := range v.Nodes() {
		count++
		if followed[n.ID] != n {
			t.Fatalf("a consumer of changes has %+v, the view %+v", followed[n.ID], n)
		}
		if n.Number == 0 || numbers[n.Number] {
			t.Fatalf("node %+v shares its number", n)
		}
		numbers[n.Number] = true
		if n.Votes() {
			voters++
		}
		for i := range rows[ec2.Interface](v.txn(), tableInterface, indexNode, key(n.ID)) {
			if n.State == ec2.Fenced {
				t.Fatalf("interface %s is at the fenced node %s", i.ID, n.ID)
			}
		}
	}
	if count != len(followed) || count > 0 && voters == 0 {
		t.Fatalf("%d nodes, %d voters; a consumer of changes has %d", count, voters, len(followed))
	}
}
