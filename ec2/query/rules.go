package query

import (
	"fmt"

	"palisade/ec2"
)

// ruleActions are of the rules of groups.
var ruleActions = map[string]handler{
	"AuthorizeSecurityGroupIngress": action(authorizeIngress),
	"RevokeSecurityGroupIngress":    action(revokeIngress),
	"AuthorizeSecurityGroupEgress":  action(egress),
	"RevokeSecurityGroupEgress":     action(egress),
}

// changeRulesRequest is Authorize and Revoke, in the form of today and in that of one
// rule at top level, which is all that the API had at first.
type changeRulesRequest struct {
	groupSelector
	Permissions []permissionParam `wire:"IpPermissions"`
	RuleIDs     []string          `wire:"SecurityGroupRuleId"`

	Protocol    string        `wire:"IpProtocol"`
	From        *int          `wire:"FromPort"`
	To          *int          `wire:"ToPort"`
	CIDR        string        `wire:"CidrIp"`
	SourceName  string        `wire:"SourceSecurityGroupName"`
	SourceOwner ec2.AccountID `wire:"SourceSecurityGroupOwnerId"`
}

type permissionParam struct {
	Protocol    string       `wire:"IpProtocol"`
	From        *int         `wire:"FromPort"`
	To          *int         `wire:"ToPort"`
	Groups      []groupParam `wire:"Groups"`
	Ranges      []rangeParam `wire:"IpRanges"`
	Ranges6     []rangeParam `wire:"Ipv6Ranges"`
	PrefixLists []rangeParam `wire:"PrefixListIds"`
}

type groupParam struct {
	ID          ec2.GroupID   `wire:"GroupId"`
	Name        string        `wire:"GroupName"`
	Account     ec2.AccountID `wire:"UserId"`
	Description string        `wire:"Description"`
}

type rangeParam struct {
	CIDR        string `wire:"CidrIp"`
	Description string `wire:"Description"`
}

type authorizeAnswer struct {
	returned
	Rules []ruleItem `wire:"securityGroupRuleSet"`
}

func authorizeIngress(c *call, r *changeRulesRequest) (*authorizeAnswer, error) {
	specs, err := r.rules()
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&ec2.AuthorizeIngress{Account: c.account, Region: c.region, Group: r.domain(), Rules: specs})
	if err != nil {
		return nil, err
	}
	answer := &authorizeAnswer{returned: done}
	for _, rule := range result.Rules {
		answer.Rules = append(answer.Rules, newRuleItem(result.Group, rule))
	}
	return answer, nil
}

type revokeAnswer struct {
	returned
	Unknown []permission  `wire:"unknownIpPermissionSet"`
	Revoked []revokedItem `wire:"revokedSecurityGroupRuleSet"`
}

func revokeIngress(c *call, r *changeRulesRequest) (*revokeAnswer, error) {
	specs, err := r.rules()
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&ec2.RevokeIngress{Account: c.account, Region: c.region, Group: r.domain(), Rules: specs})
	if err != nil {
		return nil, err
	}
	answer := &revokeAnswer{returned: done}
	var unknown []ec2.Rule
	for _, s := range result.Unknown {
		unknown = append(unknown, ec2.Rule{Protocol: s.Protocol, From: s.From, To: s.To, Source: ec2.Source{Prefix: s.Prefix, Group: s.Group}})
	}
	answer.Unknown = permissionsOf(unknown, ec2.Ingress)
	for _, rule := range result.Rules {
		answer.Revoked = append(answer.Revoked, newRevokedItem(result.Group, rule))
	}
	return answer, nil
}

// egress refuses: nobody filters what an EC2-Classic instance sends.
func egress(*call, *struct{}) (*returned, error) {
	return nil, ec2.Errorf("InvalidParameterValue", "Only Amazon VPC security groups may be used with this operation.")
}

