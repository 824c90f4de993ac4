package query

import (
	"net/netip"
	"slices"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// addressActions manage elastic addresses.
var addressActions = map[string]handler{
	"AllocateAddress":            action(allocateAddress),
	"ReleaseAddress":             action(releaseAddress),
	"AssociateAddress":           action(associateAddress),
	"DisassociateAddress":        action(disassociateAddress),
	"DescribeAddresses":          action(describeAddresses),
	"DescribeAddressesAttribute": action(describeAddressesAttribute),
}

const (
	vpcDomain     = "vpc"
	classicDomain = "standard"
	publicPool    = "amazon" // EC2's name of its own pool of public addresses
)

type allocateAddressRequest struct {
	Domain      string             `wire:"Domain"`
	BorderGroup ec2.Region         `wire:"NetworkBorderGroup"`
	Pool        string             `wire:"PublicIpv4Pool"`
	Tags        []tagSpecification `wire:"TagSpecification"`

	Address      string `wire:"Address"`
	CustomerPool string `wire:"CustomerOwnedIpv4Pool"`
	IPAMPool     string `wire:"IpamPoolId"`
}

type allocateAddressAnswer struct {
	Public      string           `wire:"publicIp"`
	Domain      string           `wire:"domain"`
	ID          ec2.AllocationID `wire:"allocationId"`
	Pool        string           `wire:"publicIpv4Pool"`
	BorderGroup ec2.Region       `wire:"networkBorderGroup"`
}

func allocateAddress(c *call, r *allocateAddressRequest) (*allocateAddressAnswer, error) {
	if err := r.check(c); err != nil {
		return nil, err
	}
	tags, err := tagsFor(r.Tags, "elastic-ip")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.AllocateAddress{Account: c.account, Region: c.region, Tags: tags})
	if err != nil {
		return nil, err
	}
	e := result.Elastic
	return &allocateAddressAnswer{addressText(e.Public), vpcDomain, e.ID, publicPool, c.region}, nil
}

// check returns an error for a request that asks for an elastic address of EC2-Classic,
// where an interface keeps the public address of its lease. An EC2-Classic account asks for
// one if it names no domain.
func (r *allocateAddressRequest) check(c *call) error {
	if err := refuseAskedFor(c.action, []askedFor{
		{"Address", r.Address != ""},
		{"CustomerOwnedIpv4Pool", r.CustomerPool != ""},
		{"IpamPoolId", r.IPAMPool != ""},
		{"PublicIpv4Pool", r.Pool != "" && r.Pool != publicPool},
	}); err != nil {
		return err
	}
	if r.BorderGroup != "" && r.BorderGroup != c.region {
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter networkBorderGroup is invalid.", wire.Quote(string(r.BorderGroup)))
	}
	domain := r.Domain
	if a, ok := c.view.Account(c.account); domain == "" && ok && a.Platform == ec2.Classic {
		domain = classicDomain
	}
	switch domain {
	case "", vpcDomain:
		return nil
	case classicDomain:
		return ec2.Errorf("UnsupportedOperation", "Elastic addresses of EC2-Classic (Domain standard) are not served here; ask for Domain vpc")
	}
	return ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for domain.", wire.Quote(domain))
}

// An addressSelector names an elastic address by the address itself, which EC2 accepts only
// in EC2-Classic. In a VPC a request must name it by an id.
type addressSelector struct {
	Public string `wire:"PublicIp"`
}

// refuse returns an error for a request that names an address but not its id: the error
// with code and text, or InvalidAddress.NotFound if the account does not have the address.
func (s addressSelector) refuse(c *call, id, code, text string) error {
	if id != "" || s.Public == "" {
		return nil
	}
	known := slices.ContainsFunc(c.addressItems(), func(a addressItem) bool { return a.Public == s.Public })
	if !known {
		return noSuchAddress(s.Public)
	}
	return ec2.Errorf(code, "%s", text)
}

func noSuchAddress(address string) error {
	return ec2.Errorf("InvalidAddress.NotFound", "Address '%s' not found.", wire.Quote(address))
}

type releaseAddressRequest struct {
	Allocation  ec2.AllocationID `wire:"AllocationId"`
	BorderGroup ec2.Region       `wire:"NetworkBorderGroup"`
	addressSelector
}

func releaseAddress(c *call, r *releaseAddressRequest) (*returned, error) {
	if err := r.refuse(c, string(r.Allocation), "InvalidParameterValue", "You must specify an allocation id when releasing a VPC elastic IP address"); err != nil {
		return nil, err
	}
	if _, err := c.apply(&state.ReleaseAddress{Account: c.account, Region: c.region, Allocation: r.Allocation}); err != nil {
		return nil, err
	}
	return &done, nil
}

type associateAddressRequest struct {
	Allocation         ec2.AllocationID `wire:"AllocationId"`
	Instance           ec2.InstanceID   `wire:"InstanceId"`
	Interface          ec2.InterfaceID  `wire:"NetworkInterfaceId"`
	Private            string           `wire:"PrivateIpAddress"`
	AllowReassociation *bool            `wire:"AllowReassociation"`
	addressSelector
}

type associateAddressAnswer struct {
	returned
	Association ec2.AssociationID `wire:"associationId"`
}

