package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
)

func entries(blocks ...string) (all []ec2.PrefixEntry) {
	for _, b := range blocks {
		all = append(all, ec2.PrefixEntry{CIDR: netip.MustParsePrefix(b)})
	}
	return all
}

func (w *vpcWorld) list(size int, blocks ...string) *ec2.PrefixList {
	w.t.Helper()
	return w.must(&CreatePrefixList{Account: dev, Region: east, Name: "offices", MaxEntries: size, Entries: entries(blocks...)}).PrefixList
}

// blocksOf returns the blocks of a version of a list: "10.1.0.0/16 10.2.0.0/16".
func (w *vpcWorld) blocksOf(id ec2.PrefixListID, version int) string {
	w.t.Helper()
	l, _ := w.state.View().PrefixList(id)
	list, err := w.state.View().PrefixListEntries(l, version)
	if err != nil {
		return err.Error()
	}
	var text []string
	for _, e := range list {
		text = append(text, e.CIDR.String())
	}
	return strings.Join(text, " ")
}

func TestEachChangeOfEntriesIsAVersion(t *testing.T) {
	w := newVPCWorld(t)
	l := w.list(10, "10.2.0.0/16", "10.1.0.0/16")
	modify := func(current int, added []ec2.PrefixEntry, removed ...netip.Prefix) *ec2.PrefixList {
		return w.must(&ModifyPrefixList{Account: dev, Region: east, List: l.ID, CurrentVersion: &current, Add: added, Remove: removed}).PrefixList
	}
	modify(1, entries("10.3.0.0/16"))
	now := modify(2, entries("10.4.0.0/16"), netip.MustParsePrefix("10.1.0.0/16"))
	if now.Version != 3 || now.Shrunk != 3 || now.State != "modify-complete" {
		t.Errorf("the list is %+v, want version 3, which lost an entry", now)
	}
	if now := w.must(&ModifyPrefixList{Account: dev, Region: east, List: l.ID, Name: "branches"}).PrefixList; now.Version != 3 || now.Name != "branches" {
		t.Errorf("a new name gives %+v, want version 3 still", now)
	}
	for version, want := range map[int]string{
		1: "10.1.0.0/16 10.2.0.0/16", 2: "10.1.0.0/16 10.2.0.0/16 10.3.0.0/16", 3: "10.2.0.0/16 10.3.0.0/16 10.4.0.0/16",
		0: "InvalidParameterValue", 4: "InvalidParameterValue",
	} {
		if got := w.blocksOf(l.ID, version); !strings.HasPrefix(got, want) {
			t.Errorf("version %d has %s, want %s", version, got, want)
		}
	}
	w.refused(&RestorePrefixList{dev, east, l.ID, 1, 2}, "PrefixListVersionMismatch")
	w.refused(&RestorePrefixList{dev, east, l.ID, 3, 3}, "InvalidParameterValue")
	if now := w.must(&RestorePrefixList{dev, east, l.ID, 1, 3}).PrefixList; now.Version != 4 || now.State != "restore-complete" || now.Shrunk != 4 {
		t.Errorf("the restored list is %+v, want version 4", now)
	}
	if got := w.blocksOf(l.ID, 4); got != "10.1.0.0/16 10.2.0.0/16" {
		t.Errorf("the restored list has %s", got)
	}
	if got := w.blocksOf(l.ID, 3); got != "10.2.0.0/16 10.3.0.0/16 10.4.0.0/16" {
		t.Errorf("after the restore version 3 has %s", got)
	}
}

