package query

import (
	"slices"

	"palisade/ec2"
	"palisade/ec2/state"
)

type modifyRulesRequest struct {
	GroupID ec2.GroupID       `wire:"GroupId"`
	Rules   []ruleUpdateParam `wire:"SecurityGroupRule"`
}

type ruleUpdateParam struct {
	ID   ec2.RuleID `wire:"SecurityGroupRuleId"`
	Rule ruleParam  `wire:"SecurityGroupRule"`
}

// A ruleParam is a rule with exactly one source.
type ruleParam struct {
	Protocol    string           `wire:"IpProtocol"`
	From        *int             `wire:"FromPort"`
	To          *int             `wire:"ToPort"`
	CIDR        string           `wire:"CidrIpv4"`
	CIDR6       string           `wire:"CidrIpv6"`
	PrefixList  ec2.PrefixListID `wire:"PrefixListId"`
	Group       ec2.GroupID      `wire:"ReferencedGroupId"`
	Description string           `wire:"Description"`
}

// modifyRules checks in AWS's order: the group, the ids of the rules, then each rule.
func modifyRules(c *call, r *modifyRulesRequest) (*returned, error) {
	if r.GroupID == "" {
		return nil, ec2.Missing("GroupId")
	}
	g, err := c.view.FindGroup(c.account, c.region, state.GroupSelector{ID: r.GroupID})
	if err != nil {
		return nil, err
	}
	for _, u := range r.Rules {
		if err := ec2.CheckRuleID(u.ID); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(g.Rules, func(rule ec2.Rule) bool { return rule.ID == u.ID }) {
			return nil, ec2.NoSuch("sgr", u.ID)
		}
	}
	request := &state.ModifyRules{Account: c.account, Region: c.region, Group: g.ID, IPv6: true}
	for _, u := range r.Rules {
		spec, err := u.Rule.spec()
		if err != nil {
			return nil, err
		}
		request.Rules = append(request.Rules, state.RuleChange{ID: u.ID, Rule: spec})
	}
	if _, err := c.apply(request); err != nil {
		return nil, err
	}
	return &done, nil
}

func (p *ruleParam) spec() (state.RuleSpec, error) {
	given := 0
	for _, source := range []string{p.CIDR, p.CIDR6, string(p.PrefixList), string(p.Group)} {
		if source != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return state.RuleSpec{}, ec2.Errorf("InvalidParameterCombination", "Only one of cidrIp, cidrIpv6, prefixListId, or referencedGroupId can be specified")
	case given == 0:
		return state.RuleSpec{}, ec2.Errorf("MissingParameter", "The request must contain exactly one of: cidrIp, cidrIpv6, prefixListId, or referencedGroupId")
	case p.Protocol == "":
		return state.RuleSpec{}, noProtocol()
	}
	spec, err := portsOf(p.Protocol, p.From, p.To)
	if err != nil {
		return state.RuleSpec{}, err
	}
	spec.Description = p.Description
	switch {
	case p.CIDR != "":
		spec.Prefix, err = ec2.ParseCIDR(p.CIDR)
	case p.CIDR6 != "":
		spec.Prefix, err = ec2.ParseCIDR6(p.CIDR6)
	case p.PrefixList != "":
		spec.PrefixList = p.PrefixList
	default:
		spec.Group.ID = p.Group
	}
	return spec, err
}

type updateDescriptionsRequest struct {
	groupSelector
	Permissions []permissionParam      `wire:"IpPermissions"`
	Rules       []ruleDescriptionParam `wire:"SecurityGroupRuleDescription"`
}

type ruleDescriptionParam struct {
	ID          ec2.RuleID `wire:"SecurityGroupRuleId"`
	Description string     `wire:"Description"`
}

func updateIngressDescriptions(c *call, r *updateDescriptionsRequest) (*returned, error) {
	return c.updateDescriptions(r, ec2.Ingress)
}

func updateEgressDescriptions(c *call, r *updateDescriptionsRequest) (*returned, error) {
	return c.updateDescriptions(r, ec2.Egress)
}

func (c *call) updateDescriptions(r *updateDescriptionsRequest, direction ec2.Direction) (*returned, error) {
	named, err := c.selector(r.groupSelector)
	if err != nil {
		return nil, err
	}
	g, err := c.view.FindGroup(c.account, c.region, named)
	if err != nil {
		return nil, err
	}
	for _, p := range r.Permissions {
		if err := p.checkNoPortsOfAll(); err != nil {
			return nil, err
		}
	}
	specs, err := c.specsOf(r.Permissions, g)
	if err != nil {
		return nil, err
	}
	request := &state.UpdateRuleDescriptions{Account: c.account, Region: c.region, Group: state.GroupSelector{ID: g.ID}, Direction: direction, Rules: specs}
	for _, d := range r.Rules {
		request.ByID = append(request.ByID, state.RuleDescription(d))
	}
	if _, err := c.apply(request); err != nil {
		return nil, err
	}
	return &done, nil
}

// checkNoPortsOfAll returns an error for ports with protocol -1. Authorize and Revoke
// ignore such ports.
func (p *permissionParam) checkNoPortsOfAll() error {
	if number, err := ec2.ParseProtocol(p.Protocol); err != nil || number != ec2.AnyProtocol {
		return nil // the method specs returns the error for a bad protocol
	}
	for _, end := range []struct {
		name string
		port *int
	}{{"from", p.From}, {"to", p.To}} {
		if end.port != nil {
			return ec2.Errorf("InvalidParameterValue", "When protocol is ALL, you cannot specify %s-port.", end.name)
		}
	}
	return nil
}
