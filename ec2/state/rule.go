package state

import (
	"cmp"
	"slices"

	"palisade/ec2"
)

// AuthorizeRules adds rules of one direction to a group, all of them or none. Each rule gets the
// Tags. Result: Group, Rules.
type AuthorizeRules struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Group     GroupSelector
	Direction ec2.Direction
	Rules     []RuleSpec
	Tags      map[string]string `json:",omitempty"`
	// IPv6 allows rules for IPv6. It is false in log entries of earlier releases, which refused
	// them. If these entries were carried out now, all later ids would change.
	IPv6 bool `json:",omitempty"`
}

func (r *AuthorizeRules) apply(t *tx) (Result, error) {
	g, err := t.groupForRules(r.Account, r.Region, r.Group, r.Direction)
	if err != nil {
		return Result{}, err
	}
	if len(r.Rules) == 0 {
		return Result{}, noRules()
	}
	rules, err := t.resolve(g, r.Direction, r.Rules, t.source)
	if err != nil {
		return Result{}, err
	}
	if !r.IPv6 {
		if err := checkNoIPv6(rules); err != nil {
			return Result{}, err
		}
	}
	if err := checkDistinct(rules); err != nil {
		return Result{}, err
	}
	if err := checkNew(g, rules); err != nil {
		return Result{}, err
	}
	next := *g
	next.Rules = slices.Concat(g.Rules, rules)
	if err := t.ruleLimit(&next, r.Direction); err != nil {
		return Result{}, err
	}
	next.Rules = slices.Grow(slices.Clone(g.Rules), len(rules))
	for i := range rules {
		rules[i] = t.numbered(rules[i])
		next.Rules = append(next.Rules, rules[i])
		if err := t.tag(string(rules[i].ID), g.Account, g.Region, r.Tags); err != nil {
			return Result{}, err
		}
	}
	t.put(tableGroup, &next)
	return Result{Group: &next, Rules: rules}, nil
}

// checkNoIPv6 returns the error of earlier releases for a rule with an IPv6 block or an ICMPv6 type.
func checkNoIPv6(rules []ec2.Rule) error {
	for i := range rules {
		r := &rules[i]
		if r.Source.IsIPv6() {
			return ec2.Errorf("UnsupportedOperation", "IPv6 is not served: no rule can have the CIDR block %s", r.Source.Prefix)
		}
		if r.Protocol == ec2.ICMPv6 && r.From != -1 {
			return ec2.Errorf("UnsupportedOperation", "IPv6 is not served: no rule can have the ICMPv6 type %d", r.From)
		}
	}
	return nil
}

// checkNew returns EC2's error if the group has one of the rules already.
func checkNew(g *ec2.Group, rules []ec2.Rule) error {
	had := make(map[permit]bool, len(g.Rules))
	for i := range g.Rules {
		had[permitOf(&g.Rules[i])] = true
	}
	for i := range rules {
		if had[permitOf(&rules[i])] {
			return ec2.Errorf("InvalidPermission.Duplicate", `the specified rule "%s" already exists`, ruleText(rules[i]))
		}
	}
	return nil
}

// ruleLimit returns EC2's error if a group has too many rules. In EC2-Classic the limit is for the
// whole group. In a VPC it is for each direction and each address family (Amazon VPC User Guide, "Amazon
// VPC quotas").
func (t *tx) ruleLimit(g *ec2.Group, direction ec2.Direction) error {
	count, limit := len(g.Rules), t.limits().RulesPerGroup
	if g.VPC != "" {
		count, limit = t.countRules(g, direction, nil), t.limits().RulesPerVPCGroup
	}
	if count > limit {
		return ec2.Errorf("RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached.")
	}
	return nil
}

// countRules returns how many rules of one direction a group in a VPC has, of the address family with
// more rules. A rule with a group as its source counts for both families, and one with a prefix list as
// MaxEntries of the list. changed is a list in another size than the stored one, or nil.
func (t *tx) countRules(g *ec2.Group, direction ec2.Direction, changed *ec2.PrefixList) int {
	var ipv4, ipv6 int
	for i := range g.Rules {
		r := &g.Rules[i]
		if r.Direction != direction {
			continue
		}
		weight := cmp.Or(t.weight(r.Source.PrefixList, changed), 1)
		if !r.Source.IsIPv6() {
			ipv4 += weight
		}
		if r.Source.IsGroup() || r.Source.IsIPv6() {
			ipv6 += weight
		}
	}
	return max(ipv4, ipv6)
}

