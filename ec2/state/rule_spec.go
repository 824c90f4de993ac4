package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"palisade/ec2"
)

// A RuleSpec is a rule in a request. It has one source: a CIDR block, a prefix list, or a group that is
// named by id or by name.
type RuleSpec struct {
	Protocol ec2.Protocol
	From, To int
	Prefix   netip.Prefix // a CIDR source; or
	Group    ec2.GroupRef // a group, by ID or by Name; Account "" means the caller

	PrefixList ec2.PrefixListID `json:",omitempty"` // or a prefix list

	Description string
}

// resolve checks the rules of a request for group g and returns them. The function lookUp finds the
// groups that are their sources.
func (t *tx) resolve(g *ec2.Group, direction ec2.Direction, specs []RuleSpec, lookUp func(*ec2.Group, ec2.GroupRef) (ec2.GroupRef, error)) ([]ec2.Rule, error) {
	rules := make([]ec2.Rule, len(specs))
	for i, spec := range specs {
		rule, err := spec.rule(g)
		if err != nil {
			return nil, err
		}
		rule.Direction = direction
		switch {
		case spec.PrefixList != "":
			l, err := findPrefixList(t.Txn, owner{g.Account, g.Region}, spec.PrefixList)
			if err != nil {
				return nil, err
			}
			rule.Source.PrefixList, rule.Source.Family = l.ID, familyOf(l)
		case !spec.Prefix.IsValid():
			if rule.Source.Group, err = lookUp(g, spec.Group); err != nil {
				return nil, err
			}
		}
		rules[i] = rule
	}
	return rules, nil
}

// The method rule checks the attributes of a rule and returns it in the canonical form in which
// rules are stored and compared, without a group as its source.
func (s RuleSpec) rule(g *ec2.Group) (ec2.Rule, error) {
	r := ec2.Rule{Protocol: s.Protocol, From: s.From, To: s.To, Source: ec2.Source{Prefix: s.Prefix.Masked()}, Description: s.Description}
	switch {
	case s.Protocol == ec2.TCP, s.Protocol == ec2.UDP:
		if err := checkPorts(s.From, s.To); err != nil {
			return ec2.Rule{}, err
		}
	case s.Protocol == ec2.ICMP, s.Protocol == ec2.ICMPv6 && g.VPC != "":
		if err := checkICMP(s.From, s.To); err != nil {
			return ec2.Rule{}, err
		}
	case g.VPC == "":
		return ec2.Rule{}, ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for IP protocol. EC2-Classic has tcp, udp and icmp only.", s.Protocol)
	case s.Protocol < ec2.AnyProtocol || s.Protocol > 255:
		return ec2.Rule{}, ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for IP protocol. Unknown protocol.", s.Protocol)
	case !s.Protocol.HasRange(): // the protocol has no ports; EC2 ignores them
		r.From, r.To = -1, -1
	}
	if sources := s.sources(); sources != 1 {
		return ec2.Rule{}, ec2.Errorf("InvalidParameterValue", "a rule has exactly one source, a CIDR block, a group or a prefix list")
	}
	if s.PrefixList != "" && g.VPC == "" {
		return ec2.Rule{}, ec2.Errorf("InvalidParameterValue", "IPv6 ranges and prefix lists may only be used with Amazon VPC security groups.")
	}
	if s.Prefix.IsValid() && s.Prefix.Addr().Is6() && g.VPC == "" {
		return ec2.Rule{}, ec2.Errorf("InvalidParameterValue", "CIDR block %s is malformed", s.Prefix)
	}
	return r, checkDescription(s.Description)
}

// sources returns how many sources the request names.
func (s RuleSpec) sources() int {
	count := 0
	for _, given := range []bool{s.Prefix.IsValid(), s.Group != ec2.GroupRef{}, s.PrefixList != ""} {
		if given {
			count++
		}
	}
	return count
}

// familyOf returns the Family of a Source with the list.
func familyOf(l *ec2.PrefixList) uint8 {
	if l.IPv6 {
		return 6
	}
	return 4
}

func checkDescription(text string) error {
	if !isValidText(text) {
		return ec2.Errorf("InvalidParameterValue", "Invalid rule description. Valid descriptions are strings less than 256 characters from the following set:  %s", validTextSet)
	}
	return nil
}

func checkPorts(from, to int) error {
	for _, end := range []struct {
		name string
		port int
	}{{"from", from}, {"to", to}} {
		if end.port < 0 || end.port > 65535 {
			return ec2.Errorf("InvalidParameterValue", "TCP/UDP (%s) port (%d) out of range", end.name, end.port)
		}
	}
	if from > to {
		return ec2.Errorf("InvalidParameterValue", "Invalid TCP/UDP port range (%d:%d)", from, to)
	}
	return nil
}

func checkICMP(kind, code int) error {
	if kind < -1 || kind > 255 {
		return ec2.Errorf("InvalidParameterValue", "ICMP type (%d) out of range", kind)
	}
	if code < -1 || code > 255 {
		return ec2.Errorf("InvalidParameterValue", "ICMP code (%d) out of range", code)
	}
	if kind == -1 && code != -1 {
		return ec2.Errorf("InvalidParameterValue", "ICMP type (-1) must go with code (-1), not (%d)", code)
	}
	return nil
}

