package query

import (
	"cmp"
	"net/netip"
	"strconv"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// aclActions manage network ACLs, their entries, and their associations with subnets. IPv6 entries are
// stored and shown; no IPv6 packet is carried, so none passes.
var aclActions = map[string]handler{
	"CreateNetworkAcl":             action(createNetworkACL),
	"DeleteNetworkAcl":             action(deleteNetworkACL),
	"DescribeNetworkAcls":          action(describeNetworkACLs),
	"CreateNetworkAclEntry":        action(createNetworkACLEntry),
	"ReplaceNetworkAclEntry":       action(replaceNetworkACLEntry),
	"DeleteNetworkAclEntry":        action(deleteNetworkACLEntry),
	"ReplaceNetworkAclAssociation": action(replaceNetworkACLAssociation),
}

type aclEntryRequest struct {
	ACL      string  `wire:"NetworkAclId"`
	Number   *int    `wire:"RuleNumber"`
	Egress   *bool   `wire:"Egress"`
	Protocol string  `wire:"Protocol"`
	Action   string  `wire:"RuleAction"`
	CIDR     string  `wire:"CidrBlock"`
	IPv6CIDR string  `wire:"Ipv6CidrBlock"`
	Ports    aclPort `wire:"PortRange"`
	ICMP     aclICMP `wire:"Icmp"`
}

type aclPort struct {
	From *int `wire:"From"`
	To   *int `wire:"To"`
}

type aclICMP struct {
	Type *int `wire:"Type"`
	Code *int `wire:"Code"`
}

// entry returns the entry that a request describes.
func (r *aclEntryRequest) entry() (e ec2.ACLEntry, err error) {
	switch {
	case r.Number == nil:
		return e, ec2.Missing("ruleNumber")
	case r.Egress == nil:
		return e, ec2.Missing("egress")
	case r.Protocol == "":
		return e, ec2.Missing("protocol")
	case r.Action == "":
		return e, ec2.Missing("ruleAction")
	case r.Action != "allow" && r.Action != "deny":
		return e, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter ruleAction is invalid. It can be allow or deny.", wire.Quote(r.Action))
	case (r.CIDR == "") == (r.IPv6CIDR == ""):
		return e, ec2.Errorf("InvalidParameterCombination", "A network ACL entry has either a cidrBlock or an ipv6CidrBlock")
	}
	n, err := strconv.Atoi(r.Protocol)
	if err != nil || n < -1 || n > 255 {
		return e, ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for IP protocol. Unknown protocol.", wire.Quote(r.Protocol))
	}
	block, err := parseACLBlock(r.CIDR, r.IPv6CIDR)
	if err != nil {
		return e, err
	}
	traffic, err := r.traffic(ec2.Protocol(n))
	return ec2.ACLEntry{Number: *r.Number, Egress: *r.Egress, Allow: r.Action == "allow", CIDR: block, Traffic: traffic}, err
}

// traffic returns the packets of a protocol that a request names. Ports of a protocol other than TCP and
// UDP, and ICMP types and codes of one other than ICMP, mean nothing (EC2 API Reference,
// CreateNetworkAclEntry, Protocol). The state checks the ranges.
func (r *aclEntryRequest) traffic(p ec2.Protocol) (t ec2.ACLTraffic, err error) {
	if p == ec2.AnyProtocol {
		return t, nil
	}
	t = ec2.ACLTraffic{One: true, Protocol: p}
	switch {
	case p == ec2.TCP, p == ec2.UDP:
		if r.Ports.From == nil || r.Ports.To == nil {
			return t, ec2.Missing("portRange")
		}
		t.From, t.To = *r.Ports.From, *r.Ports.To
	case p == ec2.ICMP && r.CIDR != "", p == ec2.ICMPv6 && r.IPv6CIDR != "":
		if r.ICMP.Type == nil || r.ICMP.Code == nil {
			return t, ec2.Missing("icmpTypeCode")
		}
		t.From, t.To = *r.ICMP.Type, *r.ICMP.Code
	}
	return t, nil
}

// parseACLBlock reads the block of an entry, of which one is "". EC2 takes a block with host bits as
// its network.
func parseACLBlock(v4, v6 string) (netip.Prefix, error) {
	text := cmp.Or(v4, v6)
	block, err := netip.ParsePrefix(text)
	if err != nil || block.Addr().Is4() != (v4 != "") || block.Addr().Is4In6() {
		return netip.Prefix{}, ec2.Errorf("InvalidParameterValue", "CIDR block %s is malformed", wire.Quote(text))
	}
	return block.Masked(), nil
}

func createNetworkACLEntry(c *call, r *aclEntryRequest) (*returned, error) {
	e, err := r.entry()
	if err != nil {
		return nil, err
	}
	if _, err := c.apply(&state.CreateACLEntry{Account: c.account, Region: c.region, ACL: r.ACL, Entry: e}); err != nil {
		return nil, err
	}
	return &done, nil
}

func replaceNetworkACLEntry(c *call, r *aclEntryRequest) (*returned, error) {
	e, err := r.entry()
	if err != nil {
		return nil, err
	}
	if _, err := c.apply(&state.ReplaceACLEntry{Account: c.account, Region: c.region, ACL: r.ACL, Entry: e}); err != nil {
		return nil, err
	}
	return &done, nil
}

type deleteNetworkACLEntryRequest struct {
	ACL    string `wire:"NetworkAclId"`
	Number *int   `wire:"RuleNumber"`
	Egress *bool  `wire:"Egress"`
}

func deleteNetworkACLEntry(c *call, r *deleteNetworkACLEntryRequest) (*returned, error) {
	switch {
	case r.Number == nil:
		return nil, ec2.Missing("ruleNumber")
	case r.Egress == nil:
		return nil, ec2.Missing("egress")
	}
	if _, err := c.apply(&state.DeleteACLEntry{Account: c.account, Region: c.region, ACL: r.ACL, Number: *r.Number, Egress: *r.Egress}); err != nil {
		return nil, err
	}
	return &done, nil
}

type createNetworkACLRequest struct {
	VPC         ec2.VPCID          `wire:"VpcId"`
	ClientToken string             `wire:"ClientToken"`
	Tags        []tagSpecification `wire:"TagSpecification"`
}

type createNetworkACLAnswer struct {
	ACL         aclItem `wire:"networkAcl"`
	ClientToken string  `wire:"clientToken"`
}

func createNetworkACL(c *call, r *createNetworkACLRequest) (*createNetworkACLAnswer, error) {
	tags, err := tagsFor(r.Tags, "network-acl")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateNetworkACL{Account: c.account, Region: c.region, VPC: r.VPC, Tags: tags, ClientToken: r.ClientToken})
	if err != nil {
		return nil, err
	}
	return &createNetworkACLAnswer{c.newACLItem(result.ACL), r.ClientToken}, nil
}

