package query

import (
	"palisade/ec2"
	"palisade/ec2/state"
)

// dhcpActions manage sets of DHCP options. There is no DHCP server, so instances do not get them.
var dhcpActions = map[string]handler{
	"CreateDhcpOptions":    action(createDHCPOptions),
	"DeleteDhcpOptions":    action(deleteDHCPOptions),
	"AssociateDhcpOptions": action(associateDHCPOptions),
	"DescribeDhcpOptions":  action(describeDHCPOptions),
}

type createDHCPRequest struct {
	Options []dhcpParam        `wire:"DhcpConfiguration"`
	Tags    []tagSpecification `wire:"TagSpecification"`
}

type dhcpParam struct {
	Key    string   `wire:"Key"`
	Values []string `wire:"Value"`
}

type createDHCPAnswer struct {
	Options dhcpItem `wire:"dhcpOptions"`
}

type dhcpItem struct {
	ID      ec2.DHCPOptionsID `wire:"dhcpOptionsId"`
	Owner   ec2.AccountID     `wire:"ownerId"`
	Options []dhcpOptionItem  `wire:"dhcpConfigurationSet"`
	Tags    []tag             `wire:"tagSet"`
}

type dhcpOptionItem struct {
	Key    string      `wire:"key"`
	Values []textValue `wire:"valueSet"`
}

func (c *call) newDHCPItem(d *ec2.DHCPOptions) dhcpItem {
	item := dhcpItem{ID: d.ID, Owner: d.Account, Tags: c.tags(string(d.ID))}
	for _, o := range d.Options {
		option := dhcpOptionItem{Key: o.Key}
		for _, v := range o.Values {
			option.Values = append(option.Values, textValue{v})
		}
		item.Options = append(item.Options, option)
	}
	return item
}

func createDHCPOptions(c *call, r *createDHCPRequest) (*createDHCPAnswer, error) {
	tags, err := tagsFor(r.Tags, "dhcp-options")
	if err != nil {
		return nil, err
	}
	change := &state.CreateDHCPOptions{Account: c.account, Region: c.region, Tags: tags}
	for _, o := range r.Options {
		change.Options = append(change.Options, ec2.DHCPOption{Key: o.Key, Values: o.Values})
	}
	result, err := c.apply(change)
	if err != nil {
		return nil, err
	}
	return &createDHCPAnswer{c.newDHCPItem(result.DHCP)}, nil
}

type deleteDHCPRequest struct {
	Options ec2.DHCPOptionsID `wire:"DhcpOptionsId"`
}

func deleteDHCPOptions(c *call, r *deleteDHCPRequest) (*returned, error) {
	if _, err := c.apply(&state.DeleteDHCPOptions{Account: c.account, Region: c.region, Options: r.Options}); err != nil {
		return nil, err
	}
	return &done, nil
}

type associateDHCPRequest struct {
	deleteDHCPRequest
	VPC ec2.VPCID `wire:"VpcId"`
}

func associateDHCPOptions(c *call, r *associateDHCPRequest) (*returned, error) {
	if _, err := c.apply(&state.AssociateDHCPOptions{Account: c.account, Region: c.region, VPC: r.VPC, Options: r.Options}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describeDHCPOptionsRequest struct {
	IDs []string `wire:"DhcpOptionsId"`
	listed
}

type describeDHCPOptionsAnswer struct {
	Options   []dhcpItem `wire:"dhcpOptionsSet"`
	NextToken string     `wire:"nextToken"`
}

var dhcpListing = listing[dhcpItem]{
	kind: "dopt",
	id:   func(o dhcpItem) string { return string(o.ID) },
	filters: filterable[dhcpItem]{
		"dhcp-options-id": func(o dhcpItem) []string { return nonEmpty(o.ID) },
		"key":             func(o dhcpItem) []string { return valuesOf(o.Options, func(x dhcpOptionItem) string { return x.Key }) },
		"owner-id":        func(o dhcpItem) []string { return nonEmpty(o.Owner) },
		"value": eachOf(func(o dhcpItem) []dhcpOptionItem { return o.Options }, func(x dhcpOptionItem) []string {
			return valuesOf(x.Values, func(v textValue) string { return v.Value })
		}),
	},
}

func describeDHCPOptions(c *call, r *describeDHCPOptionsRequest) (*describeDHCPOptionsAnswer, error) {
	items, next, err := describe(c, dhcpListing, c.view.DHCPOptionsOf(c.account, c.region), c.newDHCPItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeDHCPOptionsAnswer{items, next}, nil
}

// dhcpOptionsOf returns the id of the set that a VPC has.
func dhcpOptionsOf(v *ec2.VPC) ec2.DHCPOptionsID {
	if v.DHCPOptions == "" {
		return state.DefaultDHCPOptions(v.Account, v.Region).ID
	}
	return v.DHCPOptions
}
