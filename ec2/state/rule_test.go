package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
)

// A ruleWorld has a group under test in a VPC that is not the default one.
type ruleWorld struct {
	*replay
	vpc   ec2.VPCID
	group *ec2.Group
}

func newRuleWorld(t testing.TB) *ruleWorld {
	r := newVPCReplay(t)
	vpc := r.vpcOf(dev, "10.0.0.0/16")
	return &ruleWorld{r, vpc, r.groupIn(dev, vpc, "web")}
}

func (r *ruleWorld) authorize(direction ec2.Direction, specs ...RuleSpec) *AuthorizeRules {
	return &AuthorizeRules{Account: dev, Region: east, Group: GroupSelector{ID: r.group.ID}, Direction: direction, Rules: specs}
}

func (r *ruleWorld) revoke(direction ec2.Direction, specs ...RuleSpec) *RevokeRules {
	return &RevokeRules{Account: dev, Region: east, Group: GroupSelector{ID: r.group.ID}, Direction: direction, Rules: specs}
}

func (r *ruleWorld) revokeIDs(direction ec2.Direction, ids ...ec2.RuleID) *RevokeRules {
	return &RevokeRules{Account: dev, Region: east, Group: GroupSelector{ID: r.group.ID}, Direction: direction, IDs: ids}
}

func (r *ruleWorld) want(direction ec2.Direction, want string) {
	r.t.Helper()
	if got := r.rulesOf(r.group.ID, direction); got != want {
		r.t.Errorf("the %s rules are %q, want %q", direction, got, want)
	}
}

func tcp(from, to int, prefix string) RuleSpec {
	return RuleSpec{Protocol: ec2.TCP, From: from, To: to, Prefix: cidr(prefix)}
}

func TestAuthorizeRulesIsAllOrNothing(t *testing.T) {
	r := newRuleWorld(t)
	r.must(r.authorize(ec2.Ingress, tcp(22, 22, "203.0.113.0/24")))
	r.must(r.authorize(ec2.Egress, tcp(22, 22, "203.0.113.0/24"))) // a rule of the other direction is not equal
	good := tcp(80, 80, "0.0.0.0/0")
	for _, c := range []struct {
		bad     RuleSpec
		code    string
		message string
	}{
		{good, "InvalidParameterValue", "The same permission must not appear multiple times"},
		{tcp(22, 22, "203.0.113.0/24"), "InvalidPermission.Duplicate", `the specified rule "peer: 203.0.113.0/24, TCP, from port: 22, to port: 22, ALLOW" already exists`},
		{tcp(90, 80, "10.0.0.0/8"), "InvalidParameterValue", "Invalid TCP/UDP port range (90:80)"},
		{tcp(0, 65536, "10.0.0.0/8"), "InvalidParameterValue", "TCP/UDP (to) port (65536) out of range"},
		{tcp(-2, 80, "10.0.0.0/8"), "InvalidParameterValue", "TCP/UDP (from) port (-2) out of range"},
		{tcp(-1, -1, "10.0.0.0/8"), "InvalidParameterValue", "TCP/UDP (from) port (-1) out of range"},
		{RuleSpec{Protocol: ec2.ICMP, From: 8, To: 256, Prefix: allIPv4}, "InvalidParameterValue", "ICMP code (256) out of range"},
		{RuleSpec{Protocol: ec2.ICMP, From: 256, To: 0, Prefix: allIPv4}, "InvalidParameterValue", "ICMP type (256) out of range"},
		{RuleSpec{Protocol: ec2.ICMP, From: -1, To: 0, Prefix: allIPv4}, "InvalidParameterValue", "ICMP type (-1) must go with code (-1), not (0)"},
		{RuleSpec{Protocol: ec2.ICMPv6, From: -1, To: 0, Prefix: allIPv4}, "InvalidParameterValue", "ICMP type (-1) must go with code (-1), not (0)"},
		{RuleSpec{Protocol: 256, Prefix: allIPv4}, "InvalidParameterValue", "Invalid value '256' for IP protocol. Unknown protocol."},
		{RuleSpec{Protocol: -2, Prefix: allIPv4}, "InvalidParameterValue", "Invalid value '-2' for IP protocol. Unknown protocol."},
		{RuleSpec{Protocol: ec2.TCP, From: 1, To: 1}, "InvalidParameterValue", "a rule has exactly one source, a CIDR block, a group or a prefix list"},
		{RuleSpec{Protocol: ec2.TCP, From: 1, To: 1, Prefix: cidr("::/0")}, "UnsupportedOperation", "IPv6 is not served: no rule can have the CIDR block ::/0"},
		{RuleSpec{Protocol: ec2.ICMPv6, From: 128, To: 0, Prefix: allIPv4}, "UnsupportedOperation", "IPv6 is not served: no rule can have the ICMPv6 type 128"},
		{RuleSpec{Protocol: ec2.TCP, From: 1, To: 1, Prefix: allIPv4, Description: "Let's"}, "InvalidParameterValue", "Invalid rule description. Valid descriptions are strings less than 256 characters from the following set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"},
	} {
		r.refusedWith(r.authorize(ec2.Ingress, good, c.bad), c.code, c.message)
		r.refusedWith(r.authorize(ec2.Ingress, c.bad, good), c.code, c.message)
	}
	r.want(ec2.Ingress, "tcp 22-22 203.0.113.0/24")
	r.want(ec2.Egress, "-1 0.0.0.0/0, tcp 22-22 203.0.113.0/24")
	r.refused(r.authorize(ec2.Ingress), "MissingParameter")
	r.refused(r.revoke(ec2.Ingress), "MissingParameter")
}

