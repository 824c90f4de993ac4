package query

import (
	"palisade/ec2"
	"palisade/ec2/state"
)

// ruleActions manage the rules of groups.
var ruleActions = map[string]handler{
	"AuthorizeSecurityGroupIngress": action(authorizeIngress),
	"AuthorizeSecurityGroupEgress":  action(authorizeEgress),
	"RevokeSecurityGroupIngress":    action(revokeIngress),
	"RevokeSecurityGroupEgress":     action(revokeEgress),

	"ModifySecurityGroupRules":                   action(modifyRules),
	"UpdateSecurityGroupRuleDescriptionsIngress": action(updateIngressDescriptions),
	"UpdateSecurityGroupRuleDescriptionsEgress":  action(updateEgressDescriptions),
	"DescribeSecurityGroupRules":                 action(describeRules),
}

type authorizeRequest struct {
	groupSelector
	Permissions []permissionParam  `wire:"IpPermissions"`
	Tags        []tagSpecification `wire:"TagSpecification"`
}

type authorizeAnswer struct {
	returned
	Rules []ruleItem `wire:"securityGroupRuleSet"`
}

type authorizeIngressRequest struct {
	authorizeRequest
	oneRule
}

func authorizeIngress(c *call, r *authorizeIngressRequest) (_ *authorizeAnswer, err error) {
	if r.Permissions, err = r.with(r.Permissions); err != nil {
		return nil, err
	}
	return c.authorize(&r.authorizeRequest, ec2.Ingress)
}

func authorizeEgress(c *call, r *authorizeRequest) (*authorizeAnswer, error) {
	return c.authorize(r, ec2.Egress)
}

func (c *call) authorize(r *authorizeRequest, direction ec2.Direction) (*authorizeAnswer, error) {
	g, specs, err := c.rulesOf(r.groupSelector, r.Permissions, direction)
	if err != nil {
		return nil, err
	}
	tags, err := tagsFor(r.Tags, "security-group-rule")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.AuthorizeRules{
		Account:   c.account,
		Region:    c.region,
		Group:     state.GroupSelector{ID: g.ID},
		Direction: direction,
		Rules:     specs,
		Tags:      tags,
		IPv6:      true,
	})
	if err != nil {
		return nil, err
	}
	answer := &authorizeAnswer{returned: done}
	for i := range result.Rules {
		item := newRuleItem(result.Group, &result.Rules[i])
		item.Tags = c.tags(string(item.ID))
		answer.Rules = append(answer.Rules, item)
	}
	return answer, nil
}

// rulesOf returns the group that a request names and the rules that its permissions
// describe. A request for egress rules must name the group by id (EC2 API Reference,
// "AuthorizeSecurityGroupEgress").
func (c *call) rulesOf(s groupSelector, permissions []permissionParam, direction ec2.Direction) (*ec2.Group, []state.RuleSpec, error) {
	named, err := c.selector(s)
	if err != nil {
		return nil, nil, err
	}
	g, err := c.view.FindGroup(c.account, c.region, named)
	if err != nil {
		return nil, nil, err
	}
	if err := g.CheckDirection(direction); err != nil {
		return nil, nil, err
	}
	if direction == ec2.Egress && s.GroupID == "" {
		return nil, nil, ec2.Missing("groupId")
	}
	specs, err := c.specsOf(permissions, g)
	return g, specs, err
}

type revokeRequest struct {
	groupSelector
	Permissions []permissionParam `wire:"IpPermissions"`
	RuleIDs     []ec2.RuleID      `wire:"SecurityGroupRuleId"`
}

type revokeAnswer struct {
	returned
	Unknown []permission  `wire:"unknownIpPermissionSet"`
	Revoked []revokedItem `wire:"revokedSecurityGroupRuleSet"`
}

type revokeIngressRequest struct {
	revokeRequest
	oneRule
}

func revokeIngress(c *call, r *revokeIngressRequest) (_ *revokeAnswer, err error) {
	if r.Permissions, err = r.with(r.Permissions); err != nil {
		return nil, err
	}
	return c.revoke(&r.revokeRequest, ec2.Ingress)
}

func revokeEgress(c *call, r *revokeRequest) (*revokeAnswer, error) {
	return c.revoke(r, ec2.Egress)
}

func (c *call) revoke(r *revokeRequest, direction ec2.Direction) (*revokeAnswer, error) {
	g, specs, err := c.rulesOf(r.groupSelector, r.Permissions, direction)
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.RevokeRules{
		Account:   c.account,
		Region:    c.region,
		Group:     state.GroupSelector{ID: g.ID},
		Direction: direction,
		Rules:     specs,
		IDs:       r.RuleIDs,
	})
	if err != nil {
		return nil, err
	}
	answer := &revokeAnswer{returned: done}
	var unknown []ec2.Rule
	for _, s := range result.Unknown {
		unknown = append(unknown, ec2.Rule{Protocol: s.Protocol, From: s.From, To: s.To, Source: ec2.Source{Prefix: s.Prefix, Group: s.Group, PrefixList: s.PrefixList}})
	}
	answer.Unknown = permissionsOf(unknown, ec2.Ingress)
	for i := range result.Rules {
		answer.Revoked = append(answer.Revoked, newRevokedItem(result.Group, &result.Rules[i]))
	}
	return answer, nil
}

// A revokedItem is a rule in the answer of Revoke. Unlike a ruleItem, it shows only the id
// of a referenced group.
type revokedItem struct {
	ID          ec2.RuleID       `wire:"securityGroupRuleId"`
	Group       ec2.GroupID      `wire:"groupId"`
	IsEgress    bool             `wire:"isEgress"`
	Protocol    string           `wire:"ipProtocol"`
	From        int              `wire:"fromPort"`
	To          int              `wire:"toPort"`
	CIDR        string           `wire:"cidrIpv4"`
	CIDR6       string           `wire:"cidrIpv6"`
	PrefixList  ec2.PrefixListID `wire:"prefixListId"`
	Referenced  ec2.GroupID      `wire:"referencedGroupId"`
	Description string           `wire:"description"`
}

func newRevokedItem(g *ec2.Group, r *ec2.Rule) revokedItem {
	return revokedItem{
		ID:          r.ID,
		Group:       g.ID,
		IsEgress:    r.Direction == ec2.Egress,
		Protocol:    r.Protocol.String(),
		From:        r.From,
		To:          r.To,
		CIDR:        cidrOf(r),
		CIDR6:       cidr6Of(r),
		PrefixList:  r.Source.PrefixList,
		Referenced:  r.Source.Group.ID,
		Description: r.Description,
	}
}

// cidrOf returns the IPv4 block of a rule, "" if its source is another one.
func cidrOf(r *ec2.Rule) string {
	if !r.Source.Prefix.IsValid() || r.Source.IsIPv6() {
		return ""
	}
	return r.Source.Prefix.String()
}

// cidr6Of returns the IPv6 block of a rule, "" if its source is another one.
func cidr6Of(r *ec2.Rule) string {
	if !r.Source.Prefix.IsValid() || !r.Source.IsIPv6() {
		return ""
	}
	return r.Source.Prefix.String()
}