type networkACLRequest struct {
	ACL string `wire:"NetworkAclId"`
}

func deleteNetworkACL(c *call, r *networkACLRequest) (*returned, error) {
	if _, err := c.apply(&state.DeleteNetworkACL{Account: c.account, Region: c.region, ACL: r.ACL}); err != nil {
		return nil, err
	}
	return &done, nil
}

type replaceNetworkACLAssociationRequest struct {
	ID  ec2.AssociationID `wire:"AssociationId"`
	ACL string            `wire:"NetworkAclId"`
}

type replaceNetworkACLAssociationAnswer struct {
	ID ec2.AssociationID `wire:"newAssociationId"`
}

func replaceNetworkACLAssociation(c *call, r *replaceNetworkACLAssociationRequest) (*replaceNetworkACLAssociationAnswer, error) {
	result, err := c.apply(&state.ReplaceACLAssociation{Account: c.account, Region: c.region, Association: r.ID, ACL: r.ACL})
	if err != nil {
		return nil, err
	}
	return &replaceNetworkACLAssociationAnswer{result.Association}, nil
}

type describeNetworkACLsRequest struct {
	IDs []string `wire:"NetworkAclId"`
	listed
}

type describeNetworkACLsAnswer struct {
	ACLs      []aclItem `wire:"networkAclSet"`
	NextToken string    `wire:"nextToken"`
}

