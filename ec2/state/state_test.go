package state

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
)

func TestAddressesAreLeasedInOrderAndQuarantined(t *testing.T) {
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
		t.Error("the interface still exists after the report of its node")
	}

	due, ok := r.state.View().SweepDue()
	if !ok || !due.Equal(epoch0.Add(time.Minute)) {
		t.Errorf("a sweep is due at %v (%v), want after a minute", due, ok)
	}
	for _, step := range []struct {
		after time.Duration
		want  string
	}{
		{0, "10.10.2.5"},
		{59 * time.Second, "10.10.2.6"},
		{-time.Hour, "10.10.2.7"}, // the clock of a new leader is an hour behind
		{60 * time.Second, "10.10.1.44"},
	} {
		r.now = epoch0.Add(step.after)
		r.must(&Sweep{})
		if got := r.lease(r.run(1)[0].ID).Private.String(); got != step.want {
			t.Errorf("after %s the next address is %s, want %s", step.after, got, step.want)
		}
	}

	if _, ok := r.state.View().Instance(first); !ok {
		t.Error("a terminated instance was deleted before an hour was over")
	}
	r.now = epoch0.Add(time.Hour)
	r.must(&Sweep{})
	if _, ok := r.state.View().Instance(first); ok {
		t.Error("a terminated instance was not deleted after an hour")
	}
	// The pools have 13 usable addresses in the /28 and one /32, which is less than asked for.
	r.refused(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 12, MaxCount: 12}, "InsufficientAddressCapacity")
	if made := r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 100}).Instances; len(made) != 7 {
		t.Errorf("launched %d of 100 instances, want 7, one for each free address", len(made))
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
		t.Errorf("restarted with interface %+v,\nwhich was %+v; want a new one", now, was)
	}
	// A late report about the earlier lease changes nothing.
	r.must(&ReportInstance{Instance: id, InterfaceEpoch: was.Epoch, State: ec2.Terminated})
	if i, _ := r.state.View().Instance(id); i.State != ec2.Pending {
		t.Errorf("a late report made the instance %s, want pending", i.State)
	}
	r.report(id, ec2.Running)
	r.must(&StopInstances{albert, east, one})
	r.must(&TerminateInstances{albert, east, one})
	r.report(id, ec2.Stopped) // the node reports the earlier stop
	if i, _ := r.state.View().Instance(id); i.State != ec2.Terminated || i.Interface != "" {
		t.Errorf("after stop and terminate the instance is %s with interface %q, want terminated without one", i.State, i.Interface)
	}
	r.refused(&StartInstances{albert, east, one}, "IncorrectInstanceState")
	r.refused(&ReportInstance{Instance: id, State: ec2.Pending}, "InvalidParameterValue")
}

func TestClassicGroupInUseIsNotDeleted(t *testing.T) {
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
	allow(albert, "web", ec2.GroupRef{ID: web.ID}) // rules of the group itself do not count
	create(mary, "hers")
	allow(mary, "hers", ec2.GroupRef{Account: albert, ID: app.ID}) // nor do rules of another account
	r.must(drop("app"))
	r.must(drop("web"))
	again := create(albert, "web")
	if again.ID == web.ID {
		t.Error("a new group has the id of a deleted one")
	}
	hers, _ := r.state.View().GroupNamed(mary, east, "", "hers")
	if hers.Rules[0].Source.Group.ID != app.ID {
		t.Errorf("the rule that names a deleted group is %+v, want it unchanged", hers.Rules[0])
	}

	r.must(&RunInstances{Account: albert, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Groups: []GroupSelector{{Name: "web"}}})
	r.refused(drop("web"), "InvalidGroup.InUse")
	r.refused(drop("default"), "InvalidGroup.Reserved")
	r.refused(&AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{Name: "web"}, Rules: []RuleSpec{{Protocol: ec2.TCP, From: 1, To: 1, Group: ec2.GroupRef{Account: mary, Name: "nobody"}}}}, "InvalidGroup.NotFound")
	r.refused(&AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{Name: "web"}, Rules: []RuleSpec{{Protocol: ec2.TCP, From: 1, To: 1, Group: ec2.GroupRef{Account: "111111111111", ID: hers.ID}}}}, "InvalidGroup.NotFound")
	r.refused(&AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{ID: hers.ID}, Rules: []RuleSpec{{Protocol: ec2.TCP, From: 1, To: 1, Prefix: netip.MustParsePrefix("0.0.0.0/0")}}}, "InvalidGroup.NotFound")
}

func TestClassicLimitsAreEnforced(t *testing.T) {
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
		t.Errorf("launched %d instances, want the 2 of the limit", len(made))
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
			t.Fatalf("serial %d, address %s: id %s or MAC %s is not new", n, address, id, mac)
		}
		ids[id], macs[mac] = true, true
		if mac[0] != 0x02 || mac[1] == 0 {
			t.Fatalf("MAC %s is not locally administered, or may be that of the gateway", mac)
		}
		address = address.Next()
	}
}

func TestChangesCompareViewsOfDifferentStates(t *testing.T) {
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
		t.Errorf("the changes of groups are %q, want -web +app", s)
	}
	if restored.Index() != r.state.Index() {
		t.Errorf("restored at index %d, want %d", restored.Index(), r.state.Index())
	}
}