func TestPortsOfProtocolWithoutPortsAreIgnored(t *testing.T) {
	r := newRuleWorld(t)
	all := func(p ec2.Protocol, from, to int) RuleSpec {
		return RuleSpec{Protocol: p, From: from, To: to, Prefix: cidr("10.1.2.3/8")}
	}
	r.must(r.authorize(ec2.Ingress, all(ec2.AnyProtocol, 0, 0), all(50, 80, 80), all(0, 1, 2), all(255, -5, 70000), all(ec2.ICMPv6, -1, -1), all(ec2.ICMP, 3, -1)))
	r.want(ec2.Ingress, "-1 10.0.0.0/8, 50 10.0.0.0/8, 0 10.0.0.0/8, 255 10.0.0.0/8, icmpv6 -1--1 10.0.0.0/8, icmp 3--1 10.0.0.0/8")
	r.refusedWith(r.authorize(ec2.Ingress, all(ec2.AnyProtocol, -1, -1)), "InvalidPermission.Duplicate", `the specified rule "peer: 10.0.0.0/8, ALL, ALLOW" already exists`)
	r.refusedWith(r.authorize(ec2.Ingress, all(50, -1, -1)), "InvalidPermission.Duplicate", `the specified rule "peer: 10.0.0.0/8, protocol: 50, ALLOW" already exists`)
	r.refusedWith(r.authorize(ec2.Ingress, all(ec2.ICMP, 3, -1)), "InvalidPermission.Duplicate", `the specified rule "peer: 10.0.0.0/8, ICMP, type: 3, code: ALL, ALLOW" already exists`)
	r.must(r.revoke(ec2.Ingress, all(ec2.AnyProtocol, -1, 17), all(50, 9, 9)))
	r.want(ec2.Ingress, "0 10.0.0.0/8, 255 10.0.0.0/8, icmpv6 -1--1 10.0.0.0/8, icmp 3--1 10.0.0.0/8")
}