func TestOldestVersionsAreForgotten(t *testing.T) {
	w := newVPCWorld(t)
	w.must(&putSettings{ec2.Settings{PrefixListVersions: 3, PrefixListEntries: 4}})
	l := w.list(4)
	for i := 1; i <= 9; i++ {
		w.must(&ModifyPrefixList{Account: dev, Region: east, List: l.ID, CurrentVersion: &i, Add: entries(fmt.Sprintf("10.%d.0.0/16", i)), Remove: removedAt(i)})
	}
	for version, known := range map[int]bool{7: false, 8: true, 9: true, 10: true} {
		if got := strings.HasPrefix(w.blocksOf(l.ID, version), "10."); got != known {
			t.Errorf("version %d is known: %t, want %t", version, got, known)
		}
	}
	w.must(&putSettings{ec2.Settings{PrefixListVersions: 1000, PrefixListEntries: 1}}) // at most 5 entries in all versions
	for i := 10; i <= 20; i++ {
		w.must(&ModifyPrefixList{Account: dev, Region: east, List: l.ID, CurrentVersion: &i, Add: entries(fmt.Sprintf("10.%d.0.0/16", i)), Remove: removedAt(i)})
	}
	now, _ := w.state.View().PrefixList(l.ID)
	if now.History > 5 || now.Oldest != now.Version-2 {
		t.Errorf("the list keeps %d entries of versions %d to %d, want at most 5", now.History, now.Oldest, now.Version)
	}
	snapshot := snapshotOf(t, w.state)
	if _, err := Restore(strings.NewReader(string(snapshot))); err != nil {
		t.Errorf("the snapshot is not restored: %v", err)
	}
	w.must(&DeletePrefixList{dev, east, l.ID})
	for range rows[ec2.PrefixListVersion](w.state.View().txn(), tablePrefixListVersion, indexID, "") {
		t.Error("a version of a deleted list is kept")
	}
}

func removedAt(i int) []netip.Prefix {
	if i < 3 {
		return nil
	}
	return []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", i-2))}
}

