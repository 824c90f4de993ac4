package state

import (
	"net/netip"
	"slices"

	"palisade/ec2"
)

// ModifyRules changes rules of a group in place, all of them or none. A rule keeps its id, its
// direction, its tags and the kind of its source. If it permits other packets than before, it gets
// a new Serial. The data plane then takes it for another rule, and checks again the untracked flows
// that the old rule admitted. Result: Group, Rules.
type ModifyRules struct {
	Account ec2.AccountID
	Region  ec2.Region
	Group   ec2.GroupID
	Rules   []RuleChange
	IPv6    bool `json:",omitempty"` // as in AuthorizeRules
}

// A RuleChange has the new attributes of the rule with an id.
type RuleChange struct {
	ID   ec2.RuleID
	Rule RuleSpec
}

func (r *ModifyRules) apply(t *tx) (Result, error) {
	g, err := t.group(r.Account, r.Region, GroupSelector{ID: r.Group})
	if err != nil {
		return Result{}, err
	}
	if len(r.Rules) == 0 {
		return Result{}, ec2.Missing("securityGroupRules")
	}
	next := *g
	next.Rules = slices.Clone(g.Rules)
	result := Result{Group: &next}
	seen := make(map[ec2.RuleID]bool)
	for _, change := range r.Rules {
		if err := ec2.CheckRuleID(change.ID); err != nil {
			return Result{}, err
		}
		at := ruleIndex(g, change.ID)
		if at < 0 {
			return Result{}, ec2.NoSuch("sgr", change.ID)
		}
		if seen[change.ID] {
			return Result{}, ec2.Errorf("InvalidParameterValue", "The security group rule ID '%s' must not appear multiple times", change.ID)
		}
		seen[change.ID] = true
		if next.Rules[at], err = t.modified(g, g.Rules[at], change.Rule, r.IPv6); err != nil {
			return Result{}, err
		}
		result.Rules = append(result.Rules, next.Rules[at])
	}
	if err := checkDistinctRules(&next); err != nil {
		return Result{}, err
	}
	for _, direction := range []ec2.Direction{ec2.Ingress, ec2.Egress} {
		if t.countRules(&next, direction, nil) <= t.countRules(g, direction, nil) {
			continue // a change to another list can weigh more
		}
		if err := t.ruleLimit(&next, direction); err != nil {
			return Result{}, err
		}
	}
	t.put(tableGroup, &next)
	return result, nil
}

func (t *tx) modified(g *ec2.Group, was ec2.Rule, spec RuleSpec, ipv6 bool) (ec2.Rule, error) {
	had, given := kindOf(was.Source.Prefix, was.Source.PrefixList), kindOf(spec.Prefix, spec.PrefixList)
	if had != given {
		return ec2.Rule{}, ec2.Errorf("InvalidParameterValue", "Invalid rule type for security group rule '%s'. You may not specify %s for an existing %s rule.", was.ID, given.parameter, had.name)
	}
	now, err := t.resolve(g, was.Direction, []RuleSpec{spec}, t.source)
	if err != nil {
		return ec2.Rule{}, err
	}
	if !ipv6 {
		if err := checkNoIPv6(now); err != nil {
			return ec2.Rule{}, err
		}
	}
	rule := now[0]
	rule.ID, rule.Serial = was.ID, was.Serial
	if permitOf(&rule) != permitOf(&was) {
		rule.Serial = t.serial()
	}
	return rule, nil
}

// A sourceKind is a kind of source, as EC2's messages name it, and the parameter that has such a
// source.
type sourceKind struct{ name, parameter string }

// kindOf returns the kind of a source with that prefix or prefix list. A group has neither.
func kindOf(p netip.Prefix, list ec2.PrefixListID) sourceKind {
	switch {
	case list != "":
		return sourceKind{"prefix list", "PrefixListId"}
	case !p.IsValid():
		return sourceKind{"security group", "ReferencedGroupId"}
	case p.Addr().Is6():
		return sourceKind{"IPv6 CIDR", "CidrIpv6"}
	}
	return sourceKind{"IPv4 CIDR", "CidrIpv4"}
}

// checkDistinctRules returns EC2's error if two rules of a changed group are equal.
func checkDistinctRules(g *ec2.Group) error {
	seen := make(map[permit]bool, len(g.Rules))
	for i := range g.Rules {
		p := permitOf(&g.Rules[i])
		if seen[p] {
			return ec2.Errorf("InvalidPermission.Duplicate", `the specified rule "%s" already exists`, ruleText(g.Rules[i]))
		}
		seen[p] = true
	}
	return nil
}

// UpdateRuleDescriptions sets the descriptions of rules of one direction, all of them or none. The
// request names the rules by their attributes or by their ids. The data plane does not check flows
// again. Result: Group.
type UpdateRuleDescriptions struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Group     GroupSelector
	Direction ec2.Direction
	Rules     []RuleSpec        `json:",omitempty"` // with the new descriptions
	ByID      []RuleDescription `json:",omitempty"`
}

// A RuleDescription is the new description of the rule with an id.
type RuleDescription struct {
	ID          ec2.RuleID
	Description string
}

func (r *UpdateRuleDescriptions) apply(t *tx) (Result, error) {
	g, err := t.groupForRules(r.Account, r.Region, r.Group, r.Direction)
	if err != nil {
		return Result{}, err
	}
	if len(r.Rules) == 0 && len(r.ByID) == 0 {
		return Result{}, ec2.Errorf("MissingParameter", "Either ipPermissions or securityGroupRuleDescriptions must be specified.")
	}
	if len(r.Rules) > 0 && len(r.ByID) > 0 {
		return Result{}, ec2.Errorf("InvalidParameterCombination", "The parameters ipPermissions and securityGroupRuleDescriptions cannot be used together")
	}
	next := *g
	next.Rules = slices.Clone(g.Rules)
	if err := describeByID(&next, r.Direction, r.ByID); err != nil {
		return Result{}, err
	}
	rules, err := t.resolve(g, r.Direction, r.Rules, t.knownSource)
	if err != nil {
		return Result{}, err
	}
	if err := checkDistinct(rules); err != nil {
		return Result{}, err
	}
	for i := range rules {
		at := slices.IndexFunc(next.Rules, func(o ec2.Rule) bool { return permitOf(&o) == permitOf(&rules[i]) })
		if at < 0 {
			return Result{}, noPermission()
		}
		next.Rules[at].Description = rules[i].Description
	}
	t.put(tableGroup, &next)
	return Result{Group: &next}, nil
}

func describeByID(g *ec2.Group, direction ec2.Direction, list []RuleDescription) error {
	for _, d := range list {
		if err := ec2.CheckRuleID(d.ID); err != nil {
			return err
		}
		at := ruleIndex(g, d.ID)
		if at < 0 || g.Rules[at].Direction != direction {
			return ec2.NoSuch("sgr", d.ID)
		}
		if err := checkDescription(d.Description); err != nil {
			return err
		}
		g.Rules[at].Description = d.Description
	}
	return nil
}