func TestRuleSourceIsAGroupOfTheSameVPC(t *testing.T) {
	r := newRuleWorld(t)
	defaultVPC := r.defaultVPC()
	db := r.groupIn(dev, r.vpc, "db")
	inDefault, alberts := r.groupIn(dev, "", "inDefault"), r.groupIn(albert, r.vpcOf(albert, "10.0.0.0/16"), "alberts")
	classic := r.groupIn(albert, "", "classic")
	from := func(ref ec2.GroupRef) RuleSpec { return RuleSpec{Protocol: ec2.AnyProtocol, Group: ref} }
	added := r.must(r.authorize(ec2.Ingress, from(ec2.GroupRef{ID: db.ID}), from(ec2.GroupRef{ID: r.group.ID, Account: dev}))).Rules
	for _, rule := range added { // the account is added, the name is dropped
		if rule.Source.Group.Account != dev || rule.Source.Group.Name != "" {
			t.Errorf("the source is stored as %+v, want account %s and no name", rule.Source.Group, dev)
		}
	}
	const different = "You have specified two resources that belong to different networks."
	for _, c := range []struct {
		what    string
		ref     ec2.GroupRef
		code    string
		message string
	}{
		{"another VPC's", ec2.GroupRef{ID: inDefault.ID}, "InvalidGroup.NotFound", different},
		{"another account's VPC's", ec2.GroupRef{ID: alberts.ID, Account: albert}, "InvalidGroup.NotFound", different},
		{"by the name of another VPC's", ec2.GroupRef{Name: "inDefault"}, "InvalidGroup.NotFound", different},
		{"Classic", ec2.GroupRef{ID: classic.ID, Account: albert}, "InvalidParameterValue", "You may not define rules between a VPC group and a non-VPC group"},
		{"Classic by name", ec2.GroupRef{Name: "classic", Account: albert}, "InvalidParameterValue", "You may not define rules between a VPC group and a non-VPC group"},
		{"by a name that only this VPC has", ec2.GroupRef{Name: "db"}, "InvalidGroup.NotFound", "The security group 'db' does not exist in default VPC '" + string(defaultVPC.ID) + "'"},
		{"with the wrong account", ec2.GroupRef{ID: db.ID, Account: albert}, "InvalidGroup.NotFound", "The security group '" + string(db.ID) + "' does not exist"},
		{"unknown", ec2.GroupRef{ID: "sg-123abc"}, "InvalidGroup.NotFound", "The security group 'sg-123abc' does not exist"},
		{"malformed", ec2.GroupRef{ID: "sg-bastion123"}, "InvalidGroupId.Malformed", `Invalid id: "sg-bastion123" (expecting "sg-...")`},
		{"both", ec2.GroupRef{ID: db.ID, Name: "db"}, "InvalidParameterCombination", "The parameters GroupName and GroupId cannot be used together"},
		{"an account alone", ec2.GroupRef{Account: dev}, "MissingParameter", "The request must contain the parameter groupName or groupId"},
	} {
		r.refusedWith(r.authorize(ec2.Ingress, from(c.ref)), c.code, c.message)
	}
	r.want(ec2.Ingress, fmt.Sprintf("-1 %s, -1 %s", db.ID, r.group.ID))

	// In the default VPC a rule can name its source by name. EC2-Classic accepts no group of a VPC.
	r.must(&AuthorizeRules{Account: dev, Region: east, Group: GroupSelector{Name: "inDefault"}, Rules: []RuleSpec{from(ec2.GroupRef{Name: "Default"})}})
	if got, want := r.rulesOf(inDefault.ID, ec2.Ingress), "-1 "+string(defaultVPC.Group); got != want {
		t.Errorf("group inDefault has %q, want %q", got, want)
	}
	r.refused(&AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{Name: "classic"}, Rules: []RuleSpec{{Protocol: ec2.TCP, From: 1, To: 1, Group: ec2.GroupRef{ID: alberts.ID}}}}, "InvalidParameterValue")
}

func TestClassicHasNoEgressRulesAndThreeProtocols(t *testing.T) {
	r := newVPCReplay(t)
	g := GroupSelector{ID: r.groupIn(albert, "", "web").ID}
	any := []RuleSpec{tcp(1, 1, "0.0.0.0/0")}
	for _, req := range []Request{
		&AuthorizeRules{Account: albert, Region: east, Group: g, Direction: ec2.Egress, Rules: any},
		&RevokeRules{Account: albert, Region: east, Group: g, Direction: ec2.Egress, Rules: any},
		&UpdateRuleDescriptions{Account: albert, Region: east, Group: g, Direction: ec2.Egress, Rules: any},
	} {
		r.refusedWith(req, "InvalidParameterValue", "Only Amazon VPC security groups may be used with this operation.")
	}
	for _, p := range []ec2.Protocol{ec2.AnyProtocol, 50, ec2.ICMPv6} {
		r.refused(&AuthorizeRules{Account: albert, Region: east, Group: g, Rules: []RuleSpec{{Protocol: p, From: -1, To: -1, Prefix: allIPv4}}}, "InvalidParameterValue")
	}
}

