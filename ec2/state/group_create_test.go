package state

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"palisade/ec2"
)

// vpcOf makes a VPC that is not the default VPC, and returns its id.
func (r *replay) vpcOf(account ec2.AccountID, prefix string) ec2.VPCID {
	r.t.Helper()
	return r.must(&CreateVPC{Account: account, Region: east, CIDR: cidr(prefix)}).VPC.ID
}

// groupIn makes a group in a VPC and returns it. An empty vpc means the default VPC or EC2-Classic.
func (r *replay) groupIn(account ec2.AccountID, vpc ec2.VPCID, name string) *ec2.Group {
	r.t.Helper()
	return r.must(&CreateSecurityGroup{Account: account, Region: east, Name: name, Description: "x", VPC: vpc}).Group
}

// refusedWith checks that a request is refused with a code and a message. Scripts of users depend
// on the messages of AWS.
func (r *replay) refusedWith(req Request, code, message string) {
	r.t.Helper()
	r.refused(req, code)
	if _, err := r.do(req); err == nil || err.(*ec2.Error).Message != message {
		r.t.Errorf("%T:\n got %v\nwant %s: %s", req, err, code, message)
	}
}

// rulesOf returns the rules of a group in one direction: "tcp 22-22 10.0.0.0/8, -1 sg-…".
func (r *replay) rulesOf(id ec2.GroupID, direction ec2.Direction) string {
	r.t.Helper()
	g, ok := r.state.View().Group(id)
	if !ok {
		r.t.Fatalf("group %s does not exist", id)
	}
	var list []string
	for _, rule := range g.Rules {
		if rule.Direction != direction {
			continue
		}
		text := rule.Protocol.String()
		if rule.Protocol.HasRange() {
			text += fmt.Sprintf(" %d-%d", rule.From, rule.To)
		}
		if rule.Source.IsGroup() {
			text += " " + string(rule.Source.Group.ID)
		} else {
			text += " " + rule.Source.Prefix.String()
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

func TestNewVPCGroupAllowsAllEgressAndNoIngress(t *testing.T) {
	r := newVPCReplay(t)
	g := r.groupIn(dev, "", "web")
	if g.VPC != r.defaultVPC().ID || len(g.ID) != len("sg-0a1b2c3d4e5f60718") {
		t.Errorf("created without a VPC, group %s is in VPC %q, want the default VPC", g.ID, g.VPC)
	}
	if in, out := r.rulesOf(g.ID, ec2.Ingress), r.rulesOf(g.ID, ec2.Egress); in != "" || out != "-1 0.0.0.0/0" {
		t.Errorf("a new group has ingress %q and egress %q, want none and -1 0.0.0.0/0", in, out)
	}
	own := r.defaultVPC().Group
	if in, out := r.rulesOf(own, ec2.Ingress), r.rulesOf(own, ec2.Egress); in != "-1 "+string(own) || out != "-1 0.0.0.0/0" {
		t.Errorf("the default group has ingress %q and egress %q, want its own members and -1 0.0.0.0/0", in, out)
	}
	if d, _ := r.state.View().Group(own); d.Description != "default VPC security group" {
		t.Errorf("the default group has the description %q, want default VPC security group", d.Description)
	}
}

func TestGroupNamesAreCheckedAndUnique(t *testing.T) {
	r := newVPCReplay(t)
	defaultVPC, other, alberts := r.defaultVPC().ID, r.vpcOf(dev, "10.0.0.0/16"), r.vpcOf(albert, "10.0.0.0/16")
	r.groupIn(dev, "", "Web ")
	create := func(account ec2.AccountID, vpc ec2.VPCID, name string) Request {
		return &CreateSecurityGroup{Account: account, Region: east, Name: name, Description: "x", VPC: vpc}
	}
	r.refusedWith(create(dev, "", "web"), "InvalidGroup.Duplicate", "The security group 'web' already exists for VPC '"+string(defaultVPC)+"'")
	if g, ok := r.state.View().GroupNamed(dev, east, defaultVPC, "wEB"); !ok || g.Name != "Web" {
		t.Errorf("the name wEB finds %+v, want the group with the name Web, without a blank", g)
	}
	// The same name may be used in another VPC, by another account, and in EC2-Classic, where
	// names that differ in case differ.
	r.must(create(dev, other, "web"))
	r.must(create(albert, "", "web"))
	r.must(create(albert, "", "Web"))
	r.must(create(albert, alberts, "web"))
	r.refusedWith(create(albert, "", "web"), "InvalidGroup.Duplicate", "The security group 'web' already exists")

	long := strings.Repeat("n", 255)
	r.must(create(dev, "", long))
	r.must(create(dev, "", `a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*`))
	r.must(create(albert, "", `it's "x" <y>`))
	const name = "Invalid security group name. Valid names are strings less than 256 characters from the following set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"
	const description = "Invalid security group description. Valid descriptions are strings less than 256 characters from the following set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"
	for _, bad := range []string{long + "n", "it's", `"x"`, "<x>", "naïve", "a\x00b", "a\nb", "\u202ename", "a%b", "a~b"} {
		r.refusedWith(create(dev, "", bad), "InvalidParameterValue", name)
		r.refusedWith(&CreateSecurityGroup{Account: dev, Region: east, Name: "x", Description: bad}, "InvalidParameterValue", description)
	}
	r.refusedWith(create(dev, "", "Default"), "InvalidParameterValue", "Cannot use reserved security group name: Default")
	r.refusedWith(create(dev, other, "default "), "InvalidParameterValue", "Cannot use reserved security group name: default")
	r.refusedWith(create(albert, "", "default"), "InvalidGroup.Reserved", "The security group 'default' is reserved")
	r.refusedWith(create(dev, "", "SG-x"), "InvalidParameterValue", "Value (SG-x) for parameter GroupName is invalid. Group names may not be in the format sg-*.")
	r.refused(create(dev, "", ""), "MissingParameter")
	r.refused(create(dev, "", "  "), "MissingParameter")
	r.refusedWith(&CreateSecurityGroup{Account: dev, Region: east, Name: "x"}, "MissingParameter", "The request must contain the parameter GroupDescription")

	r.refused(create(dev, alberts, "x"), "InvalidVpcID.NotFound")
	r.refusedWith(create(dev, "vpc-00000000", "x"), "InvalidVpcID.NotFound", "The vpc ID 'vpc-00000000' does not exist")
	r.refused(&CreateSecurityGroup{Account: dev, Region: "eu-west-1", Name: "x", Description: "x"}, "VPCIdNotSpecified")
	r.refused(&CreateSecurityGroup{Account: dev, Region: "eu-west-1", Name: "x", Description: "x", VPC: defaultVPC}, "InvalidVpcID.NotFound")
}

func TestGroupNamesWorkInClassicAndDefaultVPCOnly(t *testing.T) {
	r := newVPCReplay(t)
	defaultVPC, other := r.defaultVPC().ID, r.vpcOf(dev, "10.0.0.0/16")
	web := r.groupIn(dev, "", "web")
	r.groupIn(dev, other, "db")
	v := r.state.View()
	if g, err := v.FindGroup(dev, east, GroupSelector{Name: "WEB"}); err != nil || g.ID != web.ID {
		t.Errorf("the name WEB finds %v, %v, want group %s", g, err, web.ID)
	}
	for _, c := range []struct {
		account ec2.AccountID
		region  ec2.Region
		sel     GroupSelector
		code    string
		message string
	}{
		{dev, east, GroupSelector{Name: "db"}, "InvalidGroup.NotFound", "The security group 'db' does not exist in default VPC '" + string(defaultVPC) + "'"},
		{albert, east, GroupSelector{Name: "web"}, "InvalidGroup.NotFound", "The security group 'web' does not exist"},
		{dev, "eu-west-1", GroupSelector{Name: "web"}, "VPCIdNotSpecified", "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC."},
		{albert, east, GroupSelector{ID: web.ID}, "InvalidGroup.NotFound", "The security group '" + string(web.ID) + "' does not exist"},
		{dev, "eu-west-1", GroupSelector{ID: web.ID}, "InvalidGroup.NotFound", "The security group '" + string(web.ID) + "' does not exist"},
		{dev, east, GroupSelector{ID: "sg-123abc"}, "InvalidGroup.NotFound", "The security group 'sg-123abc' does not exist"},
		{dev, east, GroupSelector{ID: "i-0d95"}, "InvalidGroupId.Malformed", `Invalid id: "i-0d95" (expecting "sg-...")`},
		{dev, east, GroupSelector{ID: "sg-00000000", Name: "web"}, "InvalidParameterCombination", "The parameters GroupName and GroupId cannot be used together"},
		{dev, east, GroupSelector{}, "MissingParameter", "The request must contain the parameter groupName or groupId"},
	} {
		_, err := v.FindGroup(c.account, c.region, c.sel)
		if e, ok := err.(*ec2.Error); !ok || e.Code != c.code || e.Message != c.message {
			t.Errorf("%+v of %s in %s:\n got %v\nwant %s: %s", c.sel, c.account, c.region, err, c.code, c.message)
		}
	}
}

func TestVPCGroupInUseIsNotDeleted(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpcOf(dev, "10.0.0.0/16")
	web, db, app := r.groupIn(dev, vpc, "web"), r.groupIn(dev, vpc, "db"), r.groupIn(dev, vpc, "app")
	drop := func(g *ec2.Group) Request {
		return &DeleteSecurityGroup{Account: dev, Region: east, Group: GroupSelector{ID: g.ID}}
	}
	allow := func(g *ec2.Group, direction ec2.Direction, from *ec2.Group) ec2.RuleID {
		t.Helper()
		return r.must(&AuthorizeRules{Account: dev, Region: east, Group: GroupSelector{ID: g.ID}, Direction: direction,
			Rules: []RuleSpec{{Protocol: ec2.AnyProtocol, Group: ec2.GroupRef{ID: from.ID}}}}).Rules[0].ID
	}
	allow(web, ec2.Ingress, web) // rules of the group itself do not count
	one, two := allow(db, ec2.Ingress, web), allow(app, ec2.Egress, web)
	allow(web, ec2.Egress, db)
	rules := []string{
		fmt.Sprintf("rule %s of security group %s", one, db.ID),
		fmt.Sprintf("rule %s of security group %s", two, app.ID),
	}
	if db.ID > app.ID {
		rules[0], rules[1] = rules[1], rules[0]
	}
	r.refusedWith(drop(web), "DependencyViolation", fmt.Sprintf("resource %s has a dependent object. Dependent objects: %s.", web.ID, strings.Join(rules, ", ")))
	r.must(&RevokeRules{Account: dev, Region: east, Group: GroupSelector{ID: db.ID}, IDs: []ec2.RuleID{one}})
	r.must(&RevokeRules{Account: dev, Region: east, Group: GroupSelector{ID: app.ID}, Direction: ec2.Egress, IDs: []ec2.RuleID{two}})
	r.must(drop(web))
	r.refusedWith(drop(web), "InvalidGroup.NotFound", fmt.Sprintf("The security group '%s' does not exist", web.ID))
	r.must(drop(db))

	own := *first[ec2.VPC](r.state.View().txn(), tableVPC, indexID, key(vpc))
	r.refusedWith(drop(&ec2.Group{ID: own.Group}), "CannotDelete", fmt.Sprintf(`the specified group: "%s" name: "default" cannot be deleted by a user`, own.Group))
	r.refusedWith(&DeleteVPC{Account: dev, Region: east, VPC: vpc}, "DependencyViolation", fmt.Sprintf("The vpc '%s' has dependencies and cannot be deleted. Dependent objects: %s.", vpc, app.ID))
	r.must(drop(app))
	r.must(&DeleteVPC{Account: dev, Region: east, VPC: vpc})
}

func TestVPCGroupOfStoppedInstanceIsNotDeleted(t *testing.T) {
	r := newVPCReplay(t)
	web := r.groupIn(dev, "", "web")
	drop := &DeleteSecurityGroup{Account: dev, Region: east, Group: GroupSelector{Name: "web"}}
	i := r.must(&RunInstances{Account: dev, Region: east, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Groups: []GroupSelector{{Name: "web"}}}).Instances[0].After
	message := fmt.Sprintf("resource %s has a dependent object. Dependent objects: network interface %s of instance %s.", web.ID, i.Interface, i.ID)
	r.refusedWith(drop, "DependencyViolation", message)
	r.report(i.ID, ec2.Running)
	r.must(&StopInstances{Account: dev, Region: east, Instances: []ec2.InstanceID{i.ID}})
	r.report(i.ID, ec2.Stopped)
	r.refusedWith(drop, "DependencyViolation", message)
	r.must(&TerminateInstances{Account: dev, Region: east, Instances: []ec2.InstanceID{i.ID}})
	r.must(drop)
}

func TestVPCGroupsAreLimitedByVPCAndRegion(t *testing.T) {
	r := newVPCReplay(t)
	r.must(&putSettings{ec2.Settings{GroupsPerVPC: 3, VPCGroupsPerRegion: 5}})
	defaultVPC, other := r.defaultVPC().ID, r.vpcOf(dev, "10.0.0.0/16")
	create := func(vpc ec2.VPCID, name string) *CreateSecurityGroup {
		return &CreateSecurityGroup{Account: dev, Region: east, Name: name, Description: "x", VPC: vpc}
	}
	r.must(create(defaultVPC, "a"))
	b := r.must(create(defaultVPC, "b")).Group // the third, with the default group
	full := "The maximum number of security groups for VPC '" + string(defaultVPC) + "' has been reached."
	r.refusedWith(create(defaultVPC, "c"), "SecurityGroupLimitExceeded", full)
	r.must(create(other, "a"))
	r.refused(create(other, "b"), "SecurityGroupLimitExceeded") // it would be the sixth of the region
	restored, err := Restore(bytes.NewReader(r.snapshot()))
	if err != nil {
		t.Fatal(err)
	}
	r.state = restored // the snapshot does not contain the counts
	r.refusedWith(create(defaultVPC, "c"), "SecurityGroupLimitExceeded", full)
	r.must(&DeleteSecurityGroup{Account: dev, Region: east, Group: GroupSelector{ID: b.ID}})
	r.must(create(defaultVPC, "c"))
	r.groupIn(albert, r.vpcOf(albert, "10.0.0.0/16"), "a") // other accounts have their own limit
	r.groupIn(albert, "", "c")
}

func TestInterfaceTakesGroupsOfItsVPCOnly(t *testing.T) {
	r := newVPCReplay(t)
	defaultVPC, other := r.defaultVPC(), r.vpcOf(dev, "10.0.0.0/16")
	var six []GroupSelector
	for n := range 6 {
		six = append(six, GroupSelector{ID: r.groupIn(dev, "", fmt.Sprint("g", n)).ID})
	}
	otherVPC := r.groupIn(dev, other, "other")
	classic := r.groupIn(albert, "", "web")
	tx := newTx(r.state.View().v.db.Snapshot(), r.state.Index()+1)
	defer tx.Abort()
	for _, c := range []struct {
		what string
		sel  []GroupSelector
		want int
		code string
	}{
		{"no selector", nil, 1, ""},
		{"five", six[:5], 5, ""},
		{"one by id and by name", []GroupSelector{six[0], {Name: "G0"}}, 1, ""},
		{"six", six, 0, "SecurityGroupsPerInterfaceLimitExceeded"},
		{"group of another VPC", []GroupSelector{six[0], {ID: otherVPC.ID}}, 0, "InvalidGroup.NotFound"},
		{"group of another account", []GroupSelector{{ID: classic.ID}}, 0, "InvalidGroup.NotFound"},
		{"unknown group", []GroupSelector{{ID: "sg-123"}}, 0, "InvalidGroup.NotFound"},
	} {
		got, err := tx.vpcGroups(dev, east, defaultVPC.ID, c.sel)
		code := ""
		if err != nil {
			code = err.(*ec2.Error).Code
		}
		if len(got) != c.want || code != c.code {
			t.Errorf("%s: got groups %v, %v", c.what, got, err)
		}
	}
	if got, err := tx.vpcGroups(dev, east, defaultVPC.ID, nil); err != nil || got[0] != defaultVPC.Group {
		t.Errorf("without selectors got groups %v, %v, want the default group", got, err)
	}
}