type aclItem struct {
	ID           string           `wire:"networkAclId"`
	VPC          ec2.VPCID        `wire:"vpcId"`
	Owner        ec2.AccountID    `wire:"ownerId"`
	Default      bool             `wire:"default"`
	Entries      []aclEntry       `wire:"entrySet"`
	Associations []aclAssociation `wire:"associationSet"`
	Tags         []tag            `wire:"tagSet"`
}

type aclEntry struct {
	Number   int              `wire:"ruleNumber"`
	Protocol string           `wire:"protocol"`
	Action   string           `wire:"ruleAction"`
	Egress   bool             `wire:"egress"`
	CIDR     string           `wire:"cidrBlock"`
	IPv6CIDR string           `wire:"ipv6CidrBlock"`
	ICMP     *aclTypeAndCode  `wire:"icmpTypeCode"`
	Ports    *aclRangeOfPorts `wire:"portRange"`
}

type aclTypeAndCode struct {
	Code int `wire:"code"`
	Type int `wire:"type"`
}

type aclRangeOfPorts struct {
	From int `wire:"from"`
	To   int `wire:"to"`
}

type aclAssociation struct {
	ID     ec2.AssociationID `wire:"networkAclAssociationId"`
	ACL    string            `wire:"networkAclId"`
	Subnet ec2.SubnetID      `wire:"subnetId"`
}

// lastEntry denies what no other entry of its direction admits (Amazon VPC User Guide, "Default
// network ACL"). It cannot be removed. The console shows its number as *.
func lastEntry(egress bool) aclEntry {
	return aclEntry{Number: ec2.LastACLEntry, Protocol: "-1", Action: "deny", Egress: egress, CIDR: "0.0.0.0/0"}
}

func newACLEntry(e ec2.ACLEntry) aclEntry {
	item := aclEntry{Number: e.Number, Protocol: "-1", Action: "deny", Egress: e.Egress}
	if e.Allow {
		item.Action = "allow"
	}
	if e.CIDR.Addr().Is4() {
		item.CIDR = e.CIDR.String()
	} else {
		item.IPv6CIDR = e.CIDR.String()
	}
	if !e.Traffic.One {
		return item
	}
	item.Protocol = strconv.Itoa(int(e.Traffic.Protocol))
	switch p := e.Traffic.Protocol; {
	case p == ec2.TCP, p == ec2.UDP:
		item.Ports = &aclRangeOfPorts{e.Traffic.From, e.Traffic.To}
	case p == ec2.ICMP && item.CIDR != "", p == ec2.ICMPv6 && item.IPv6CIDR != "":
		item.ICMP = &aclTypeAndCode{Type: e.Traffic.From, Code: e.Traffic.To}
	}
	return item
}

func (c *call) newACLItem(acl *ec2.NetworkACL) aclItem {
	item := aclItem{ID: acl.ID, VPC: acl.VPC, Owner: acl.Account, Tags: c.tags(acl.ID)}
	vpc, ok := c.view.VPC(acl.VPC)
	item.Default = ok && vpc.ACL == acl.ID
	for _, egress := range []bool{true, false} {
		for _, e := range acl.Entries {
			if e.Egress == egress {
				item.Entries = append(item.Entries, newACLEntry(e))
			}
		}
		item.Entries = append(item.Entries, lastEntry(egress))
	}
	for s := range c.view.SubnetsIn(acl.VPC) {
		if s.ACL == acl.ID || s.ACL == "" && item.Default {
			item.Associations = append(item.Associations, aclAssociation{s.AssociationWithACL(), acl.ID, s.ID})
		}
	}
	return item
}

