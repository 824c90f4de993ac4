package state

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
)

const (
	albert = ec2.AccountID("598916040194")
	mary   = ec2.AccountID("495219933132")
	east   = ec2.Region("us-east-1")
)

var epoch0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// A replay applies commands one after the other at a clock of its own.
type replay struct {
	t     testing.TB
	state *State
	now   time.Time
	log   []Command
}

func newReplay(t testing.TB) *replay {
	r := &replay{t: t, state: NewState(), now: epoch0}
	for _, req := range firstRequests() {
		r.must(req)
	}
	return r
}

func firstRequests() []Request {
	return []Request{
		&Bootstrap{Seed: "a seed of the domain's tests"},
		&PutNode{ec2.Node{ID: "node1", Zone: "us-east-1a"}},
		&CreateAccount{ID: albert, Name: "albert", Platform: ec2.Classic, AccessKey: "AKIDALBERT", Secret: "a"},
		&PutNetwork{ec2.Network{
			VNI:         1,
			Region:      east,
			Prefix:      netip.MustParsePrefix("10.0.0.0/8"),
			Pools:       []netip.Prefix{netip.MustParsePrefix("10.10.1.44/32"), netip.MustParsePrefix("10.10.2.0/28")},
			PublicPools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
		}},
		&CreateAccount{ID: mary, Name: "mary", Platform: ec2.Classic, AccessKey: "AKIDMARY", Secret: "m"},
	}
}

func (r *replay) do(req Request) (Result, error) {
	cmd := Command{Time: r.now, Request: req}
	r.log = append(r.log, cmd)
	return r.state.Apply(r.state.Index()+1, cmd)
}

func (r *replay) must(req Request) Result {
	r.t.Helper()
	result, err := r.do(req)
	if err != nil {
		r.t.Fatalf("%T: %v", req, err)
	}
	return result
}

func (r *replay) refused(req Request, code string) {
	r.t.Helper()
	before := r.snapshot()
	_, err := r.do(req)
	if e, ok := err.(*ec2.Error); !ok || e.Code != code {
		r.t.Errorf("%T: got %v, want %s", req, err, code)
	}
	if after := r.snapshot(); !bytes.Equal(withoutIndex(before), withoutIndex(after)) {
		r.t.Errorf("%T was refused and changed the state:\n%s", req, cmp.Diff(string(before), string(after)))
	}
}

func (r *replay) snapshot() []byte { return snapshotOf(r.t, r.state) }

func snapshotOf(t testing.TB, s *State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.View().WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// withoutIndex cuts the meta row: its index moves with every command.
func withoutIndex(snapshot []byte) []byte {
	lines := bytes.Split(snapshot, []byte("\n"))
	_, lines[1], _ = bytes.Cut(lines[1], []byte(`"Time"`))
	return bytes.Join(lines, []byte("\n"))
}

func (r *replay) run(n int) []*ec2.Instance {
	r.t.Helper()
	var made []*ec2.Instance
	for _, c := range r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: n, MaxCount: n}).Instances {
		made = append(made, c.After)
	}
	return made
}

func (r *replay) lease(i ec2.InstanceID) *ec2.Interface {
	r.t.Helper()
	v := r.state.View()
	instance, ok := v.Instance(i)
	if !ok {
		r.t.Fatalf("instance %s is gone", i)
	}
	eni, ok := v.Interface(instance.Interface)
	if !ok {
		r.t.Fatalf("instance %s is %s and has no interface", i, instance.State)
	}
	return eni
}

func (r *replay) report(i ec2.InstanceID, s ec2.InstanceState) {
	r.t.Helper()
	r.must(&ReportInstance{Instance: i, InterfaceEpoch: r.lease(i).Epoch, State: s})
}

