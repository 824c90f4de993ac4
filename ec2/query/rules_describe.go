package query

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// A ruleItem is a rule in the answers of DescribeSecurityGroupRules and Authorize.
type ruleItem struct {
	ID          ec2.RuleID       `wire:"securityGroupRuleId"`
	Group       ec2.GroupID      `wire:"groupId"`
	Owner       ec2.AccountID    `wire:"groupOwnerId"`
	IsEgress    bool             `wire:"isEgress"`
	Protocol    string           `wire:"ipProtocol"`
	From        int              `wire:"fromPort"` // -1 for a protocol without ports; a permission leaves it out
	To          int              `wire:"toPort"`
	CIDR        string           `wire:"cidrIpv4"`
	CIDR6       string           `wire:"cidrIpv6"`
	PrefixList  ec2.PrefixListID `wire:"prefixListId"`
	Referenced  *referencedGroup `wire:"referencedGroupInfo"`
	Description string           `wire:"description"`
	Tags        []tag            `wire:"tagSet"`
	ARN         string           `wire:"securityGroupRuleArn"`
}

type referencedGroup struct {
	ID      ec2.GroupID   `wire:"groupId"`
	Account ec2.AccountID `wire:"userId"`
	VPC     ec2.VPCID     `wire:"vpcId"` // and the next two: only of a group of a peered VPC
	Peering ec2.PeeringID `wire:"vpcPeeringConnectionId"`
	Status  string        `wire:"peeringStatus"`
}

// newRuleItem makes an item without its tags.
func newRuleItem(g *ec2.Group, r *ec2.Rule) ruleItem {
	item := ruleItem{
		ID:          r.ID,
		Group:       g.ID,
		Owner:       g.Account,
		IsEgress:    r.Direction == ec2.Egress,
		Protocol:    r.Protocol.String(),
		From:        r.From,
		To:          r.To,
		CIDR:        cidrOf(r),
		CIDR6:       cidr6Of(r),
		PrefixList:  r.Source.PrefixList,
		Description: r.Description,
		ARN:         arn(g.Region, g.Account, "security-group-rule", string(r.ID)),
	}
	if r.Source.IsGroup() {
		ref := r.Source.Group
		item.Referenced = &referencedGroup{ref.ID, ref.Account, ref.VPC, ref.Peering, peeringStatusIn(ref)}
	}
	return item
}

type describeRulesRequest struct {
	RuleIDs []ec2.RuleID `wire:"SecurityGroupRuleId"`
	Filters []filter     `wire:"Filter"`
	paged
}

type describeRulesAnswer struct {
	Rules     []ruleItem `wire:"securityGroupRuleSet"`
	NextToken string     `wire:"nextToken"`
}

// A groupRule is a rule with its group.
type groupRule struct {
	group *ec2.Group
	rule  *ec2.Rule
}

// key is the sort key for pages: by group, and within a group by rule.
func (p groupRule) key() string { return string(p.group.ID) + "/" + string(p.rule.ID) }

var groupRuleFilters = filterable[groupRule]{
	"group-id":               func(p groupRule) []string { return []string{string(p.group.ID)} },
	"security-group-rule-id": func(p groupRule) []string { return []string{string(p.rule.ID)} },
}

// describeRules reads only the rules of its page. If each page took the time to read all
// rules, a client that reads thousands of groups page by page would be too slow
// (hashicorp/terraform-provider-aws, revoke_rules_on_delete).
func describeRules(c *call, r *describeRulesRequest) (*describeRulesAnswer, error) {
	if err := groupRuleFilters.check(r.Filters); err != nil {
		return nil, err
	}
	after, err := r.after(isRuleKey)
	if err != nil {
		return nil, err
	}
	candidates, err := c.rulesAfter(after, r)
	if err != nil {
		return nil, err
	}
	tags := taggedBy(c, func(p groupRule) string { return string(p.rule.ID) })
	wanted := func(p groupRule) bool { return groupRuleFilters.match(p, r.Filters, tags) }
	page, next, err := pageOf(candidates, groupRule.key, wanted, r.paged)
	if err != nil {
		return nil, err
	}
	answer := &describeRulesAnswer{Rules: make([]ruleItem, len(page)), NextToken: next}
	tagged := c.view.AnyTags("sgr-") // rules rarely have tags, and a page has up to 1000 rules
	for i, p := range page {
		answer.Rules[i] = newRuleItem(p.group, p.rule)
		if tagged {
			answer.Rules[i].Tags = c.tags(string(p.rule.ID))
		}
	}
	return answer, nil
}

func isRuleKey(key string) bool {
	group, rule, _ := strings.Cut(key, "/")
	return ec2.CheckGroupID(ec2.GroupID(group)) == nil && ec2.CheckRuleID(ec2.RuleID(rule)) == nil
}

// rulesAfter yields the rules that may pass the request's ids and filters, in the order
// of their keys, starting with the first key greater than after.
func (c *call) rulesAfter(after string, r *describeRulesRequest) (iter.Seq[groupRule], error) {
	if len(r.RuleIDs) > 0 {
		return c.rulesByID(after, r.RuleIDs)
	}
	from, _, _ := strings.Cut(after, "/")
	groups := c.view.GroupsFrom(c.account, c.region, ec2.GroupID(from))
	for _, x := range r.Filters {
		if x.Name != "group-id" {
			continue
		}
		for _, id := range x.Values {
			if ec2.CheckGroupID(ec2.GroupID(id)) != nil {
				return nil, ec2.Errorf("InvalidGroupId.Malformed", "The security group ID '%s' is malformed", wire.Quote(id))
			}
		}
		groups = c.groupsByID(x.Values)
	}
	return func(yield func(groupRule) bool) {
		for g := range groups {
			for _, p := range groupRulesOf(g) {
				if p.key() > after && !yield(p) {
					return
				}
			}
		}
	}, nil
}

func (c *call) rulesByID(after string, ids []ec2.RuleID) (iter.Seq[groupRule], error) {
	var list []groupRule
	for _, id := range ids {
		if err := ec2.CheckRuleID(id); err != nil {
			return nil, err
		}
		g, rule, ok := c.view.Rule(id)
		if !ok || g.Account != c.account || g.Region != c.region {
			return nil, ec2.NoSuch("sgr", id)
		}
		if p := (groupRule{g, rule}); p.key() > after {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b groupRule) int { return cmp.Compare(a.key(), b.key()) })
	return slices.Values(slices.Compact(list)), nil
}

// groupsByID yields the groups with these ids that the caller owns, sorted by id.
func (c *call) groupsByID(ids []string) iter.Seq[*ec2.Group] {
	ids = slices.Sorted(slices.Values(ids))
	return func(yield func(*ec2.Group) bool) {
		for _, id := range slices.Compact(ids) {
			g, ok := c.view.Group(ec2.GroupID(id))
			if ok && g.Account == c.account && g.Region == c.region && !yield(g) {
				return
			}
		}
	}
}

func groupRulesOf(g *ec2.Group) []groupRule {
	list := make([]groupRule, len(g.Rules))
	for i := range g.Rules {
		list[i] = groupRule{g, &g.Rules[i]}
	}
	slices.SortFunc(list, func(a, b groupRule) int { return cmp.Compare(a.rule.ID, b.rule.ID) })
	return list
}