// rules makes one rule of each source of each permission. What it does not understand
// it refuses: a dropped condition would widen the rule.
func (r *changeRulesRequest) rules() ([]ec2.RuleSpec, error) {
	if len(r.RuleIDs) > 0 {
		return nil, ec2.Errorf("InvalidParameterCombination", "EC2-Classic rules are named by their properties, not by SecurityGroupRuleId")
	}
	permissions := r.Permissions
	if r.Protocol != "" || r.From != nil || r.To != nil || r.CIDR != "" || r.SourceName != "" || r.SourceOwner != "" {
		if len(permissions) > 0 {
			return nil, ec2.Errorf("InvalidParameterCombination", "The parameter 'ipPermissions' may not be used in combination with 'ipProtocol'")
		}
		one := permissionParam{Protocol: r.Protocol, From: r.From, To: r.To}
		if r.CIDR != "" {
			one.Ranges = []rangeParam{{CIDR: r.CIDR}}
		}
		if r.SourceName != "" || r.SourceOwner != "" {
			one.Groups = []groupParam{{Name: r.SourceName, Account: r.SourceOwner}}
		}
		permissions = []permissionParam{one}
	}
	var specs []ec2.RuleSpec
	for _, p := range permissions {
		list, err := p.rules()
		if err != nil {
			return nil, err
		}
		specs = append(specs, list...)
	}
	return specs, nil
}

func (p *permissionParam) rules() ([]ec2.RuleSpec, error) {
	if len(p.Ranges6) > 0 || len(p.PrefixLists) > 0 {
		return nil, ec2.Errorf("InvalidParameterValue", "IPv6 ranges and prefix lists may only be used with Amazon VPC security groups.")
	}
	if len(p.Ranges) == 0 && len(p.Groups) == 0 {
		return nil, ec2.Errorf("MissingParameter", "The request must contain a source for each permission: an IP range or a group")
	}
	protocols, err := p.protocols()
	if err != nil {
		return nil, err
	}
	var specs []ec2.RuleSpec
	for _, spec := range protocols {
		for _, x := range p.Ranges {
			prefix, err := ec2.ParseCIDR(x.CIDR)
			if err != nil {
				return nil, err
			}
			spec.Prefix, spec.Group, spec.Description = prefix, ec2.GroupRef{}, x.Description
			specs = append(specs, spec)
		}
		for _, x := range p.Groups {
			if x.ID == "" && x.Name == "" {
				return nil, ec2.Errorf("MissingParameter", "The request must contain the parameter groupName or groupId")
			}
			spec.Prefix = ec2.RuleSpec{}.Prefix
			spec.Group, spec.Description = ec2.GroupRef{Account: x.Account, ID: x.ID, Name: x.Name}, x.Description
			specs = append(specs, spec)
		}
	}
	return specs, nil
}

// protocols returns the permission without its sources. A group as source without a
// protocol stands for everything that EC2-Classic filters, as three permissions (EC2
// Developer Guide (2006), AuthorizeSecurityGroupIngress).
func (p *permissionParam) protocols() ([]ec2.RuleSpec, error) {
	if p.Protocol == "" {
		if len(p.Ranges) > 0 || p.From != nil || p.To != nil {
			return nil, ec2.Errorf("MissingParameter", "The request must contain the parameter ipProtocol")
		}
		return []ec2.RuleSpec{
			{Protocol: ec2.TCP, From: 1, To: 65535},
			{Protocol: ec2.UDP, From: 1, To: 65535},
			{Protocol: ec2.ICMP, From: -1, To: -1},
		}, nil
	}
	protocol, err := ec2.ParseProtocol(p.Protocol)
	if err != nil {
		return nil, err
	}
	if p.From == nil || p.To == nil {
		what := "Must specify both from and to ports with TCP/UDP."
		if protocol == ec2.ICMP {
			what = "Must specify both type and code, as from and to ports, with ICMP; -1 is any."
		}
		return nil, ec2.Errorf("InvalidParameterValue", "Invalid value for portRange. %s", what)
	}
	return []ec2.RuleSpec{{Protocol: protocol, From: *p.From, To: *p.To}}, nil
}

