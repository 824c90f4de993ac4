package state

import (
	"fmt"
	"testing"

	"palisade/ec2"
)

func (r *ruleWorld) modify(changes ...RuleChange) *ModifyRules {
	return &ModifyRules{Account: dev, Region: east, Group: r.group.ID, Rules: changes}
}

func (r *ruleWorld) rule(id ec2.RuleID) ec2.Rule {
	r.t.Helper()
	_, rule, ok := r.state.View().Rule(id)
	if !ok {
		r.t.Fatalf("rule %s does not exist", id)
	}
	return *rule
}

func TestModifiedRuleKeepsItsIDAndGetsANewSerial(t *testing.T) {
	r := newRuleWorld(t)
	db := r.groupIn(dev, r.vpc, "db")
	rules := r.must(r.authorize(ec2.Ingress, tcp(22, 22, "203.0.113.0/24"), tcp(80, 80, "0.0.0.0/0"), RuleSpec{Protocol: ec2.AnyProtocol, Group: ec2.GroupRef{ID: db.ID}})).Rules
	r.must(&CreateTags{dev, east, []string{string(rules[0].ID)}, map[string]string{"Name": "ssh"}})

	narrower := tcp(22, 22, "203.0.113.25/32")
	narrower.Description = "one laptop"
	described := tcp(80, 80, "0.0.0.0/0")
	described.Description = "everybody"
	r.must(r.modify(RuleChange{rules[1].ID, described}, RuleChange{rules[0].ID, narrower}, RuleChange{rules[2].ID, RuleSpec{Protocol: 50, Group: ec2.GroupRef{ID: r.group.ID}}}))
	r.want(ec2.Ingress, fmt.Sprintf("tcp 22-22 203.0.113.25/32, tcp 80-80 0.0.0.0/0, 50 %s", r.group.ID))
	if got := r.rule(rules[0].ID); got.Serial <= rules[2].Serial || got.Description != "one laptop" || r.tags(string(got.ID)) != "Name=ssh" {
		t.Errorf("the narrower rule is %+v with tags %q, was %+v; want a new serial, the new description and the tag Name=ssh", got, r.tags(string(got.ID)), rules[0])
	}
	if got := r.rule(rules[1].ID); got.Serial != rules[1].Serial || got.Description != "everybody" {
		t.Errorf("a rule with a new description only is %+v, was %+v; want the same serial", got, rules[1])
	}
	// A change without a description removes it.
	r.must(r.modify(RuleChange{rules[1].ID, tcp(80, 80, "0.0.0.0/0")}))
	if got := r.rule(rules[1].ID); got.Description != "" || got.Serial != rules[1].Serial {
		t.Errorf("the rule is %+v, want no description and the same serial", got)
	}
	// Two rules can be swapped.
	r.must(r.modify(RuleChange{rules[0].ID, described}, RuleChange{rules[1].ID, narrower}))
	r.want(ec2.Ingress, fmt.Sprintf("tcp 80-80 0.0.0.0/0, tcp 22-22 203.0.113.25/32, 50 %s", r.group.ID))
	// An egress rule stays an egress rule.
	out, _ := r.state.View().Group(r.group.ID)
	r.must(r.modify(RuleChange{out.Rules[0].ID, tcp(443, 443, "0.0.0.0/0")}))
	r.want(ec2.Egress, "tcp 443-443 0.0.0.0/0")
}