func TestAddressesAreLeasedInOrderAndRestBeforeReuse(t *testing.T) {
	r := newReplay(t)
	made := r.run(4)
	for n, want := range []string{"10.10.1.44 198.18.0.2", "10.10.2.2 198.18.0.3", "10.10.2.3 198.18.0.4", "10.10.2.4 198.18.0.5"} {
		eni := r.lease(made[n].ID)
		if got := eni.Private.String() + " " + eni.Public.String(); got != want {
			t.Errorf("instance %d has %s, want %s", n, got, want)
		}
	}
	first := made[0].ID
	r.report(first, ec2.Running)
	was := r.lease(first)
	r.must(&TerminateInstances{Account: albert, Region: east, Instances: []ec2.InstanceID{first}})
	if eni := r.lease(first); eni.State != ec2.Draining || eni.Private != was.Private {
		t.Errorf("after terminate the interface is %+v, want it draining with its address", eni)
	}
	r.report(first, ec2.Terminated)
	if _, ok := r.state.View().Interface(was.ID); ok {
		t.Error("the interface is still there after its node's report")
	}

	due, ok := r.state.View().SweepDue()
	if !ok || !due.Equal(epoch0.Add(time.Minute)) {
		t.Errorf("sweep is due %v %v, want after a minute", due, ok)
	}
	for _, step := range []struct {
		after time.Duration
		want  string
	}{
		{0, "10.10.2.5"},
		{59 * time.Second, "10.10.2.6"},
		{-time.Hour, "10.10.2.7"}, // the leader's clock went back
		{60 * time.Second, "10.10.1.44"},
	} {
		r.now = epoch0.Add(step.after)
		r.must(&Sweep{})
		if got := r.lease(r.run(1)[0].ID).Private.String(); got != step.want {
			t.Errorf("after %s the next address is %s, want %s", step.after, got, step.want)
		}
	}

	if _, ok := r.state.View().Instance(first); !ok {
		t.Error("a terminated instance is forgotten within the hour")
	}
	r.now = epoch0.Add(time.Hour)
	r.must(&Sweep{})
	if _, ok := r.state.View().Instance(first); ok {
		t.Error("a terminated instance is not forgotten after an hour")
	}
	// Fifteen of /28 less three, and one /32: what is left is less than asked for.
	r.refused(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 12, MaxCount: 12}, "InsufficientAddressCapacity")
	if made := r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 100}).Instances; len(made) != 7 {
		t.Errorf("launched %d of 100, want the 7 there is room for", len(made))
	}
}

func TestStopAndStartGiveANewLease(t *testing.T) {
	r := newReplay(t)
	id := r.run(1)[0].ID
	one := []ec2.InstanceID{id}
	r.refused(&StopInstances{albert, east, one}, "IncorrectInstanceState") // pending
	r.report(id, ec2.Running)
	was := r.lease(id)
	r.must(&StopInstances{albert, east, one})
	r.refused(&StartInstances{albert, east, one}, "IncorrectInstanceState") // stopping
	r.report(id, ec2.Stopped)
	r.must(&StartInstances{albert, east, one})
	now := r.lease(id)
	if now.ID == was.ID || now.Epoch <= was.Epoch || now.MAC == was.MAC || now.Private == was.Private || now.Public == was.Public {
		t.Errorf("restarted on %+v,\nwas on %+v", now, was)
	}
	// An old report, of the lease before, is late and changes nothing.
	r.must(&ReportInstance{Instance: id, InterfaceEpoch: was.Epoch, State: ec2.Terminated})
	if i, _ := r.state.View().Instance(id); i.State != ec2.Pending {
		t.Errorf("a late report made the instance %s", i.State)
	}
	r.report(id, ec2.Running)
	r.must(&StopInstances{albert, east, one})
	r.must(&TerminateInstances{albert, east, one})
	r.report(id, ec2.Stopped) // the node was still at the stop
	if i, _ := r.state.View().Instance(id); i.State != ec2.Terminated || i.Interface != "" {
		t.Errorf("stopped, then terminated: %s on %q", i.State, i.Interface)
	}
	r.refused(&StartInstances{albert, east, one}, "IncorrectInstanceState")
	r.refused(&ReportInstance{Instance: id, State: ec2.Pending}, "InvalidParameterValue")
}

