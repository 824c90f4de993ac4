package state

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
)

// applyNext applies r to model as the next request of list, 7 s after the one before. It returns
// list with r, whether or not model refused r.
func applyNext(model *State, list []Request, r Request) []Request {
	list = append(list, r)
	_, _ = model.Apply(uint64(len(list)), Command{Time: epoch0.Add(time.Duration(len(list)) * 7 * time.Second), Request: r})
	return list
}

// randomHistory returns a random history of n valid and invalid requests.
func randomHistory(seed uint64, n int) []Request {
	rng := rand.New(rand.NewPCG(seed, 1))
	accounts := []ec2.AccountID{albert, mary}
	account := func() ec2.AccountID { return accounts[rng.IntN(2)] }
	name := func() string { return []string{"default", "web", "app", "db", ""}[rng.IntN(5)] }
	model := NewState()
	var list []Request
	add := func(r Request) { list = applyNext(model, list, r) }
	for _, r := range firstRequests() {
		add(r)
	}
	for len(list) < n {
		v := model.View()
		var ids []ec2.InstanceID
		var epochs []uint64
		for i := range v.Instances() {
			ids = append(ids, i.ID)
			eni, _ := v.Interface(i.Interface)
			if eni == nil {
				eni = &ec2.Interface{}
			}
			epochs = append(epochs, eni.Epoch)
		}
		specs := make([]RuleSpec, rng.IntN(3)+1)
		for i := range specs {
			specs[i] = RuleSpec{Protocol: []ec2.Protocol{ec2.TCP, ec2.UDP, ec2.ICMP, 47}[rng.IntN(4)], From: rng.IntN(5) - 1, To: rng.IntN(5) - 1}
			if rng.IntN(2) == 0 {
				specs[i].Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rng.IntN(2)), 0, 0}), 8+8*rng.IntN(2))
			} else {
				specs[i].Group = ec2.GroupRef{Account: account(), Name: name()}
			}
		}
		group := GroupSelector{Name: name()}
		switch at := rng.IntN(max(len(ids), 1)); rng.IntN(12) {
		case 0:
			add(&CreateSecurityGroup{Account: account(), Region: east, Name: name(), Description: "x"})
		case 1:
			add(&DeleteSecurityGroup{account(), east, group})
		case 2, 3:
			add(&AuthorizeRules{Account: account(), Region: east, Group: group, Rules: specs})
		case 4:
			add(&RevokeRules{Account: account(), Region: east, Group: group, Rules: specs})
		case 5:
			add(&RunInstances{Account: account(), Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 1 + rng.IntN(3), Groups: []GroupSelector{group}})
		case 6:
			add(&Sweep{Confirmed: randomConfirmed(rng, v)})
		case 7, 8:
			if len(ids) > 0 {
				state := []ec2.InstanceState{ec2.Running, ec2.Stopped, ec2.Terminated}[rng.IntN(3)]
				add(&ReportInstance{Instance: ids[at], InterfaceEpoch: epochs[at], State: state})
			}
		case 9:
			if len(ids) > 0 {
				one := []ec2.InstanceID{ids[at]}
				add([]Request{&StopInstances{albert, east, one}, &StartInstances{albert, east, one}, &TerminateInstances{albert, east, one}}[rng.IntN(3)])
			}
		case 10, 11:
			add(randomNodeRequest(rng, v))
		}
	}
	return list
}

