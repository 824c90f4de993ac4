package query

import (
	"strconv"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/region"
	"palisade/ec2/state"
)

// subnetActions manage subnets.
var subnetActions = map[string]handler{
	"CreateSubnet":          action(createSubnet),
	"CreateDefaultSubnet":   action(createDefaultSubnet),
	"DeleteSubnet":          action(deleteSubnet),
	"DescribeSubnets":       action(describeSubnets),
	"ModifySubnetAttribute": action(modifySubnetAttribute),
}

type createSubnetRequest struct {
	VPC     ec2.VPCID          `wire:"VpcId"`
	CIDR    string             `wire:"CidrBlock"`
	Outpost string             `wire:"OutpostArn"`
	Tags    []tagSpecification `wire:"TagSpecification"`
	zoneRequest
}

type zoneRequest struct {
	Zone   string `wire:"AvailabilityZone"`
	ZoneID string `wire:"AvailabilityZoneId"`
}

type subnetAnswer struct {
	Subnet subnetItem `wire:"subnet"`
}

type subnetItem struct {
	ID             ec2.SubnetID  `wire:"subnetId"`
	ARN            string        `wire:"subnetArn"`
	State          string        `wire:"state"`
	VPC            ec2.VPCID     `wire:"vpcId"`
	Owner          ec2.AccountID `wire:"ownerId"`
	CIDR           string        `wire:"cidrBlock"`
	IPv6Blocks     []vpcBlock    `wire:"ipv6CidrBlockAssociationSet"`
	Free           int           `wire:"availableIpAddressCount"`
	Zone           string        `wire:"availabilityZone"`
	ZoneID         string        `wire:"availabilityZoneId"`
	Default        bool          `wire:"defaultForAz"`
	MapPublic      bool          `wire:"mapPublicIpOnLaunch"`
	MapCustomer    bool          `wire:"mapCustomerOwnedIpOnLaunch"`
	AssignIPv6     bool          `wire:"assignIpv6AddressOnCreation"`
	IPv6Native     bool          `wire:"ipv6Native"`
	DNS64          bool          `wire:"enableDns64"`
	PrivateDNSName hostnameType  `wire:"privateDnsNameOptionsOnLaunch"`
	Tags           []tag         `wire:"tagSet"`
}

func (c *call) newSubnetItem(s *ec2.Subnet) subnetItem {
	return subnetItem{
		ID:             s.ID,
		ARN:            arn(s.Region, s.Account, "subnet", string(s.ID)),
		State:          "available",
		VPC:            s.VPC,
		Owner:          s.Account,
		CIDR:           s.CIDR.String(),
		Free:           c.view.FreeAddresses(s),
		Zone:           s.Zone,
		ZoneID:         region.ZoneID(s.Zone),
		Default:        s.Default,
		MapPublic:      s.MapPublic,
		PrivateDNSName: hostnameType{Type: "ip-name"},
		Tags:           c.tags(string(s.ID)),
	}
}

// zone returns the name of the zone that a request gives by name or by id, "" for none.
func (r zoneRequest) zone(c *call) (string, error) {
	switch {
	case r.ZoneID == "":
		return r.Zone, nil
	case r.Zone != "":
		return "", ec2.Errorf("InvalidParameterCombination", "The parameters AvailabilityZone and AvailabilityZoneId cannot be used together")
	}
	var ids []string
	for _, z := range c.view.Zones(c.region) {
		id := region.ZoneID(z.Name)
		if id == r.ZoneID {
			return z.Name, nil
		}
		ids = append(ids, id)
	}
	return "", ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter availabilityZoneId is invalid. Subnets can currently only be created in the following availability zones: %s.", wire.Quote(r.ZoneID), strings.Join(ids, ", "))
}

func createSubnet(c *call, r *createSubnetRequest) (*subnetAnswer, error) {
	if r.Outpost != "" {
		return nil, unserved(c.action, "OutpostArn")
	}
	block, err := parseBlock(r.CIDR, "cidrBlock")
	if err != nil {
		return nil, err
	}
	zone, err := r.zone(c)
	if err != nil {
		return nil, err
	}
	tags, err := tagsFor(r.Tags, "subnet")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateSubnet{Account: c.account, Region: c.region, VPC: r.VPC, CIDR: block, Zone: zone, Tags: tags})
	if err != nil {
		return nil, err
	}
	return &subnetAnswer{c.newSubnetItem(result.Subnet)}, nil
}

type createDefaultSubnetRequest struct {
	zoneRequest
}

func createDefaultSubnet(c *call, r *createDefaultSubnetRequest) (*subnetAnswer, error) {
	zone, err := r.zone(c)
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateDefaultSubnet{Account: c.account, Region: c.region, Zone: zone})
	if err != nil {
		return nil, err
	}
	return &subnetAnswer{c.newSubnetItem(result.Subnet)}, nil
}

type deleteSubnetRequest struct {
	Subnet ec2.SubnetID `wire:"SubnetId"`
}

