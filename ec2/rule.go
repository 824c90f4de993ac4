package ec2

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A RuleSpec is a rule as a request describes it: one source, a group perhaps by name.
type RuleSpec struct {
	Protocol Protocol
	From, To int
	Prefix   netip.Prefix // a CIDR source, or
	Group    GroupRef     // a group: by ID, or by Name; Account "" is the caller

	Description string
}

// AuthorizeIngress adds rules to a group: all of them, or none. Result: Group, Rules.
type AuthorizeIngress struct {
	Account AccountID
	Region  Region
	Group   GroupSelector
	Rules   []RuleSpec
}

func (r *AuthorizeIngress) apply(t *tx) (Result, error) {
	g, rules, err := t.resolve(r.Account, r.Region, r.Group, r.Rules)
	if err != nil {
		return Result{}, err
	}
	for i, rule := range rules {
		if slices.ContainsFunc(rules[:i], rule.Same) {
			return Result{}, Errorf("InvalidParameterValue", "The same permission must not appear multiple times")
		}
	}
	for _, rule := range rules {
		if slices.ContainsFunc(g.Rules, rule.Same) {
			return Result{}, Errorf("InvalidPermission.Duplicate", `the specified rule "%s" already exists`, peer(rule))
		}
	}
	if len(g.Rules)+len(rules) > t.meta.Settings.RulesPerGroup {
		return Result{}, Errorf("RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached.")
	}

	next := *g
	next.Rules = slices.Clone(g.Rules)
	for i := range rules {
		rules[i] = t.numbered(rules[i])
		next.Rules = append(next.Rules, rules[i])
	}
	t.put(tableGroup, &next)
	return Result{Group: &next, Rules: rules}, nil
}

// RevokeIngress removes rules from a group. A rule that is not there is no error in
// EC2-Classic: it is returned as unknown, and the others go (EC2 API Reference,
// RevokeSecurityGroupIngress). Result: Group, Rules, Unknown.
type RevokeIngress struct {
	Account AccountID
	Region  Region
	Group   GroupSelector
	Rules   []RuleSpec
}

func (r *RevokeIngress) apply(t *tx) (Result, error) {
	g, rules, err := t.resolve(r.Account, r.Region, r.Group, r.Rules)
	if err != nil {
		return Result{}, err
	}
	next := *g
	next.Rules = slices.Clone(g.Rules)
	var result Result
	for i, rule := range rules {
		at := slices.IndexFunc(next.Rules, rule.Same)
		if at < 0 {
			result.Unknown = append(result.Unknown, r.Rules[i])
			continue
		}
		result.Rules = append(result.Rules, next.Rules[at])
		next.Rules = slices.Delete(next.Rules, at, at+1)
	}
	if len(result.Rules) == 0 {
		result.Group = g
		return result, nil
	}
	t.put(tableGroup, &next)
	result.Group = &next
	return result, nil
}

// resolve checks the rules of a request and finds the groups they name.
func (t *tx) resolve(account AccountID, region Region, sel GroupSelector, specs []RuleSpec) (*Group, []Rule, error) {
	g, err := t.group(account, region, sel)
	if err != nil {
		return nil, nil, err
	}
	if len(specs) == 0 {
		return nil, nil, Errorf("MissingParameter", "The request must contain the parameter ipPermissions")
	}
	rules := make([]Rule, len(specs))
	for i, spec := range specs {
		if err := spec.check(); err != nil {
			return nil, nil, err
		}
		rules[i] = Rule{Protocol: spec.Protocol, From: spec.From, To: spec.To, Source: Source{Prefix: spec.Prefix.Masked()}, Description: spec.Description}
		if !spec.Prefix.IsValid() {
			ref, err := t.source(g, spec.Group)
			if err != nil {
				return nil, nil, err
			}
			rules[i].Source = Source{Group: ref}
		}
	}
	return g, rules, nil
}

// describing are the characters of a rule's description.
const describing = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789. _-:/()#,@[]+=&;{}!$*"

