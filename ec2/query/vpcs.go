package query

import (
	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// vpcActions manage VPCs.
var vpcActions = map[string]handler{
	"CreateVpc":        action(createVPC),
	"CreateDefaultVpc": action(createDefaultVPC),
	"DeleteVpc":        action(deleteVPC),

	"AssociateVpcCidrBlock":    action(associateVPCBlock),
	"DisassociateVpcCidrBlock": action(disassociateVPCBlock),

	"DescribeVpcs":         action(describeVPCs),
	"DescribeVpcAttribute": action(describeVPCAttribute),
	"ModifyVpcAttribute":   action(modifyVPCAttribute),
}

type createVPCRequest struct {
	CIDR    string             `wire:"CidrBlock"`
	Tenancy string             `wire:"InstanceTenancy"`
	Tags    []tagSpecification `wire:"TagSpecification"`
}

type vpcAnswer struct {
	VPC vpcItem `wire:"vpc"`
}

type vpcItem struct {
	ID          ec2.VPCID     `wire:"vpcId"`
	Owner       ec2.AccountID `wire:"ownerId"`
	State       string        `wire:"state"`
	CIDR        string        `wire:"cidrBlock"`
	Blocks      []vpcBlock    `wire:"cidrBlockAssociationSet"`
	IPv6Blocks  []vpcBlock    `wire:"ipv6CidrBlockAssociationSet"`
	DHCPOptions string        `wire:"dhcpOptionsId"`
	Tenancy     string        `wire:"instanceTenancy"`
	Default     bool          `wire:"isDefault"`
	Tags        []tag         `wire:"tagSet"`
}

// A vpcBlock is a CIDR block of a VPC.
type vpcBlock struct {
	Association ec2.AssociationID `wire:"associationId"`
	CIDR        string            `wire:"cidrBlock"`
	State       blockState        `wire:"cidrBlockState"`
}

type blockState struct {
	State string `wire:"state"`
}

func (c *call) newVPCItem(v *ec2.VPC) vpcItem {
	var blocks []vpcBlock
	for _, b := range v.Blocks() {
		blocks = append(blocks, vpcBlock{b.Association, b.CIDR.String(), blockState{"associated"}})
	}
	return vpcItem{
		ID:          v.ID,
		Owner:       v.Account,
		State:       "available",
		CIDR:        v.CIDR.String(),
		Blocks:      blocks,
		DHCPOptions: string(dhcpOptionsOf(v)),
		Tenancy:     "default",
		Default:     v.Default,
		Tags:        c.tags(string(v.ID)),
	}
}

func createVPC(c *call, r *createVPCRequest) (*vpcAnswer, error) {
	switch r.Tenancy {
	case "", "default":
	case "dedicated", "host":
		return nil, ec2.Errorf("UnsupportedOperation", "The tenancy %s is not served here", r.Tenancy)
	default:
		return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter instanceTenancy is invalid.", wire.Quote(r.Tenancy))
	}
	block, err := parseBlock(r.CIDR, "cidrBlock")
	if err != nil {
		return nil, err
	}
	tags, err := tagsFor(r.Tags, "vpc")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateVPC{Account: c.account, Region: c.region, CIDR: block, Tags: tags})
	if err != nil {
		return nil, err
	}
	return &vpcAnswer{c.newVPCItem(result.VPC)}, nil
}

type createDefaultVPCRequest struct{}

func createDefaultVPC(c *call, _ *createDefaultVPCRequest) (*vpcAnswer, error) {
	result, err := c.apply(&state.CreateDefaultVPC{Account: c.account, Region: c.region})
	if err != nil {
		return nil, err
	}
	return &vpcAnswer{c.newVPCItem(result.VPC)}, nil
}

type vpcRequest struct {
	VPC ec2.VPCID `wire:"VpcId"`
}