func deleteSubnet(c *call, r *deleteSubnetRequest) (*returned, error) {
	if _, err := c.apply(&state.DeleteSubnet{Account: c.account, Region: c.region, Subnet: r.Subnet}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describeSubnetsRequest struct {
	IDs []string `wire:"SubnetId"`
	listed
}

type describeSubnetsAnswer struct {
	Subnets   []subnetItem `wire:"subnetSet"`
	NextToken string       `wire:"nextToken"`
}

var subnetListing = listing[subnetItem]{
	kind: "subnet",
	id:   func(s subnetItem) string { return string(s.ID) },
	filters: filterable[subnetItem]{
		"availability-zone":               func(s subnetItem) []string { return nonEmpty(s.Zone) },
		"availabilityZone":                func(s subnetItem) []string { return nonEmpty(s.Zone) },
		"availability-zone-id":            func(s subnetItem) []string { return nonEmpty(s.ZoneID) },
		"availabilityZoneId":              func(s subnetItem) []string { return nonEmpty(s.ZoneID) },
		"available-ip-address-count":      func(s subnetItem) []string { return nonEmpty(strconv.Itoa(s.Free)) },
		"cidr":                            func(s subnetItem) []string { return nonEmpty(s.CIDR) },
		"cidr-block":                      func(s subnetItem) []string { return nonEmpty(s.CIDR) },
		"cidrBlock":                       func(s subnetItem) []string { return nonEmpty(s.CIDR) },
		"default-for-az":                  func(s subnetItem) []string { return boolean(s.Default) },
		"defaultForAz":                    func(s subnetItem) []string { return boolean(s.Default) },
		"enable-dns64":                    func(s subnetItem) []string { return boolean(s.DNS64) },
		"ipv6-native":                     func(s subnetItem) []string { return boolean(s.IPv6Native) },
		"map-customer-owned-ip-on-launch": func(s subnetItem) []string { return boolean(s.MapCustomer) },
		"map-public-ip-on-launch":         func(s subnetItem) []string { return boolean(s.MapPublic) },
		"owner-id":                        func(s subnetItem) []string { return nonEmpty(s.Owner) },
		"state":                           func(s subnetItem) []string { return nonEmpty(s.State) },
		"subnet-arn":                      func(s subnetItem) []string { return nonEmpty(s.ARN) },
		"subnet-id":                       func(s subnetItem) []string { return nonEmpty(s.ID) },
		"vpc-id":                          func(s subnetItem) []string { return nonEmpty(s.VPC) },

		"private-dns-name-options-on-launch.hostname-type":                        func(s subnetItem) []string { return nonEmpty(s.PrivateDNSName.Type) },
		"private-dns-name-options-on-launch.enable-resource-name-dns-a-record":    func(s subnetItem) []string { return boolean(s.PrivateDNSName.A) },
		"private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record": func(s subnetItem) []string { return boolean(s.PrivateDNSName.AAAA) },

		"customer-owned-ipv4-pool":                    never[subnetItem],
		"enable-lni-at-device-index":                  never[subnetItem],
		"ipv6-cidr-block-association.association-id":  never[subnetItem],
		"ipv6-cidr-block-association.ipv6-cidr-block": never[subnetItem],
		"ipv6-cidr-block-association.state":           never[subnetItem],
		"outpost-arn":                                 never[subnetItem],
	},
}

func describeSubnets(c *call, r *describeSubnetsRequest) (*describeSubnetsAnswer, error) {
	items, next, err := describe(c, subnetListing, c.view.SubnetsOf(c.account, c.region), c.newSubnetItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeSubnetsAnswer{items, next}, nil
}

type modifySubnetAttributeRequest struct {
	Subnet    ec2.SubnetID `wire:"SubnetId"`
	MapPublic boolParam    `wire:"MapPublicIpOnLaunch"`

	// The attributes below are not served. A request may only set them to the value that
	// every subnet has.

	AssignIPv6   boolParam `wire:"AssignIpv6AddressOnCreation"`
	MapCustomer  boolParam `wire:"MapCustomerOwnedIpOnLaunch"`
	DNS64        boolParam `wire:"EnableDns64"`
	ARecord      boolParam `wire:"EnableResourceNameDnsARecordOnLaunch"`
	AAAARecord   boolParam `wire:"EnableResourceNameDnsAAAARecordOnLaunch"`
	HostnameType string    `wire:"PrivateDnsHostnameTypeOnLaunch"`
}

func modifySubnetAttribute(c *call, r *modifySubnetAttributeRequest) (*returned, error) {
	attributes := 0
	for _, a := range []struct {
		name  string
		asked *bool
	}{
		{"AssignIpv6AddressOnCreation", r.AssignIPv6.Value},
		{"MapCustomerOwnedIpOnLaunch", r.MapCustomer.Value},
		{"EnableDns64", r.DNS64.Value},
		{"EnableResourceNameDnsARecordOnLaunch", r.ARecord.Value},
		{"EnableResourceNameDnsAAAARecordOnLaunch", r.AAAARecord.Value},
	} {
		if a.asked == nil {
			continue
		}
		if *a.asked {
			return nil, unserved(c.action, a.name)
		}
		attributes++
	}
	if r.HostnameType != "" {
		if r.HostnameType != "ip-name" {
			return nil, unserved(c.action, "PrivateDnsHostnameTypeOnLaunch")
		}
		attributes++
	}
	if r.MapPublic.Value == nil && attributes == 1 {
		_, err := c.view.FindSubnet(c.account, c.region, r.Subnet)
		return &done, err
	}
	if r.MapPublic.Value != nil {
		attributes++
	}
	if attributes > 1 {
		return nil, ec2.Errorf("InvalidParameterCombination", "Only one subnet attribute can be modified at a time")
	}
	if _, err := c.apply(&state.ModifySubnet{Account: c.account, Region: c.region, Subnet: r.Subnet, MapPublic: r.MapPublic.Value}); err != nil {
		return nil, err
	}
	return &done, nil
}