// A permission is what Describe shows: rules of equal protocol and ports together.
type permission struct {
	Protocol    string      `wire:"ipProtocol"`
	From        *int        `wire:"fromPort"`
	To          *int        `wire:"toPort"`
	Groups      []groupPair `wire:"groups"`
	Ranges      []cidrItem  `wire:"ipRanges"`
	Ranges6     []cidrItem  `wire:"ipv6Ranges"`
	PrefixLists []cidrItem  `wire:"prefixListIds"`
}

type groupPair struct {
	Account     ec2.AccountID `wire:"userId"`
	ID          ec2.GroupID   `wire:"groupId"`
	Name        string        `wire:"groupName"`
	Description string        `wire:"description"`
}

type cidrItem struct {
	CIDR        string `wire:"cidrIp"`
	Description string `wire:"description"`
}

// permissionsOf collapses rules, in order of creation.
func permissionsOf(rules []ec2.Rule, direction ec2.Direction) []permission {
	type ports struct {
		protocol ec2.Protocol
		from, to int
	}
	var list []permission
	at := make(map[ports]int)
	for _, r := range rules {
		if r.Direction != direction {
			continue
		}
		key := ports{r.Protocol, r.From, r.To}
		i, ok := at[key]
		if !ok {
			i = len(list)
			at[key] = i
			list = append(list, permission{Protocol: r.Protocol.String(), From: &r.From, To: &r.To})
		}
		if r.Source.Prefix.IsValid() {
			list[i].Ranges = append(list[i].Ranges, cidrItem{r.Source.Prefix.String(), r.Description})
			continue
		}
		g := r.Source.Group
		list[i].Groups = append(list[i].Groups, groupPair{g.Account, g.ID, g.Name, r.Description})
	}
	return list
}

// A ruleItem is one rule by itself.
type ruleItem struct {
	ID          ec2.RuleID       `wire:"securityGroupRuleId"`
	Group       ec2.GroupID      `wire:"groupId"`
	Owner       ec2.AccountID    `wire:"groupOwnerId"`
	IsEgress    bool             `wire:"isEgress"`
	Protocol    string           `wire:"ipProtocol"`
	From        int              `wire:"fromPort"`
	To          int              `wire:"toPort"`
	CIDR        string           `wire:"cidrIpv4"`
	Referenced  *referencedGroup `wire:"referencedGroupInfo"`
	Description string           `wire:"description"`
	Tags        []tag            `wire:"tagSet"`
	ARN         string           `wire:"securityGroupRuleArn"`
}

type referencedGroup struct {
	ID      ec2.GroupID   `wire:"groupId"`
	Account ec2.AccountID `wire:"userId"`
}

func newRuleItem(g *ec2.Group, r ec2.Rule) ruleItem {
	item := ruleItem{
		ID:          r.ID,
		Group:       g.ID,
		Owner:       g.Account,
		IsEgress:    r.Direction == ec2.Egress,
		Protocol:    r.Protocol.String(),
		From:        r.From,
		To:          r.To,
		Description: r.Description,
		ARN:         fmt.Sprintf("arn:aws:ec2:%s:%s:security-group-rule/%s", g.Region, g.Account, r.ID),
	}
	if r.Source.IsGroup() {
		item.Referenced = &referencedGroup{r.Source.Group.ID, r.Source.Group.Account}
	} else {
		item.CIDR = r.Source.Prefix.String()
	}
	return item
}

// A revokedItem names the group by id alone, unlike a ruleItem.
type revokedItem struct {
	ID         ec2.RuleID  `wire:"securityGroupRuleId"`
	Group      ec2.GroupID `wire:"groupId"`
	IsEgress   bool        `wire:"isEgress"`
	Protocol   string      `wire:"ipProtocol"`
	From       int         `wire:"fromPort"`
	To         int         `wire:"toPort"`
	CIDR       string      `wire:"cidrIpv4"`
	Referenced ec2.GroupID `wire:"referencedGroupId"`
}

func newRevokedItem(g *ec2.Group, r ec2.Rule) revokedItem {
	i := newRuleItem(g, r)
	return revokedItem{i.ID, i.Group, i.IsEgress, i.Protocol, i.From, i.To, i.CIDR, r.Source.Group.ID}
}