func TestGroupsAreHeldByInstancesAndRules(t *testing.T) {
	r := newReplay(t)
	create := func(account ec2.AccountID, name string) *ec2.Group {
		return r.must(&CreateSecurityGroup{Account: account, Region: east, Name: name, Description: "x"}).Group
	}
	allow := func(account ec2.AccountID, group string, source ec2.GroupRef) {
		t.Helper()
		r.must(&AuthorizeRules{Account: account, Region: east, Group: GroupSelector{Name: group}, Rules: []RuleSpec{{Protocol: ec2.TCP, From: 1, To: 2, Group: source}}})
	}
	drop := func(name string) Request {
		return &DeleteSecurityGroup{albert, east, GroupSelector{Name: name}}
	}
	web, app := create(albert, "web"), create(albert, "app")
	allow(albert, "app", ec2.GroupRef{Name: "web"})
	r.refused(drop("web"), "InvalidGroup.InUse")
	allow(albert, "web", ec2.GroupRef{ID: web.ID}) // its own rules do not hold it
	create(mary, "hers")
	allow(mary, "hers", ec2.GroupRef{Account: albert, ID: app.ID}) // nor do another account's
	r.must(drop("app"))
	r.must(drop("web"))
	again := create(albert, "web")
	if again.ID == web.ID {
		t.Error("a group's id was used again")
	}
	hers, _ := r.state.View().GroupNamed(mary, east, "", "hers")
	if hers.Rules[0].Source.Group.ID != app.ID {
		t.Errorf("the stale rule is %+v", hers.Rules[0])
	}

	r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Groups: []GroupSelector{{Name: "web"}}})
	r.refused(drop("web"), "InvalidGroup.InUse")
	r.refused(drop("default"), "InvalidGroup.Reserved")
	r.refused(&AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{Name: "web"}, Rules: []RuleSpec{{Protocol: ec2.TCP, From: 1, To: 1, Group: ec2.GroupRef{Account: mary, Name: "nobody"}}}}, "InvalidGroup.NotFound")
	r.refused(&AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{Name: "web"}, Rules: []RuleSpec{{Protocol: ec2.TCP, From: 1, To: 1, Group: ec2.GroupRef{Account: "111111111111", ID: hers.ID}}}}, "InvalidGroup.NotFound")
	r.refused(&AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{ID: hers.ID}, Rules: []RuleSpec{{Protocol: ec2.TCP, From: 1, To: 1, Prefix: netip.MustParsePrefix("0.0.0.0/0")}}}, "InvalidGroup.NotFound")
}

func TestLimits(t *testing.T) {
	r := newReplay(t)
	r.must(&putSettings{ec2.Settings{GroupsPerRegion: 3, RulesPerGroup: 100, InstancesPerRegion: 2}})
	r.must(&CreateSecurityGroup{Account: albert, Region: east, Name: "a", Description: "x"})
	r.must(&CreateSecurityGroup{Account: albert, Region: east, Name: "b", Description: "x"})
	r.refused(&CreateSecurityGroup{Account: albert, Region: east, Name: "c", Description: "x"}, "SecurityGroupLimitExceeded")
	r.must(&CreateSecurityGroup{Account: mary, Region: east, Name: "c", Description: "x"})

	var specs []RuleSpec
	for n := range 101 {
		specs = append(specs, RuleSpec{Protocol: ec2.TCP, From: n, To: n, Prefix: netip.MustParsePrefix("0.0.0.0/0")})
	}
	a := GroupSelector{Name: "a"}
	r.refused(&AuthorizeRules{Account: albert, Region: east, Group: a, Rules: specs}, "RulesPerSecurityGroupLimitExceeded")
	r.must(&AuthorizeRules{Account: albert, Region: east, Group: a, Rules: specs[:100]})
	r.refused(&AuthorizeRules{Account: albert, Region: east, Group: a, Rules: specs[100:]}, "RulesPerSecurityGroupLimitExceeded")
	r.must(&RevokeRules{Account: albert, Region: east, Group: a, Rules: specs[:1]})
	r.must(&AuthorizeRules{Account: albert, Region: east, Group: a, Rules: specs[100:]})

	r.refused(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 3, MaxCount: 3}, "InstanceLimitExceeded")
	if made := r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 3}).Instances; len(made) != 2 {
		t.Errorf("launched %d, want the 2 that are allowed", len(made))
	}
	r.refused(&Batch{[]Request{&CreateSecurityGroup{Account: mary, Region: east, Name: "d", Description: "x"}, &CreateSecurityGroup{Account: albert, Region: east, Name: "e", Description: "x"}}}, "SecurityGroupLimitExceeded")
}

func TestIdsNeverRepeat(t *testing.T) {
	m := &meta{Seed: "x"}
	ids := make(map[string]bool)
	macs := make(map[ec2.MAC]bool)
	address := netip.MustParseAddr("10.10.0.0")
	for n := range uint64(50_000) {
		id, mac := m.classicID("i", n), m.mac(1, address)
		if ids[id] || macs[mac] {
			t.Fatalf("serial %d, address %s: %s or %s repeats", n, address, id, mac)
		}
		ids[id], macs[mac] = true, true
		if mac[0] != 0x02 || mac[1] == 0 {
			t.Fatalf("MAC %s is not locally administered, or may be the gateway's", mac)
		}
		address = address.Next()
	}
}