func TestSameLogMakesSameState(t *testing.T) {
	for seed := range uint64(20) {
		a, b := NewState(), NewState()
		followed := make(map[ec2.GroupID]*ec2.Group) // rows as a consumer of Changes knows them
		leased := make(map[ec2.InterfaceID]*ec2.Interface)
		nodes := make(map[ec2.NodeID]*ec2.Node)
		var seen *View
		refused := 0
		for n, req := range randomHistory(seed, 400) {
			index := uint64(n + 1)
			cmd := Command{Time: epoch0.Add(time.Duration(index) * 7 * time.Second), Request: req}
			data, err := EncodeCommand(cmd)
			if err != nil {
				t.Fatal(err)
			}
			decoded, err := DecodeCommand(data)
			if err != nil {
				t.Fatal(err)
			}
			_, errA := a.Apply(index, cmd)
			_, errB := b.Apply(index, decoded)
			if fmt.Sprint(errA) != fmt.Sprint(errB) {
				t.Fatalf("seed %d, %T: the state returned %v, its copy %v\n%v", seed, req, errA, errB, a.View())
			}
			if errA != nil {
				refused++
			}
			if n%50 == 49 { // a node that restarts from a snapshot must have the same State
				if b, err = Restore(bytes.NewReader(snapshotOf(t, b))); err != nil {
					t.Fatalf("seed %d: restore a snapshot: %v", seed, err)
				}
			}
			if n%7 == 0 {
				seen = a.ViewSince(seen)
				follow(followed, seen.Changes().Groups, func(g *ec2.Group) ec2.GroupID { return g.ID }, t)
				follow(leased, seen.Changes().Interfaces, func(i *ec2.Interface) ec2.InterfaceID { return i.ID }, t)
				follow(nodes, seen.Changes().Nodes, func(n *ec2.Node) ec2.NodeID { return n.ID }, t)
				checkFollowed(t, followed, leased, seen)
				checkNodes(t, nodes, seen)
			}
			checkLeases(t, a.View())
		}
		if x, y := snapshotOf(t, a), snapshotOf(t, b); !bytes.Equal(x, y) {
			t.Fatalf("seed %d: the state and its copy differ:\n%s\n%v", seed, cmp.Diff(string(x), string(y)), a.View())
		}
		if refused < 40 || refused > 360 {
			t.Errorf("seed %d: %d of 400 requests were refused, want 40 to 360", seed, refused)
		}
	}
}

// follow applies changes to the rows that a consumer has, and checks that they fit these rows.
func follow[K comparable, T any](have map[K]*T, changes []Change[T], id func(*T) K, t *testing.T) {
	t.Helper()
	for _, c := range changes {
		switch {
		case c.Before == nil && c.After == nil:
			t.Fatal("a change has neither Before nor After")
		case c.Before == nil && have[id(c.After)] != nil:
			t.Fatalf("the changes have %v as new, but the consumer has it already", id(c.After))
		case c.Before != nil && have[id(c.Before)] != c.Before:
			t.Fatalf("the changes have %v before as %+v, but the consumer has another row", id(c.Before), c.Before)
		}
		if c.After == nil {
			delete(have, id(c.Before))
		} else {
			have[id(c.After)] = c.After
		}
	}
}

// checkFollowed checks that a consumer of changes has the rows of the view.
func checkFollowed(t *testing.T, groups map[ec2.GroupID]*ec2.Group, leases map[ec2.InterfaceID]*ec2.Interface, v *View) {
	t.Helper()
	count := 0
	for g := range v.Groups() {
		if groups[g.ID] != g {
			t.Fatalf("a consumer of changes has group %+v, the view %+v\n%v", groups[g.ID], g, v)
		}
		count++
	}
	for i := range v.Interfaces() {
		if leases[i.ID] != i {
			t.Fatalf("a consumer of changes has interface %+v, the view %+v\n%v", leases[i.ID], i, v)
		}
		count++
	}
	if count != len(groups)+len(leases) {
		t.Fatalf("a consumer of changes has %d rows, the view %d\n%v", len(groups)+len(leases), count, v)
	}
}

// checkLeases checks that no two interfaces share an address, and that each interface belongs to
// one instance.
func checkLeases(t *testing.T, v *View) {
	t.Helper()
	addrs, macs := make(map[netip.Addr]bool), make(map[ec2.MAC]bool)
	for i := range v.Interfaces() {
		if addrs[i.Private] || addrs[i.Public] || macs[i.MAC] {
			t.Fatalf("interface %+v has an address or a MAC of another interface\n%v", i, v)
		}
		addrs[i.Private], addrs[i.Public], macs[i.MAC] = true, true, true
		o, ok := v.Instance(i.Instance)
		if !ok || o.Interface != i.ID {
			t.Fatalf("interface %s belongs to instance %s, which is %+v and does not name the interface\n%v", i.ID, i.Instance, o, v)
		}
		if active := o.State == ec2.Pending || o.State == ec2.Running; active != (i.State == ec2.Active) {
			t.Fatalf("instance %s is %s, but its interface is %s; want it active exactly while the instance is pending or running\n%v", o.ID, o.State, i.State, v)
		}
	}
}