func TestModifyRulesIsAllOrNothing(t *testing.T) {
	r := newRuleWorld(t)
	db := r.groupIn(dev, r.vpc, "db")
	ofDB := r.must(&AuthorizeRules{Account: dev, Region: east, Group: GroupSelector{ID: db.ID}, Rules: []RuleSpec{tcp(1, 1, "0.0.0.0/0")}}).Rules[0]
	rules := r.must(r.authorize(ec2.Ingress, tcp(22, 22, "203.0.113.0/24"), tcp(80, 80, "0.0.0.0/0"), RuleSpec{Protocol: ec2.AnyProtocol, Group: ec2.GroupRef{ID: db.ID}})).Rules
	good := RuleChange{rules[0].ID, tcp(23, 23, "203.0.113.0/24")}
	byGroup := RuleSpec{Protocol: ec2.TCP, From: 1, To: 1, Group: ec2.GroupRef{ID: db.ID}}
	kind := "Invalid rule type for security group rule '%s'. You may not specify %s for an existing %s rule."
	for _, c := range []struct {
		bad     RuleChange
		code    string
		message string
	}{
		{RuleChange{"sgr-00000000000000000", tcp(1, 1, "0.0.0.0/0")}, "InvalidSecurityGroupRuleId.NotFound", "The security group rule ID 'sgr-00000000000000000' does not exist"},
		{RuleChange{ofDB.ID, tcp(1, 2, "0.0.0.0/0")}, "InvalidSecurityGroupRuleId.NotFound", fmt.Sprintf("The security group rule ID '%s' does not exist", ofDB.ID)},
		{RuleChange{"sgr-", tcp(1, 1, "0.0.0.0/0")}, "InvalidSecurityGroupRuleId.Malformed", "The security group rule ID 'sgr-' is malformed"},
		{RuleChange{good.ID, tcp(1, 1, "0.0.0.0/0")}, "InvalidParameterValue", fmt.Sprintf("The security group rule ID '%s' must not appear multiple times", good.ID)},
		{RuleChange{rules[1].ID, tcp(2, 1, "0.0.0.0/0")}, "InvalidParameterValue", "Invalid TCP/UDP port range (2:1)"},
		{RuleChange{rules[1].ID, good.Rule}, "InvalidPermission.Duplicate", `the specified rule "peer: 203.0.113.0/24, TCP, from port: 23, to port: 23, ALLOW" already exists`},
		{RuleChange{rules[1].ID, byGroup}, "InvalidParameterValue", fmt.Sprintf(kind, rules[1].ID, "ReferencedGroupId", "IPv4 CIDR")},
		{RuleChange{rules[1].ID, tcp(1, 1, "2001:db8::/32")}, "InvalidParameterValue", fmt.Sprintf(kind, rules[1].ID, "CidrIpv6", "IPv4 CIDR")},
		{RuleChange{rules[2].ID, tcp(1, 1, "0.0.0.0/0")}, "InvalidParameterValue", fmt.Sprintf(kind, rules[2].ID, "CidrIpv4", "security group")},
		{RuleChange{rules[2].ID, tcp(1, 1, "::/0")}, "InvalidParameterValue", fmt.Sprintf(kind, rules[2].ID, "CidrIpv6", "security group")},
	} {
		r.refusedWith(r.modify(good, c.bad), c.code, c.message)
	}
	r.refused(r.modify(), "MissingParameter")
	r.refused(&ModifyRules{Account: albert, Region: east, Group: r.group.ID, Rules: []RuleChange{good}}, "InvalidGroup.NotFound")
}

func TestRuleDescriptionsChangeWithoutNewSerial(t *testing.T) {
	r := newRuleWorld(t)
	rules := r.must(r.authorize(ec2.Ingress, tcp(22, 22, "203.0.113.0/24"), tcp(80, 80, "0.0.0.0/0"))).Rules
	update := func(direction ec2.Direction, specs []RuleSpec, byID ...RuleDescription) *UpdateRuleDescriptions {
		return &UpdateRuleDescriptions{Account: dev, Region: east, Group: GroupSelector{ID: r.group.ID}, Direction: direction, Rules: specs, ByID: byID}
	}
	described := tcp(22, 22, "203.0.113.9/24")
	described.Description = "the office"
	r.must(update(ec2.Ingress, []RuleSpec{described}))
	r.must(update(ec2.Ingress, nil, RuleDescription{rules[1].ID, "everybody"}))
	for i, want := range []string{"the office", "everybody"} {
		if got := r.rule(rules[i].ID); got.Description != want || got.Serial != rules[i].Serial {
			t.Errorf("rule %d is %+v, want %q and the same serial", i, got, want)
		}
	}
	r.must(update(ec2.Ingress, []RuleSpec{tcp(22, 22, "203.0.113.0/24")})) // no description: it is removed
	if got := r.rule(rules[0].ID).Description; got != "" {
		t.Errorf("the rule still has the description %q, want none", got)
	}
	r.refused(update(ec2.Ingress, nil), "MissingParameter")
	r.refused(update(ec2.Ingress, []RuleSpec{described}, RuleDescription{rules[1].ID, "x"}), "InvalidParameterCombination")
	r.refused(update(ec2.Ingress, []RuleSpec{described, tcp(23, 23, "203.0.113.0/24")}), "InvalidPermission.NotFound")
	r.refused(update(ec2.Egress, []RuleSpec{described}), "InvalidPermission.NotFound")
	r.refused(update(ec2.Egress, nil, RuleDescription{rules[1].ID, "x"}), "InvalidSecurityGroupRuleId.NotFound")
	r.refused(update(ec2.Ingress, nil, RuleDescription{rules[0].ID, "x"}, RuleDescription{rules[1].ID, "a'b"}), "InvalidParameterValue")
	r.refused(update(ec2.Ingress, nil, RuleDescription{"x", "x"}), "InvalidSecurityGroupRuleId.Malformed")
}
