package query

import (
	"cmp"
	"net/netip"
	"strconv"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// aclActions show network ACLs and change their entries. Each VPC has one ACL. An entry concerns all
// protocols and all addresses of a family, so each entry in an answer is enforced.
var aclActions = map[string]handler{
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

// aclPort and aclICMP mean nothing in an entry for all protocols (EC2 API Reference,
// CreateNetworkAclEntry, Protocol), so they are read and not used.
type aclPort struct {
	From *int `wire:"From"`
	To   *int `wire:"To"`
}

type aclICMP struct {
	Type *int `wire:"Type"`
	Code *int `wire:"Code"`
}

// entry returns the entry that a request describes. One that is not enforced is refused.
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
	if n, err := strconv.Atoi(r.Protocol); err != nil || n < -1 || n > 255 {
		return e, ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for IP protocol. Unknown protocol.", wire.Quote(r.Protocol))
	}
	if r.Protocol != "-1" {
		return e, ec2.Errorf("UnsupportedOperation", "A network ACL entry for one protocol is not enforced here, so it is refused: the protocol can be -1")
	}
	block, err := parseACLBlock(r.CIDR, r.IPv6CIDR)
	return ec2.ACLEntry{Number: *r.Number, Egress: *r.Egress, Allow: r.Action == "allow", CIDR: block}, err
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

type replaceNetworkACLAssociationRequest struct {
	ID  string `wire:"AssociationId"`
	ACL string `wire:"NetworkAclId"`
}

type replaceNetworkACLAssociationAnswer struct {
	ID string `wire:"newAssociationId"`
}

// replaceNetworkACLAssociation changes nothing: a VPC has one ACL, so the only ACL that a subnet can be
// associated with is the one that it has.
func replaceNetworkACLAssociation(c *call, r *replaceNetworkACLAssociationRequest) (*replaceNetworkACLAssociationAnswer, error) {
	for v := range c.view.VPCsOf(c.account, c.region) {
		for _, a := range c.newACLItem(v).Associations {
			switch {
			case a.ID != r.ID:
			case a.ACL != r.ACL:
				return nil, ec2.NoSuch("acl", r.ACL)
			case c.dryRun:
				return nil, dryRunSucceeded()
			default:
				return &replaceNetworkACLAssociationAnswer{a.ID}, nil
			}
		}
	}
	return nil, ec2.NoSuch("aclassoc", r.ID)
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
	Number   int    `wire:"ruleNumber"`
	Protocol string `wire:"protocol"`
	Action   string `wire:"ruleAction"`
	Egress   bool   `wire:"egress"`
	CIDR     string `wire:"cidrBlock"`
	IPv6CIDR string `wire:"ipv6CidrBlock"`
}

type aclAssociation struct {
	ID     string       `wire:"networkAclAssociationId"`
	ACL    string       `wire:"networkAclId"`
	Subnet ec2.SubnetID `wire:"subnetId"`
}

// lastEntry denies what no other entry of its direction admits (Amazon VPC User Guide, "Default
// network ACL"). It cannot be removed. The console shows its number as *.
func lastEntry(egress bool) aclEntry {
	return aclEntry{Number: 32767, Protocol: "-1", Action: "deny", Egress: egress, CIDR: "0.0.0.0/0"}
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
	return item
}

func (c *call) newACLItem(v *ec2.VPC) aclItem {
	item := aclItem{ID: v.ACL, VPC: v.ID, Owner: v.Account, Default: true, Tags: c.tags(v.ACL)}
	for _, egress := range []bool{true, false} {
		for _, e := range c.view.NetworkACL(v).Entries {
			if e.Egress == egress {
				item.Entries = append(item.Entries, newACLEntry(e))
			}
		}
		item.Entries = append(item.Entries, lastEntry(egress))
	}
	for s := range c.view.SubnetsIn(v.ID) {
		item.Associations = append(item.Associations, aclAssociation{derivedID("aclassoc", string(s.ID)), v.ACL, s.ID})
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
		"entry.protocol":    aclEntries(func(e aclEntry) []string { return nonEmpty(e.Protocol) }),
		"entry.rule-action": aclEntries(func(e aclEntry) []string { return nonEmpty(e.Action) }),
		"entry.rule-number": aclEntries(func(e aclEntry) []string { return nonEmpty(strconv.Itoa(e.Number)) }),

		"entry.icmp.code":       never[aclItem],
		"entry.icmp.type":       never[aclItem],
		"entry.port-range.from": never[aclItem],
		"entry.port-range.to":   never[aclItem],
	},
}

func aclAssociations(values func(aclAssociation) []string) func(aclItem) []string {
	return eachOf(func(a aclItem) []aclAssociation { return a.Associations }, values)
}

func aclEntries(values func(aclEntry) []string) func(aclItem) []string {
	return eachOf(func(a aclItem) []aclEntry { return a.Entries }, values)
}

func describeNetworkACLs(c *call, r *describeNetworkACLsRequest) (*describeNetworkACLsAnswer, error) {
	items, next, err := describe(c, aclListing, c.view.VPCsOf(c.account, c.region), c.newACLItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeNetworkACLsAnswer{items, next}, nil
}