// randomConfirmed returns the indices that members have confirmed: mostly the current one,
// sometimes an older one or none, and sometimes nil for all.
func randomConfirmed(rng *rand.Rand, v *View) map[ec2.NodeID]uint64 {
	if rng.IntN(10) == 0 {
		return nil
	}
	confirmed := make(map[ec2.NodeID]uint64)
	for n := range v.Nodes() {
		switch rng.IntN(12) {
		case 0: // the node has not answered
		case 1:
			confirmed[n.ID] = v.Index() - min(v.Index(), rng.Uint64N(40))
		default:
			confirmed[n.ID] = v.Index()
		}
	}
	return confirmed
}

// randomNodeRequest returns a request that makes a join token, or admits, moves, fences or removes
// a node. Some of them fail.
func randomNodeRequest(rng *rand.Rand, v *View) Request {
	name := ec2.NodeID(fmt.Sprintf("node%d", 1+rng.IntN(6)))
	zone := "us-east-1" + string(rune('a'+rng.IntN(3)))
	role := []ec2.NodeRole{"", ec2.Voter, ec2.NonVoter}[rng.IntN(3)]
	tokens := slices.Collect(v.JoinTokens())
	switch rng.IntN(9) {
	case 0, 1:
		return &CreateJoinToken{ID: fmt.Sprintf("t%d", v.Index()), SecretHash: strings.Repeat("5e", 32), Role: role, Expires: v.Time().Add(time.Hour)}
	case 2, 3, 4:
		if len(tokens) == 0 {
			break
		}
		n := ec2.Node{ID: name, Zone: zone, Address: fmt.Sprintf("192.0.2.%d:7400", 10+rng.IntN(20)), PublicKey: fmt.Appendf(nil, "key %d", v.Index())}
		return &AdmitNode{Token: tokens[rng.IntN(len(tokens))].ID, SecretHash: strings.Repeat("5e", 32), Node: n}
	case 5:
		return &FenceNode{Node: name, GossipKey: fmt.Appendf(nil, "key at index %4d", v.Index()), Rotate: rng.IntN(2) == 0}
	case 6:
		return &RemoveNode{Node: name, Rotate: rng.IntN(2) == 0}
	case 7:
		if r := randomRotation(rng, v); r != nil {
			return r
		}
	}
	return &PutNode{ec2.Node{ID: name, Zone: zone, Role: role}}
}

// checkNodes checks that a consumer of changes has the nodes of the view, that their numbers differ,
// that there is a voter, and that fenced nodes have no leases.
func checkNodes(t *testing.T, followed map[ec2.NodeID]*ec2.Node, v *View) {
	t.Helper()
	numbers := make(map[uint32]bool)
	count, voters := 0, 0
	for n := range v.Nodes() {
		count++
		if followed[n.ID] != n {
			t.Fatalf("a consumer of changes has node %+v, the view %+v\n%v", followed[n.ID], n, v)
		}
		if n.Number == 0 || numbers[n.Number] {
			t.Fatalf("node %+v has no number, or the number of another node\n%v", n, v)
		}
		numbers[n.Number] = true
		if n.Votes() {
			voters++
		}
		for i := range rows[ec2.Interface](v.txn(), tableInterface, indexNode, key(n.ID)) {
			if n.State == ec2.Fenced {
				t.Fatalf("interface %s is at the fenced node %s\n%v", i.ID, n.ID, v)
			}
		}
	}
	if count != len(followed) || count > 0 && voters == 0 {
		t.Fatalf("the view has %d nodes and %d voters, a consumer of changes has %d nodes; want the same and at least one voter\n%v", count, voters, len(followed), v)
	}
}