// check decides what no state is needed for: EC2-Classic knows three protocols.
func (s RuleSpec) check() error {
	switch s.Protocol {
	case TCP, UDP:
		for _, end := range []struct {
			name string
			port int
		}{{"from", s.From}, {"to", s.To}} {
			if end.port < 0 || end.port > 65535 {
				return Errorf("InvalidParameterValue", "TCP/UDP %s port (%d) out of range", end.name, end.port)
			}
		}
		if s.From > s.To {
			return Errorf("InvalidParameterValue", "Invalid TCP/UDP port range (%d:%d)", s.From, s.To)
		}
	case ICMP:
		if s.From < -1 || s.From > 255 {
			return Errorf("InvalidParameterValue", "ICMP type (%d) out of range", s.From)
		}
		if s.To < -1 || s.To > 255 {
			return Errorf("InvalidParameterValue", "ICMP code (%d) out of range", s.To)
		}
		if s.From == -1 && s.To != -1 {
			return Errorf("InvalidParameterValue", "ICMP type (-1) must go with code (-1), not (%d)", s.To)
		}
	default:
		return Errorf("InvalidParameterValue", "Invalid value '%s' for IP protocol. EC2-Classic knows tcp, udp and icmp.", s.Protocol)
	}
	if s.Prefix.IsValid() == (s.Group != GroupRef{}) {
		return Errorf("InvalidParameterValue", "a rule has exactly one source, a CIDR block or a group")
	}
	if s.Prefix.IsValid() && !s.Prefix.Addr().Is4() {
		return Errorf("InvalidParameterValue", "CIDR block %s is malformed", s.Prefix)
	}
	if len(s.Description) > 255 || strings.Trim(s.Description, describing) != "" {
		return Errorf("InvalidParameterValue", "Invalid rule description. Valid descriptions are strings less than 256 characters from the following set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*")
	}
	return nil
}

// source finds the group that a rule of g names: of g's account, or of another one.
func (t *tx) source(g *Group, ref GroupRef) (GroupRef, error) {
	owner := ref.Account
	if owner == "" {
		owner = g.Account
	}
	var o *Group
	switch {
	case ref.ID != "" && ref.Name != "":
		return GroupRef{}, Errorf("InvalidParameterCombination", "The parameters GroupName and GroupId cannot be used together")
	case ref.ID != "":
		if err := CheckGroupID(ref.ID); err != nil {
			return GroupRef{}, err
		}
		o = first[Group](t.Txn, tableGroup, indexID, key(ref.ID))
		if o != nil && (o.Region != g.Region || ref.Account != "" && o.Account != ref.Account) {
			o = nil
		}
	case ref.Name != "":
		o = first[Group](t.Txn, tableGroup, indexName, key(owner)+key(g.Region)+key("")+key(ref.Name))
	default:
		return GroupRef{}, Errorf("MissingParameter", "The request must contain the parameter groupName or groupId")
	}
	if o == nil {
		return GroupRef{}, Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist", clip(ref.Name+string(ref.ID)))
	}
	if (o.VPC == "") != (g.VPC == "") {
		return GroupRef{}, Errorf("InvalidParameterValue", "You may not define rules between a VPC group and a non-VPC group")
	}
	return GroupRef{Account: o.Account, ID: o.ID, Name: o.Name}, nil
}

func (t *tx) numbered(r Rule) Rule {
	r.Serial = t.serial()
	r.ID = RuleID(t.meta.longID("sgr", r.Serial))
	return r
}

// peer writes a rule the way EC2's messages do.
func peer(r Rule) string {
	from := r.Source.Prefix.String()
	if r.Source.IsGroup() {
		from = string(r.Source.Group.ID)
	}
	name := strings.ToUpper(r.Protocol.String())
	if r.Protocol == ICMP {
		return fmt.Sprintf("peer: %s, %s, type: %s, code: %s, ALLOW", from, name, orAll(r.From), orAll(r.To))
	}
	return fmt.Sprintf("peer: %s, %s, from port: %d, to port: %d, ALLOW", from, name, r.From, r.To)
}

func orAll(n int) string {
	if n == -1 {
		return "ALL"
	}
	return strconv.Itoa(n)
}