var aclListing = listing[aclItem]{
	kind: "acl",
	id:   func(a aclItem) string { return a.ID },
	filters: filterable[aclItem]{
		"default":        func(a aclItem) []string { return boolean(a.Default) },
		"network-acl-id": func(a aclItem) []string { return nonEmpty(a.ID) },
		"owner-id":       func(a aclItem) []string { return nonEmpty(a.Owner) },
		"vpc-id":         func(a aclItem) []string { return nonEmpty(a.VPC) },

		"association.association-id": aclAssociations(func(a aclAssociation) []string { return nonEmpty(a.ID) }),
		"association.network-acl-id": aclAssociations(func(a aclAssociation) []string { return nonEmpty(a.ACL) }),
		"association.subnet-id":      aclAssociations(func(a aclAssociation) []string { return nonEmpty(a.Subnet) }),

		"entry.cidr":        aclEntries(func(e aclEntry) []string { return nonEmpty(e.CIDR) }),
		"entry.ipv6-cidr":   aclEntries(func(e aclEntry) []string { return nonEmpty(e.IPv6CIDR) }),
		"entry.egress":      aclEntries(func(e aclEntry) []string { return boolean(e.Egress) }),
		"entry.protocol":    aclEntries(namesOfProtocol),
		"entry.rule-action": aclEntries(func(e aclEntry) []string { return nonEmpty(e.Action) }),
		"entry.rule-number": aclEntries(func(e aclEntry) []string { return nonEmpty(strconv.Itoa(e.Number)) }),

		"entry.icmp.code":       aclEntries(numberIn(func(e aclEntry) *aclTypeAndCode { return e.ICMP }, func(i *aclTypeAndCode) int { return i.Code })),
		"entry.icmp.type":       aclEntries(numberIn(func(e aclEntry) *aclTypeAndCode { return e.ICMP }, func(i *aclTypeAndCode) int { return i.Type })),
		"entry.port-range.from": aclEntries(numberIn(func(e aclEntry) *aclRangeOfPorts { return e.Ports }, func(p *aclRangeOfPorts) int { return p.From })),
		"entry.port-range.to":   aclEntries(numberIn(func(e aclEntry) *aclRangeOfPorts { return e.Ports }, func(p *aclRangeOfPorts) int { return p.To })),
	},
}

// namesOfProtocol returns the protocol of an entry as a filter may name it: "6" or "tcp" (EC2 API
// Reference, DescribeNetworkAcls, filter entry.protocol).
func namesOfProtocol(e aclEntry) []string {
	n, err := strconv.Atoi(e.Protocol)
	if name := ec2.Protocol(n).String(); err == nil && name != e.Protocol {
		return []string{e.Protocol, name}
	}
	return []string{e.Protocol}
}

// numberIn returns the function for a filter on a number of a part that not every entry has.
func numberIn[Part any](part func(aclEntry) *Part, number func(*Part) int) func(aclEntry) []string {
	return func(e aclEntry) []string {
		if p := part(e); p != nil {
			return []string{strconv.Itoa(number(p))}
		}
		return nil
	}
}

func aclAssociations(values func(aclAssociation) []string) func(aclItem) []string {
	return eachOf(func(a aclItem) []aclAssociation { return a.Associations }, values)
}

func aclEntries(values func(aclEntry) []string) func(aclItem) []string {
	return eachOf(func(a aclItem) []aclEntry { return a.Entries }, values)
}

func describeNetworkACLs(c *call, r *describeNetworkACLsRequest) (*describeNetworkACLsAnswer, error) {
	items, next, err := describe(c, aclListing, c.view.NetworkACLsOf(c.account, c.region), c.newACLItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeNetworkACLsAnswer{items, next}, nil
}