// The method source returns the group that a new rule of g names as its source. In EC2-Classic that
// group may belong to any account. In a VPC it must be usable in the same VPC, or be a group of a peered
// VPC.
func (t *tx) source(g *ec2.Group, ref ec2.GroupRef) (ec2.GroupRef, error) {
	if ref.Peering != "" {
		if _, err := t.peering(g.Account, g.Region, ref.Peering); err != nil {
			return ec2.GroupRef{}, err
		}
	}
	o, err := t.sourceGroup(g, ref)
	switch {
	case err != nil:
		return ec2.GroupRef{}, err
	case (o.VPC == "") != (g.VPC == ""):
		return ec2.GroupRef{}, ec2.Errorf("InvalidParameterValue", "You may not define rules between a VPC group and a non-VPC group")
	case !o.UsableIn(g.VPC), o.VPC != g.VPC && (ref.VPC == o.VPC || ref.Peering != ""):
		return t.peerGroup(g, o, ref)
	case ref.Peering != "" || ref.VPC != "" && ref.VPC != g.VPC:
		return ec2.GroupRef{}, differentNetworks()
	case g.VPC != "": // EC2 shows the group by its id only
		return ec2.GroupRef{Account: o.Account, ID: o.ID}, nil
	}
	return ec2.GroupRef{Account: o.Account, ID: o.ID, Name: o.Name}, nil
}

func (t *tx) sourceGroup(g *ec2.Group, ref ec2.GroupRef) (*ec2.Group, error) {
	account := ref.Account
	if account == "" {
		account = g.Account
	}
	switch {
	case ref.ID != "" && ref.Name != "":
		return nil, ec2.Errorf("InvalidParameterCombination", "The parameters GroupName and GroupId cannot be used together")
	case ref.ID == "" && ref.Name == "":
		return nil, ec2.Missing("groupName or groupId")
	case ref.Name != "" && account == g.Account:
		return findGroup(t.Txn, account, g.Region, GroupSelector{Name: ref.Name})
	case ref.Name != "": // of another account, which is possible in EC2-Classic only
		return groupNamed(t.Txn, owner{account, g.Region}, "", ref.Name)
	}
	if err := ec2.CheckGroupID(ref.ID); err != nil {
		return nil, err
	}
	o := first[ec2.Group](t.Txn, tableGroup, indexID, key(ref.ID))
	if o == nil || o.Region != g.Region || ref.Account != "" && o.Account != ref.Account {
		return nil, ec2.NoSuch("sg", ref.ID)
	}
	return o, nil
}

// knownSource is like the method source, but also returns a deleted group of another account, or a
// group of a former peer, that a rule of g still names, so that the rule can be revoked.
func (t *tx) knownSource(g *ec2.Group, ref ec2.GroupRef) (ec2.GroupRef, error) {
	if found, ok := knownPeerGroup(g, ref); ok {
		return found, nil
	}
	found, err := t.source(g, ref)
	if err == nil {
		return found, nil
	}
	for _, r := range g.Rules {
		o := r.Source.Group
		if o.ID != "" && (ref.ID == o.ID || ref.ID == "" && ref.Name == o.Name && ref.Account == o.Account) {
			return o, nil
		}
	}
	return ec2.GroupRef{}, err
}

// numbered returns a new rule with its serial and id.
func (t *tx) numbered(r ec2.Rule) ec2.Rule {
	r.Serial = t.serial()
	r.ID = ec2.RuleID(t.meta.longID("sgr", r.Serial))
	return r
}

// A permit has the attributes that identify a rule in its group.
type permit struct {
	direction ec2.Direction
	protocol  ec2.Protocol
	from, to  int
	prefix    netip.Prefix
	group     ec2.GroupID
	peering   ec2.PeeringID
	list      ec2.PrefixListID
}

func permitOf(r *ec2.Rule) permit {
	return permit{r.Direction, r.Protocol, r.From, r.To, r.Source.Prefix, r.Source.Group.ID, r.Source.Group.Peering, r.Source.PrefixList}
}

// checkDistinct returns EC2's error if two of the rules are equal.
func checkDistinct(rules []ec2.Rule) error {
	seen := make(map[permit]bool, len(rules))
	for i := range rules {
		p := permitOf(&rules[i])
		if seen[p] {
			return ec2.Errorf("InvalidParameterValue", "The same permission must not appear multiple times")
		}
		seen[p] = true
	}
	return nil
}

func ruleIndex(g *ec2.Group, id ec2.RuleID) int {
	return slices.IndexFunc(g.Rules, func(r ec2.Rule) bool { return r.ID == id })
}

// ruleText returns a rule in the form that EC2's messages have.
func ruleText(r ec2.Rule) string {
	from := r.Source.Prefix.String()
	switch {
	case r.Source.IsGroup():
		from = string(r.Source.Group.ID)
	case r.Source.IsPrefixList():
		from = string(r.Source.PrefixList)
	}
	name := strings.ToUpper(r.Protocol.String())
	switch r.Protocol {
	case ec2.AnyProtocol:
		return fmt.Sprintf("peer: %s, ALL, ALLOW", from)
	case ec2.TCP, ec2.UDP:
		return fmt.Sprintf("peer: %s, %s, from port: %d, to port: %d, ALLOW", from, name, r.From, r.To)
	case ec2.ICMP, ec2.ICMPv6:
		return fmt.Sprintf("peer: %s, %s, type: %s, code: %s, ALLOW", from, name, numberOrAll(r.From), numberOrAll(r.To))
	}
	return fmt.Sprintf("peer: %s, protocol: %d, ALLOW", from, r.Protocol)
}

func numberOrAll(n int) string {
	if n == -1 {
		return "ALL"
	}
	return strconv.Itoa(n)
}