func TestPrefixListsAreCheckedAsEC2DoesIt(t *testing.T) {
	w := newVPCWorld(t)
	l := w.list(2, "10.1.0.0/16")
	modify := func(code string, r ModifyPrefixList) {
		t.Helper()
		r.Account, r.Region = dev, east
		if r.List == "" {
			r.List = l.ID
		}
		w.refused(&r, code)
	}
	one := new(1)
	modify("PrefixListVersionMismatch", ModifyPrefixList{CurrentVersion: new(2), Add: entries("10.2.0.0/16")})
	modify("MissingParameter", ModifyPrefixList{Add: entries("10.2.0.0/16")})
	modify("InvalidRequest", ModifyPrefixList{CurrentVersion: one})
	modify("InvalidRequest", ModifyPrefixList{CurrentVersion: one, Add: entries("10.1.0.0/16")})
	modify("InvalidParameterValue", ModifyPrefixList{CurrentVersion: one, Add: entries("10.1.0.0/16"), Remove: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}})
	modify("InvalidPrefixListModification", ModifyPrefixList{CurrentVersion: one, Remove: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}})
	modify("InvalidParameterValue", ModifyPrefixList{CurrentVersion: one, Remove: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.1.0.0/16")}})
	modify("PrefixListMaxEntriesExceeded", ModifyPrefixList{CurrentVersion: one, Add: entries("10.2.0.0/16", "10.3.0.0/16")})
	modify("InvalidParameterValue", ModifyPrefixList{CurrentVersion: one, Add: entries("fd00::/8")})
	modify("InvalidParameterCombination", ModifyPrefixList{CurrentVersion: one, Add: entries("10.2.0.0/16"), MaxEntries: new(4)})
	modify("InvalidParameterValue", ModifyPrefixList{MaxEntries: new(1001)})
	modify("InvalidParameterValue", ModifyPrefixList{MaxEntries: new(0)})
	modify("InvalidParameterValue", ModifyPrefixList{Name: "com.amazonaws.mine"})
	modify("InvalidPrefixListId.Malformed", ModifyPrefixList{List: "sg-1", Name: "x"})
	modify("InvalidPrefixListID.NotFound", ModifyPrefixList{List: "pl-0a1b2c3d", Name: "x"})
	aws := AWSPrefixLists(east)[0].ID
	modify("OperationNotPermitted", ModifyPrefixList{List: aws, Name: "x"})
	w.refused(&DeletePrefixList{dev, east, aws}, "OperationNotPermitted")
	w.refused(&DeletePrefixList{albert, east, l.ID}, "InvalidPrefixListID.NotFound")
	tooMany := slices.Repeat(entries("10.1.0.0/16"), 101)
	modify("InvalidParameterValue", ModifyPrefixList{CurrentVersion: one, Add: tooMany})
	w.refused(&CreatePrefixList{Account: dev, Region: east, Name: "x", MaxEntries: 1, Entries: entries("10.1.0.0/16", "10.1.0.0/16")}, "InvalidRequest")
	w.refused(&CreatePrefixList{Account: dev, Region: east, Name: "x", MaxEntries: 1, IPv6: true, Entries: entries("10.1.0.0/16")}, "InvalidParameterValue")

	again := &CreatePrefixList{Account: dev, Region: east, Name: "x", MaxEntries: 5, ClientToken: "t"}
	if first, second := w.must(again).PrefixList, w.must(again).PrefixList; first.ID != second.ID {
		t.Errorf("a repeated request made %s and %s, want one list", first.ID, second.ID)
	}
	other := *again
	other.Name = "y"
	w.refused(&other, "IdempotentParameterMismatch")
	w.must(&putSettings{ec2.Settings{PrefixListsPerRegion: 2}})
	w.refused(&CreatePrefixList{Account: dev, Region: east, Name: "z", MaxEntries: 5}, "PrefixListLimitExceeded")
	w.must(&CreateTags{Account: dev, Region: east, Resources: []string{string(l.ID)}, Tags: map[string]string{"Name": "offices"}})
}

// A rule with a list counts as MaxEntries of the list, for the list's address family.
func TestRuleWithAPrefixListWeighsItsMaxEntries(t *testing.T) {
	w := newVPCWorld(t)
	g := w.must(&CreateSecurityGroup{Account: dev, Region: east, VPC: w.subnet.VPC, Name: "clients", Description: "clients"}).Group
	l, six := w.list(50, "10.1.0.0/16"), w.must(&CreatePrefixList{Account: dev, Region: east, Name: "six", IPv6: true, MaxEntries: 59}).PrefixList
	authorize := func(port int, id ec2.PrefixListID) *AuthorizeRules {
		return &AuthorizeRules{
			Account: dev, Region: east, Group: GroupSelector{ID: g.ID}, IPv6: true,
			Rules: []RuleSpec{{Protocol: ec2.TCP, From: port, To: port, PrefixList: id}},
		}
	}
	made := w.must(authorize(80, l.ID)).Rules[0]
	if made.Source != (ec2.Source{PrefixList: l.ID, Family: 4}) {
		t.Errorf("the rule has the source %+v, want list %s of IPv4", made.Source, l.ID)
	}
	w.refused(authorize(80, l.ID), "InvalidPermission.Duplicate")
	w.refused(authorize(81, l.ID), "RulesPerSecurityGroupLimitExceeded")
	w.must(authorize(80, six.ID)) // IPv6 is counted apart
	w.must(authorize(81, AWSPrefixLists(east)[0].ID))
	w.refused(authorize(82, "pl-0a1b2c3d"), "InvalidPrefixListID.NotFound")

	if now := w.must(&ModifyPrefixList{Account: dev, Region: east, List: l.ID, MaxEntries: new(60)}).PrefixList; now.State != "modify-failed" || now.MaxEntries != 50 || !strings.Contains(now.StateMessage, string(g.ID)) {
		t.Errorf("the list is %+v, want modify-failed, and a message that names %s", now, g.ID)
	}
	if now := w.must(&ModifyPrefixList{Account: dev, Region: east, List: l.ID, MaxEntries: new(59)}).PrefixList; now.State != "modify-complete" || now.MaxEntries != 59 {
		t.Errorf("the list is %+v, want 59 entries", now)
	}
	small := w.list(1)
	change := RuleChange{made.ID, RuleSpec{Protocol: ec2.TCP, From: 80, To: 80, PrefixList: small.ID}}
	w.must(&ModifyRules{Account: dev, Region: east, Group: g.ID, Rules: []RuleChange{change}, IPv6: true})
	w.must(authorize(90, w.list(58).ID))
	change.Rule.PrefixList = l.ID
	w.refused(&ModifyRules{Account: dev, Region: east, Group: g.ID, Rules: []RuleChange{change}, IPv6: true}, "RulesPerSecurityGroupLimitExceeded")
	change.Rule = RuleSpec{Protocol: ec2.TCP, From: 80, To: 80, Prefix: netip.MustParsePrefix("10.0.0.0/8")}
	w.refused(&ModifyRules{Account: dev, Region: east, Group: g.ID, Rules: []RuleChange{change}, IPv6: true}, "InvalidParameterValue")

	w.refused(&DeletePrefixList{dev, east, small.ID}, "DependencyViolation")
	if users := w.state.View().PrefixListUsers(small.ID, dev); len(users) != 1 || users[0].ID != string(g.ID) {
		t.Errorf("the list is named by %v, want %s", users, g.ID)
	}
	w.must(&RevokeRules{Account: dev, Region: east, Group: GroupSelector{ID: g.ID}, Rules: []RuleSpec{{Protocol: ec2.TCP, From: 80, To: 80, PrefixList: small.ID}}})
	w.must(&DeletePrefixList{dev, east, small.ID})
}

// A route for a list counts as MaxEntries of the list towards the routes of its table.
func TestRouteWithAPrefixListWeighsItsMaxEntries(t *testing.T) {
	w := newVPCWorld(t)
	rt := w.must(&CreateRouteTable{Account: dev, Region: east, VPC: w.subnet.VPC}).RouteTable
	var g *ec2.InternetGateway
	for g = range w.state.View().InternetGatewaysOf(dev, east) {
		if g.VPC == w.subnet.VPC {
			break
		}
	}
	l := w.list(49, "203.0.113.0/24")
	create := func(id ec2.PrefixListID) *CreateRoute {
		return &CreateRoute{Account: dev, Region: east, RouteTable: rt.ID, Gateway: g.ID, PrefixList: id}
	}
	w.must(create(l.ID))
	w.refused(create(l.ID), "RouteAlreadyExists")
	w.must(&CreateRoute{Account: dev, Region: east, RouteTable: rt.ID, Gateway: g.ID, Destination: allIPv4})
	w.refused(create(w.list(1).ID), "RouteLimitExceeded")
	if now := w.must(&ModifyPrefixList{Account: dev, Region: east, List: l.ID, MaxEntries: new(50)}).PrefixList; now.State != "modify-failed" || !strings.Contains(now.StateMessage, string(rt.ID)) {
		t.Errorf("the list is %+v, want modify-failed, and a message that names %s", now, rt.ID)
	}
	both := create(l.ID)
	both.Destination = allIPv4
	w.refused(both, "InvalidParameterCombination")
	w.refused(create("pl-0a1b2c3d"), "InvalidPrefixListID.NotFound")
	w.refused(create(w.must(&CreatePrefixList{Account: dev, Region: east, Name: "six", IPv6: true, MaxEntries: 1}).PrefixList.ID), "UnsupportedOperation")
	w.refused(&DeletePrefixList{dev, east, l.ID}, "DependencyViolation")
	w.must(&ReplaceRoute{Account: dev, Region: east, RouteTable: rt.ID, Gateway: g.ID, PrefixList: l.ID})
	w.refused(&DeleteRoute{Account: dev, Region: east, RouteTable: rt.ID, PrefixList: w.list(1).ID}, "InvalidRoute.NotFound")
	w.must(&DeleteRoute{Account: dev, Region: east, RouteTable: rt.ID, PrefixList: l.ID})
	w.must(&DeletePrefixList{dev, east, l.ID})
}