// script makes a random history, good and bad requests mixed, for the property tests.
func script(seed uint64, n int) []Request {
	rng := rand.New(rand.NewPCG(seed, 1))
	accounts := []ec2.AccountID{albert, mary}
	account := func() ec2.AccountID { return accounts[rng.IntN(2)] }
	name := func() string { return []string{"default", "web", "app", "db", ""}[rng.IntN(5)] }
	model := NewState()
	var index uint64
	var list []Request
	add := func(r Request) {
		index++
		list = append(list, r)
		_, _ = model.Apply(index, Command{Time: epoch0.Add(time.Duration(index) * 7 * time.Second), Request: r})
	}
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

func TestOneLogMakesOneState(t *testing.T) {
	for seed := range uint64(20) {
		a, b := NewState(), NewState()
		followed := make(map[ec2.GroupID]*ec2.Group) // what a consumer of Changes believes
		leased := make(map[ec2.InterfaceID]*ec2.Interface)
		nodes := make(map[ec2.NodeID]*ec2.Node)
		var seen *View
		refused := 0
		for n, req := range script(seed, 400) {
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
				t.Fatalf("seed %d, %T: %v and %v", seed, req, errA, errB)
			}
			if errA != nil {
				refused++
			}
			if n%50 == 49 { // a node that restarts from a snapshot goes on alike
				if b, err = Restore(bytes.NewReader(snapshotOf(t, b))); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
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
			t.Fatalf("seed %d: states differ:\n%s", seed, cmp.Diff(string(x), string(y)))
		}
		if refused < 40 || refused > 360 {
			t.Errorf("seed %d: %d of 400 refused; the script proves little", seed, refused)
		}
	}
}

func follow[K comparable, T any](have map[K]*T, changes []Change[T], id func(*T) K, t *testing.T) {
	t.Helper()
	for _, c := range changes {
		switch {
		case c.Before == nil && c.After == nil:
			t.Fatal("a change of nothing")
		case c.Before == nil && have[id(c.After)] != nil:
			t.Fatalf("%v is new and was there", id(c.After))
		case c.Before != nil && have[id(c.Before)] != c.Before:
			t.Fatalf("%v was not %+v", id(c.Before), c.Before)
		}
		if c.After == nil {
			delete(have, id(c.Before))
		} else {
			have[id(c.After)] = c.After
		}
	}
}

func checkFollowed(t *testing.T, groups map[ec2.GroupID]*ec2.Group, leases map[ec2.InterfaceID]*ec2.Interface, v *View) {
	t.Helper()
	count := 0
	for g := range v.Groups() {
		if groups[g.ID] != g {
			t.Fatalf("a consumer of changes has %+v, the view %+v", groups[g.ID], g)
		}
		count++
	}
	for i := range v.Interfaces() {
		if leases[i.ID] != i {
			t.Fatalf("a consumer of changes has %+v, the view %+v", leases[i.ID], i)
		}
		count++
	}
	if count != len(groups)+len(leases) {
		t.Fatalf("a consumer of changes has %d rows, the view %d", len(groups)+len(leases), count)
	}
}

// checkLeases asserts what must hold after every command: nothing is leased twice, and
// an interface is of exactly one instance.
func checkLeases(t *testing.T, v *View) {
	t.Helper()
	addrs, macs := make(map[netip.Addr]bool), make(map[ec2.MAC]bool)
	for i := range v.Interfaces() {
		if addrs[i.Private] || addrs[i.Public] || macs[i.MAC] {
			t.Fatalf("interface %+v shares an address", i)
		}
		addrs[i.Private], addrs[i.Public], macs[i.MAC] = true, true, true
		o, ok := v.Instance(i.Instance)
		if !ok || o.Interface != i.ID {
			t.Fatalf("interface %s is of %s, which has %+v", i.ID, i.Instance, o)
		}
		if active := o.State == ec2.Pending || o.State == ec2.Running; active != (i.State == ec2.Active) {
			t.Fatalf("instance %s is %s and its interface %d", o.ID, o.State, i.State)
		}
	}
}

func TestViewsOfTwoStatesAreCompared(t *testing.T) {
	r := newReplay(t)
	r.must(&CreateSecurityGroup{Account: albert, Region: east, Name: "web", Description: "x"})
	old := r.state.View()
	r.must(&CreateSecurityGroup{Account: albert, Region: east, Name: "app", Description: "x"})
	r.must(&DeleteSecurityGroup{albert, east, GroupSelector{Name: "web"}})
	restored, err := Restore(bytes.NewReader(r.snapshot()))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range restored.ViewSince(old).Changes().Groups {
		if c.Before != nil {
			got = append(got, "-"+c.Before.Name)
		}
		if c.After != nil {
			got = append(got, "+"+c.After.Name)
		}
	}
	if s := strings.Join(got, " "); s != "-web +app" && s != "+app -web" {
		t.Errorf("changes %q, want web gone and app new", s)
	}
	if restored.Index() != r.state.Index() {
		t.Errorf("restored at %d, was at %d", restored.Index(), r.state.Index())
	}
}