// RevokeRules removes rules of one direction from a group, all of them or none. The request names
// them by their attributes or by their ids. In EC2-Classic and in a default VPC a rule that the
// group does not have is no error: the other rules are removed, and that one is returned in Unknown
// (EC2 API Reference, "RevokeSecurityGroupIngress"). Result: Group, Rules, Unknown.
type RevokeRules struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Group     GroupSelector
	Direction ec2.Direction
	Rules     []RuleSpec   `json:",omitempty"`
	IDs       []ec2.RuleID `json:",omitempty"`
}

func (r *RevokeRules) apply(t *tx) (Result, error) {
	g, err := t.groupForRules(r.Account, r.Region, r.Group, r.Direction)
	if err != nil {
		return Result{}, err
	}
	if len(r.Rules) == 0 && len(r.IDs) == 0 {
		return Result{}, noRules()
	}
	if len(r.Rules) > 0 && len(r.IDs) > 0 {
		return Result{}, ec2.Errorf("InvalidParameterCombination", "The parameters ipPermissions and securityGroupRuleIds cannot be used together")
	}
	var result Result
	revoked := make(map[ec2.RuleID]bool)
	if len(r.IDs) > 0 {
		err = findRules(g, r.Direction, r.IDs, revoked)
	} else {
		result.Unknown, err = t.described(g, r.Direction, r.Rules, revoked)
	}
	if err != nil {
		return Result{}, err
	}
	result.Group = g
	if len(revoked) == 0 {
		return result, nil
	}
	next := *g
	next.Rules = nil
	for _, rule := range g.Rules {
		if revoked[rule.ID] {
			t.untag(string(rule.ID))
			result.Rules = append(result.Rules, rule)
		} else {
			next.Rules = append(next.Rules, rule)
		}
	}
	t.put(tableGroup, &next)
	result.Group = &next
	return result, nil
}

// findRules adds to found the rules that a request names by id. It returns EC2's error for an id
// that the group does not have.
func findRules(g *ec2.Group, direction ec2.Direction, ids []ec2.RuleID, found map[ec2.RuleID]bool) error {
	for _, id := range ids {
		if err := ec2.CheckRuleID(id); err != nil {
			return err
		}
		at := ruleIndex(g, id)
		if at < 0 || g.Rules[at].Direction != direction {
			return ec2.NoSuch("sgr", id)
		}
		found[id] = true
	}
	return nil
}

// The method described adds to found the rules that a request names by their attributes. A rule
// that the group does not have is returned in unknown or, in a VPC that is not a default VPC, is
// EC2's error.
func (t *tx) described(g *ec2.Group, direction ec2.Direction, specs []RuleSpec, found map[ec2.RuleID]bool) (unknown []RuleSpec, err error) {
	rules, err := t.resolve(g, direction, specs, t.knownSource)
	if err != nil {
		return nil, err
	}
	tolerant := g.VPC == ""
	if g.VPC != "" {
		v := first[ec2.VPC](t.Txn, tableVPC, indexID, key(g.VPC))
		tolerant = v != nil && v.Default
		if err := checkDistinct(rules); err != nil {
			return nil, err
		}
	}
	ids := make(map[permit]ec2.RuleID, len(g.Rules))
	for i := range g.Rules {
		ids[permitOf(&g.Rules[i])] = g.Rules[i].ID
	}
	for i := range rules {
		id, ok := ids[permitOf(&rules[i])]
		switch {
		case ok && !found[id]:
			found[id] = true
		case tolerant:
			unknown = append(unknown, specs[i])
		default:
			return nil, noPermission()
		}
	}
	return unknown, nil
}

// groupForRules returns the group that a request for rules names, or EC2's error, also for egress
// rules in EC2-Classic.
func (t *tx) groupForRules(account ec2.AccountID, region ec2.Region, sel GroupSelector, direction ec2.Direction) (*ec2.Group, error) {
	g, err := t.group(account, region, sel)
	if err != nil {
		return nil, err
	}
	return g, g.CheckDirection(direction)
}

func noRules() error {
	return ec2.Missing("ipPermissions")
}

func noPermission() error {
	return ec2.Errorf("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")
}