func TestVPCRulesAreRevokedByAttributesOrByID(t *testing.T) {
	r := newRuleWorld(t)
	const missing = "The specified rule does not exist in this security group."
	rules := r.must(r.authorize(ec2.Ingress, tcp(22, 22, "203.0.113.0/24"), tcp(22, 22, "198.51.100.0/24"), tcp(80, 80, "0.0.0.0/0"))).Rules
	out := r.must(r.authorize(ec2.Egress, tcp(443, 443, "0.0.0.0/0"))).Rules[0]

	described := tcp(22, 22, "203.0.113.77/24")
	described.Description = "a description does not identify a rule"
	if revoked := r.must(r.revoke(ec2.Ingress, described)).Rules; len(revoked) != 1 || revoked[0].ID != rules[0].ID {
		t.Errorf("revoked %+v, want only the rule of that source", revoked)
	}
	r.want(ec2.Ingress, "tcp 22-22 198.51.100.0/24, tcp 80-80 0.0.0.0/0")
	for _, unknown := range []RuleSpec{
		tcp(22, 22, "203.0.113.0/24"), tcp(22, 23, "198.51.100.0/24"), tcp(22, 22, "198.51.100.0/25"), tcp(443, 443, "0.0.0.0/0"),
		{Protocol: ec2.AnyProtocol, Prefix: cidr("::/0")}, // Terraform sends this for every new group
		{Protocol: ec2.AnyProtocol, Group: ec2.GroupRef{ID: r.group.ID}},
	} {
		r.refusedWith(r.revoke(ec2.Ingress, tcp(80, 80, "0.0.0.0/0"), unknown), "InvalidPermission.NotFound", missing)
	}
	r.refusedWith(r.revoke(ec2.Egress, RuleSpec{Protocol: ec2.AnyProtocol, Prefix: cidr("::/0")}), "InvalidPermission.NotFound", missing)
	r.refused(r.revoke(ec2.Ingress, tcp(80, 80, "0.0.0.0/0"), tcp(80, 80, "10.0.0.0/0")), "InvalidParameterValue") // the same rule twice

	r.refusedWith(r.revokeIDs(ec2.Ingress, rules[1].ID, rules[0].ID), "InvalidSecurityGroupRuleId.NotFound", fmt.Sprintf("The security group rule ID '%s' does not exist", rules[0].ID))
	r.refused(r.revokeIDs(ec2.Ingress, out.ID), "InvalidSecurityGroupRuleId.NotFound") // of the other direction
	r.refused(r.revokeIDs(ec2.Ingress, "sgr-xyz"), "InvalidSecurityGroupRuleId.Malformed")
	both := r.revokeIDs(ec2.Ingress, rules[1].ID)
	both.Rules = []RuleSpec{tcp(80, 80, "0.0.0.0/0")}
	r.refused(both, "InvalidParameterCombination")
	r.must(r.revokeIDs(ec2.Ingress, rules[1].ID, rules[2].ID))
	r.must(r.revokeIDs(ec2.Egress, out.ID))
	r.want(ec2.Ingress, "")
	r.must(r.revoke(ec2.Egress, RuleSpec{Protocol: ec2.AnyProtocol, Prefix: allIPv4}))
	r.want(ec2.Egress, "")
}

// In EC2-Classic and in a default VPC, rules that the group does not have are no error (EC2 API
// Reference, "RevokeSecurityGroupIngress").
func TestRevokeOfUnknownRulesSucceedsInDefaultVPC(t *testing.T) {
	r := newVPCReplay(t)
	for account, name := range map[ec2.AccountID]string{dev: "in a default VPC", albert: "in Classic"} {
		g := GroupSelector{ID: r.groupIn(account, "", "web").ID}
		r.must(&AuthorizeRules{Account: account, Region: east, Group: g, Rules: []RuleSpec{tcp(22, 22, "10.0.0.0/8")}})
		got := r.must(&RevokeRules{Account: account, Region: east, Group: g, Rules: []RuleSpec{tcp(80, 80, "10.0.0.0/8"), tcp(22, 22, "10.0.0.0/8")}})
		if len(got.Rules) != 1 || len(got.Unknown) != 1 || got.Unknown[0].From != 80 {
			t.Errorf("%s: revoked %d rules, unknown are %+v; want one each", name, len(got.Rules), got.Unknown)
		}
	}
	g := GroupSelector{Name: "web"}
	if got := r.must(&RevokeRules{Account: dev, Region: east, Group: g, Direction: ec2.Egress, Rules: []RuleSpec{{Protocol: ec2.AnyProtocol, Prefix: cidr("::/0")}}}); len(got.Unknown) != 1 {
		t.Errorf("unknown rules are %+v, want one", got.Unknown)
	}
}

// A rule can name a deleted group of another account. The owner of the rule must be able to revoke
// it.
func TestRuleThatNamesDeletedGroupIsRevoked(t *testing.T) {
	r := newReplay(t)
	r.groupIn(albert, "", "web")
	for _, ref := range []func(*ec2.Group) ec2.GroupRef{
		func(g *ec2.Group) ec2.GroupRef { return ec2.GroupRef{Account: mary, ID: g.ID} },
		func(g *ec2.Group) ec2.GroupRef { return ec2.GroupRef{Account: mary, Name: g.Name} },
	} {
		hers := r.groupIn(mary, "", "hers")
		spec := RuleSpec{Protocol: ec2.TCP, From: 1, To: 1, Group: ref(hers)}
		change := &AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{Name: "web"}, Rules: []RuleSpec{spec}}
		r.must(change)
		r.must(&DeleteSecurityGroup{Account: mary, Region: east, Group: GroupSelector{Name: "hers"}})
		r.refused(change, "InvalidGroup.NotFound")
		if got := r.must(&RevokeRules{Account: albert, Region: east, Group: GroupSelector{Name: "web"}, Rules: []RuleSpec{spec}}); len(got.Rules) != 1 {
			t.Errorf("rule %+v: revoked %+v with %+v unknown, want it revoked", spec, got.Rules, got.Unknown)
		}
	}
}

