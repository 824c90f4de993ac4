package state

import (
	"net/netip"

	"palisade/ec2"
)

// groupSamples returns one request of each type of groupRequests, with all fields set.
func groupSamples() []Request {
	sel := GroupSelector{ID: "sg-0a1b2c3d4e5f60718"}
	const id = ec2.RuleID("sgr-0a1b2c3d4e5f60718")
	specs := []RuleSpec{
		{Protocol: 50, From: -1, To: -1, Prefix: netip.MustParsePrefix("203.0.113.0/24"), Description: "the office"},
		{Protocol: ec2.TCP, From: 22, To: 23, Group: ec2.GroupRef{Account: albert, ID: "sg-0b1b2c3d4e5f60718"}},
	}
	return []Request{
		&AuthorizeRules{albert, east, sel, ec2.Egress, specs, map[string]string{"Name": "office"}, false},
		&RevokeRules{albert, east, sel, ec2.Egress, specs, []ec2.RuleID{id}},
		&ModifyRules{Account: albert, Region: east, Group: sel.ID, Rules: []RuleChange{{id, specs[0]}}},
		&UpdateRuleDescriptions{albert, east, sel, ec2.Egress, specs, []RuleDescription{{id, "the office"}}},
	}
}

// laterGroups returns requests with fields that the first release did not have.
func laterGroups() map[string]Request {
	sel := GroupSelector{ID: "sg-0a1b2c3d4e5f60718"}
	spec := RuleSpec{Protocol: ec2.ICMPv6, From: 128, To: 0, Prefix: netip.MustParsePrefix("2001:db8::/32")}
	return map[string]Request{
		"AuthorizeRules-ipv6": &AuthorizeRules{Account: albert, Region: east, Group: sel, Rules: []RuleSpec{spec}, IPv6: true},
		"ModifyRules-ipv6":    &ModifyRules{Account: albert, Region: east, Group: sel.ID, Rules: []RuleChange{{"sgr-0a1b2c3d4e5f60718", spec}}, IPv6: true},
	}
}
