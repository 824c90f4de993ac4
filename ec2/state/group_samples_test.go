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
		&AuthorizeRules{albert, east, sel, ec2.Egress, specs, map[string]string{"Name": "office"}},
		&RevokeRules{albert, east, sel, ec2.Egress, specs, []ec2.RuleID{id}},
		&ModifyRules{albert, east, sel.ID, []RuleChange{{id, specs[0]}}},
		&UpdateRuleDescriptions{albert, east, sel, ec2.Egress, specs, []RuleDescription{{id, "the office"}}},
	}
}
