package query

import (
	"strconv"

	"palisade/ec2"
)

// aclActions show network ACLs. Each VPC has one ACL, which admits everything and cannot be
// changed. So every entry in an answer is enforced.
var aclActions = map[string]handler{
	"DescribeNetworkAcls": action(describeNetworkACLs),
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
}

type aclAssociation struct {
	ID     string       `wire:"networkAclAssociationId"`
	ACL    string       `wire:"networkAclId"`
	Subnet ec2.SubnetID `wire:"subnetId"`
}

// openEntries allow all traffic in both directions (Amazon VPC User Guide, "Default
// network ACL"). The console shows rule 32767 as *.
var openEntries = []aclEntry{
	{100, "-1", "allow", true, "0.0.0.0/0"},
	{32767, "-1", "deny", true, "0.0.0.0/0"},
	{100, "-1", "allow", false, "0.0.0.0/0"},
	{32767, "-1", "deny", false, "0.0.0.0/0"},
}

func (c *call) newACLItem(v *ec2.VPC) aclItem {
	item := aclItem{ID: v.ACL, VPC: v.ID, Owner: v.Account, Default: true, Entries: openEntries, Tags: c.tags(v.ACL)}
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
		"entry.egress":      aclEntries(func(e aclEntry) []string { return boolean(e.Egress) }),
		"entry.protocol":    aclEntries(func(e aclEntry) []string { return nonEmpty(e.Protocol) }),
		"entry.rule-action": aclEntries(func(e aclEntry) []string { return nonEmpty(e.Action) }),
		"entry.rule-number": aclEntries(func(e aclEntry) []string { return nonEmpty(strconv.Itoa(e.Number)) }),

		"entry.icmp.code":       never[aclItem],
		"entry.icmp.type":       never[aclItem],
		"entry.ipv6-cidr":       never[aclItem],
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