func associateAddress(c *call, r *associateAddressRequest) (*associateAddressAnswer, error) {
	if err := r.refuse(c, string(r.Allocation), "InvalidParameterCombination", "You must specify an allocation id when mapping an address to a VPC instance"); err != nil {
		return nil, err
	}
	var private netip.Addr
	if r.Private != "" {
		a, err := netip.ParseAddr(r.Private)
		if err != nil || !a.Is4() {
			return nil, ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for PrivateIpAddress. It is not an IPv4 address.", wire.Quote(r.Private))
		}
		private = a
	}
	result, err := c.apply(&state.AssociateAddress{
		Account:            c.account,
		Region:             c.region,
		Allocation:         r.Allocation,
		Instance:           r.Instance,
		Interface:          r.Interface,
		Private:            private,
		AllowReassociation: r.AllowReassociation,
	})
	if err != nil {
		return nil, err
	}
	return &associateAddressAnswer{done, result.Elastic.Association}, nil
}

type disassociateAddressRequest struct {
	Association ec2.AssociationID `wire:"AssociationId"`
	addressSelector
}

func disassociateAddress(c *call, r *disassociateAddressRequest) (*returned, error) {
	if err := r.refuse(c, string(r.Association), "InvalidParameterValue", "You must specify an association id when unmapping an address from a VPC instance"); err != nil {
		return nil, err
	}
	if _, err := c.apply(&state.DisassociateAddress{Account: c.account, Region: c.region, Association: r.Association}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describeAddressesRequest struct {
	IDs     []string `wire:"AllocationId"`
	Publics []string `wire:"PublicIp"`
	listed
}

type describeAddressesAnswer struct {
	Addresses []addressItem `wire:"addressesSet"`
	NextToken string        `wire:"nextToken"`
}

type addressItem struct {
	Public         string            `wire:"publicIp"`
	ID             ec2.AllocationID  `wire:"allocationId"`
	Domain         string            `wire:"domain"`
	Instance       ec2.InstanceID    `wire:"instanceId"`
	Association    ec2.AssociationID `wire:"associationId"`
	Interface      ec2.InterfaceID   `wire:"networkInterfaceId"`
	InterfaceOwner ec2.AccountID     `wire:"networkInterfaceOwnerId"`
	Private        string            `wire:"privateIpAddress"`
	Subnet         ec2.SubnetID      `wire:"subnetId"`
	Pool           string            `wire:"publicIpv4Pool"`
	BorderGroup    ec2.Region        `wire:"networkBorderGroup"`
	Tags           []tag             `wire:"tagSet"`
}

func (c *call) newAddressItem(e *ec2.ElasticAddress) addressItem {
	item := addressItem{
		Public:      addressText(e.Public),
		ID:          e.ID,
		Domain:      vpcDomain,
		Association: e.Association,
		Interface:   e.Interface,
		Private:     addressText(e.Private),
		Pool:        publicPool,
		BorderGroup: e.Region,
		Tags:        c.tags(string(e.ID)),
	}
	if eni, ok := c.view.Interface(e.Interface); ok {
		item.Instance, item.InterfaceOwner, item.Subnet = eni.Instance, eni.Account, eni.Subnet
	}
	return item
}

func (c *call) addressItems() (items []addressItem) {
	for e := range c.view.ElasticAddressesOf(c.account, c.region) {
		items = append(items, c.newAddressItem(e))
	}
	return items
}

var addressListing = listing[addressItem]{
	kind: "eipalloc",
	id:   func(a addressItem) string { return string(a.ID) },
	filters: filterable[addressItem]{
		"allocation-id":              func(a addressItem) []string { return nonEmpty(a.ID) },
		"association-id":             func(a addressItem) []string { return nonEmpty(a.Association) },
		"domain":                     func(a addressItem) []string { return nonEmpty(a.Domain) },
		"instance-id":                func(a addressItem) []string { return nonEmpty(a.Instance) },
		"network-border-group":       func(a addressItem) []string { return nonEmpty(a.BorderGroup) },
		"network-interface-id":       func(a addressItem) []string { return nonEmpty(a.Interface) },
		"network-interface-owner-id": func(a addressItem) []string { return nonEmpty(a.InterfaceOwner) },
		"private-ip-address":         func(a addressItem) []string { return nonEmpty(a.Private) },
		"public-ip":                  func(a addressItem) []string { return nonEmpty(a.Public) },
	},
}

// addressText returns the address as text, "" for the zero address.
func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func describeAddresses(c *call, r *describeAddressesRequest) (*describeAddressesAnswer, error) {
	items := c.addressItems()
	for _, public := range r.Publics {
		if !slices.ContainsFunc(items, func(a addressItem) bool { return a.Public == public }) {
			return nil, noSuchAddress(public)
		}
	}
	if len(r.Publics) > 0 {
		items = slices.DeleteFunc(items, func(a addressItem) bool { return !slices.Contains(r.Publics, a.Public) })
	}
	items, next, err := addressListing.pick(c, items, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeAddressesAnswer{items, next}, nil
}

type describeAddressesAttributeRequest struct {
	IDs       []string `wire:"AllocationId"`
	Attribute string   `wire:"Attribute"`
	paged
}

type describeAddressesAttributeAnswer struct {
	Addresses []addressItem `wire:"addressSet"`
}

// describeAddressesAttribute shows the addresses that have a reverse DNS name: none,
// because names are not served.
func describeAddressesAttribute(c *call, r *describeAddressesAttributeRequest) (*describeAddressesAttributeAnswer, error) {
	if r.Attribute != "" && r.Attribute != "domain-name" {
		return nil, unknownAttribute(r.Attribute)
	}
	if _, _, err := addressListing.pick(c, c.addressItems(), r.IDs, listed{paged: r.paged}); err != nil {
		return nil, err
	}
	return &describeAddressesAttributeAnswer{}, nil
}
