package query

import "palisade/ec2"

// classicLinkActions show that no VPC is linked to EC2-Classic. Linking would change who
// reaches whom, so it cannot be turned on.
var classicLinkActions = map[string]handler{
	"DescribeVpcClassicLink":           action(describeClassicLink),
	"DescribeVpcClassicLinkDnsSupport": action(describeClassicLinkDNS),
}

type classicLinkRequest struct {
	IDs     []string `wire:"VpcId"`
	Filters []filter `wire:"Filter"`
}

type classicLinkAnswer struct {
	VPCs []classicLinkItem `wire:"vpcSet"`
}

type classicLinkItem struct {
	ID      string `wire:"vpcId"`
	Enabled bool   `wire:"classicLinkEnabled"`
	Tags    []tag  `wire:"tagSet"`
}

var classicLinkListing = listing[classicLinkItem]{
	kind: "vpc",
	id:   func(v classicLinkItem) string { return v.ID },
	filters: filterable[classicLinkItem]{
		"is-classic-link-enabled": func(v classicLinkItem) []string { return boolean(v.Enabled) },
	},
}

func describeClassicLink(c *call, r *classicLinkRequest) (*classicLinkAnswer, error) {
	item := func(v *ec2.VPC) classicLinkItem { return classicLinkItem{ID: string(v.ID), Tags: c.tags(string(v.ID))} }
	items, _, err := describe(c, classicLinkListing, c.view.VPCsOf(c.account, c.region), item, r.IDs, listed{Filters: r.Filters})
	if err != nil {
		return nil, err
	}
	return &classicLinkAnswer{items}, nil
}

type classicLinkDNSRequest struct {
	IDs []string `wire:"VpcIds"`
	paged
}

type classicLinkDNSAnswer struct {
	VPCs      []classicLinkDNSItem `wire:"vpcs"`
	NextToken string               `wire:"nextToken"`
}

type classicLinkDNSItem struct {
	ID      string `wire:"vpcId"`
	Enabled bool   `wire:"classicLinkDnsSupported"`
}

var classicLinkDNSListing = listing[classicLinkDNSItem]{kind: "vpc", id: func(v classicLinkDNSItem) string { return v.ID }}

func describeClassicLinkDNS(c *call, r *classicLinkDNSRequest) (*classicLinkDNSAnswer, error) {
	item := func(v *ec2.VPC) classicLinkDNSItem { return classicLinkDNSItem{ID: string(v.ID)} }
	items, next, err := describe(c, classicLinkDNSListing, c.view.VPCsOf(c.account, c.region), item, r.IDs, listed{paged: r.paged})
	if err != nil {
		return nil, err
	}
	return &classicLinkDNSAnswer{items, next}, nil
}