func deleteVPC(c *call, r *vpcRequest) (*returned, error) {
	if _, err := c.apply(&state.DeleteVPC{Account: c.account, Region: c.region, VPC: r.VPC}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describeVPCsRequest struct {
	IDs []string `wire:"VpcId"`
	listed
}

type describeVPCsAnswer struct {
	VPCs      []vpcItem `wire:"vpcSet"`
	NextToken string    `wire:"nextToken"`
}

var vpcListing = listing[vpcItem]{
	kind: "vpc",
	id:   func(v vpcItem) string { return string(v.ID) },
	filters: filterable[vpcItem]{
		"cidr":            func(v vpcItem) []string { return nonEmpty(v.CIDR) },
		"cidr-block":      func(v vpcItem) []string { return nonEmpty(v.CIDR) }, // not in the reference, but clients send it
		"cidrBlock":       func(v vpcItem) []string { return nonEmpty(v.CIDR) },
		"dhcp-options-id": func(v vpcItem) []string { return nonEmpty(v.DHCPOptions) },
		"dhcpOptionsId":   func(v vpcItem) []string { return nonEmpty(v.DHCPOptions) },
		"is-default":      func(v vpcItem) []string { return boolean(v.Default) },
		"isDefault":       func(v vpcItem) []string { return boolean(v.Default) },
		"owner-id":        func(v vpcItem) []string { return nonEmpty(v.Owner) },
		"state":           func(v vpcItem) []string { return nonEmpty(v.State) },
		"vpc-id":          func(v vpcItem) []string { return nonEmpty(v.ID) },

		"cidr-block-association.association-id": vpcBlocks(func(b vpcBlock) []string { return nonEmpty(b.Association) }),
		"cidr-block-association.cidr-block":     vpcBlocks(func(b vpcBlock) []string { return nonEmpty(b.CIDR) }),
		"cidr-block-association.state":          vpcBlocks(func(b vpcBlock) []string { return nonEmpty(b.State.State) }),

		"ipv6-cidr-block-association.association-id":  never[vpcItem],
		"ipv6-cidr-block-association.ipv6-cidr-block": never[vpcItem],
		"ipv6-cidr-block-association.ipv6-pool":       never[vpcItem],
		"ipv6-cidr-block-association.state":           never[vpcItem],
	},
}

func vpcBlocks(values func(vpcBlock) []string) func(vpcItem) []string {
	return eachOf(func(v vpcItem) []vpcBlock { return v.Blocks }, values)
}

func describeVPCs(c *call, r *describeVPCsRequest) (*describeVPCsAnswer, error) {
	items, next, err := describe(c, vpcListing, c.view.VPCsOf(c.account, c.region), c.newVPCItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeVPCsAnswer{items, next}, nil
}

type describeVPCAttributeRequest struct {
	VPC       ec2.VPCID `wire:"VpcId"`
	Attribute string    `wire:"Attribute"`
}

type describeVPCAttributeAnswer struct {
	VPC                 ec2.VPCID  `wire:"vpcId"`
	DNSSupport          *boolValue `wire:"enableDnsSupport"`
	DNSHostnames        *boolValue `wire:"enableDnsHostnames"`
	AddressUsageMetrics *boolValue `wire:"enableNetworkAddressUsageMetrics"`
}

func describeVPCAttribute(c *call, r *describeVPCAttributeRequest) (*describeVPCAttributeAnswer, error) {
	if r.Attribute == "" {
		return nil, ec2.Missing("attribute")
	}
	v, err := c.view.FindVPC(c.account, c.region, r.VPC)
	if err != nil {
		return nil, err
	}
	answer := &describeVPCAttributeAnswer{VPC: v.ID}
	switch r.Attribute {
	case "enableDnsSupport":
		answer.DNSSupport = &boolValue{v.DNSSupport}
	case "enableDnsHostnames":
		answer.DNSHostnames = &boolValue{v.DNSHostnames}
	case "enableNetworkAddressUsageMetrics":
		answer.AddressUsageMetrics = &boolValue{false}
	default:
		return nil, unknownAttribute(r.Attribute)
	}
	return answer, nil
}

type modifyVPCAttributeRequest struct {
	VPC                 ec2.VPCID `wire:"VpcId"`
	DNSSupport          boolParam `wire:"EnableDnsSupport"`
	DNSHostnames        boolParam `wire:"EnableDnsHostnames"`
	AddressUsageMetrics boolParam `wire:"EnableNetworkAddressUsageMetrics"`
}

func modifyVPCAttribute(c *call, r *modifyVPCAttributeRequest) (*returned, error) {
	if metrics := r.AddressUsageMetrics.Value; metrics != nil {
		if *metrics {
			return nil, unserved(c.action, "EnableNetworkAddressUsageMetrics")
		}
		if err := onlyOne(true, r.DNSSupport.Value != nil, r.DNSHostnames.Value != nil); err != nil {
			return nil, err
		}
		_, err := c.view.FindVPC(c.account, c.region, r.VPC) // metrics are always off
		return &done, err
	}
	_, err := c.apply(&state.ModifyVPC{Account: c.account, Region: c.region, VPC: r.VPC, DNSSupport: r.DNSSupport.Value, DNSHostnames: r.DNSHostnames.Value})
	if err != nil {
		return nil, err
	}
	return &done, nil
}