func TestRulesAreCountedByDirection(t *testing.T) {
	r := newRuleWorld(t)
	var specs []RuleSpec
	for n := range 61 {
		specs = append(specs, tcp(n, n, "0.0.0.0/0"))
	}
	const full = "The maximum number of rules per security group has been reached."
	r.refusedWith(r.authorize(ec2.Ingress, specs...), "RulesPerSecurityGroupLimitExceeded", full)
	r.must(r.authorize(ec2.Ingress, specs[:60]...))
	r.refusedWith(r.authorize(ec2.Ingress, specs[60]), "RulesPerSecurityGroupLimitExceeded", full)
	r.refusedWith(r.authorize(ec2.Ingress, specs[0]), "InvalidPermission.Duplicate", `the specified rule "peer: 0.0.0.0/0, TCP, from port: 0, to port: 0, ALLOW" already exists`)
	r.must(r.authorize(ec2.Egress, specs[:59]...)) // and the rule that a new group has
	r.refused(r.authorize(ec2.Egress, specs[60]), "RulesPerSecurityGroupLimitExceeded")
	era, _ := ec2.Preset("vpc-2012")
	r.must(&putSettings{era})
	r.must(r.revoke(ec2.Ingress, specs[:11]...))
	r.must(r.authorize(ec2.Ingress, specs[0]))
	r.refused(r.authorize(ec2.Ingress, specs[1]), "RulesPerSecurityGroupLimitExceeded")
}

func TestTenThousandRulesInOneCallAreRefused(t *testing.T) {
	r := newRuleWorld(t)
	var specs []RuleSpec
	for n := range 10_000 {
		specs = append(specs, tcp(n, n, "0.0.0.0/0"))
	}
	r.refused(r.authorize(ec2.Ingress, specs...), "RulesPerSecurityGroupLimitExceeded")
	r.refused(r.authorize(ec2.Ingress, append(specs, specs[0])...), "InvalidParameterValue")
	r.refused(r.revoke(ec2.Ingress, specs...), "InvalidPermission.NotFound")
	r.want(ec2.Ingress, "")
}

func TestTagsAreDeletedWithTheirRuleAndGroup(t *testing.T) {
	r := newRuleWorld(t)
	add := r.authorize(ec2.Ingress, tcp(1, 1, "0.0.0.0/0"), tcp(2, 2, "0.0.0.0/0"))
	add.Tags = map[string]string{"Name": "x"}
	rules := r.must(add).Rules
	for _, rule := range rules {
		if got := r.tags(string(rule.ID)); got != "Name=x" {
			t.Errorf("rule %s has tags %q, want Name=x", rule.ID, got)
		}
	}
	made := r.must(&CreateSecurityGroup{Account: dev, Region: east, Name: "tagged", Description: "x", VPC: r.vpc, Tags: map[string]string{"a": "b"}}).Group
	r.must(&CreateTags{dev, east, []string{string(made.ID), string(made.Rules[0].ID)}, map[string]string{"c": "d"}})
	if got := r.tags(string(made.ID)); got != "a=b c=d" {
		t.Errorf("the group has tags %q, want a=b c=d", got)
	}
	r.must(r.revokeIDs(ec2.Ingress, rules[0].ID))
	r.must(&DeleteSecurityGroup{Account: dev, Region: east, Group: GroupSelector{ID: made.ID}})
	var left []string
	for tag := range r.state.View().TagsOf(dev, east) {
		left = append(left, tag.Resource)
	}
	if !slices.Equal(left, []string{string(rules[1].ID)}) {
		t.Errorf("resources %s have tags, want only the remaining rule", strings.Join(left, " "))
	}
	tooMany := r.authorize(ec2.Ingress, tcp(3, 3, "0.0.0.0/0"))
	tooMany.Tags = map[string]string{}
	for n := range maxTags + 1 {
		tooMany.Tags[fmt.Sprint(n)] = ""
	}
	r.refused(tooMany, "TagLimitExceeded")
}
