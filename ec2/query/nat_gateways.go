package query

import (
	"net/netip"
	"regexp"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// natActions manage NAT gateways.
var natActions = map[string]handler{
	"CreateNatGateway":    action(createNATGateway),
	"DeleteNatGateway":    action(deleteNATGateway),
	"DescribeNatGateways": action(describeNATGateways),
}

type createNATGatewayRequest struct {
	Subnet       ec2.SubnetID       `wire:"SubnetId"`
	Connectivity string             `wire:"ConnectivityType"`
	Allocation   ec2.AllocationID   `wire:"AllocationId"`
	Address      string             `wire:"PrivateIpAddress"`
	ClientToken  string             `wire:"ClientToken"`
	Tags         []tagSpecification `wire:"TagSpecification"`

	Mode                 string   `wire:"AvailabilityMode"` // zonal; a regional gateway has no subnet
	VPC                  string   `wire:"VpcId"`
	SecondaryAllocations []string `wire:"SecondaryAllocationId"`
	SecondaryAddresses   []string `wire:"SecondaryPrivateIpAddress"`
	SecondaryCount       int      `wire:"SecondaryPrivateIpAddressCount"`
}

// refuse returns an error for what is not served: gateways of a whole region, and secondary addresses.
func (r *createNATGatewayRequest) refuse() error {
	switch {
	case r.Mode != "" && r.Mode != "zonal" && r.Mode != "regional":
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter availabilityMode is invalid. It is zonal or regional.", wire.Quote(r.Mode))
	case r.Mode == "regional" || r.VPC != "":
		return ec2.Errorf("UnsupportedOperation", "Regional NAT gateways (AvailabilityMode, VpcId) are not served here; make one in a subnet of each zone")
	case len(r.SecondaryAllocations) > 0 || len(r.SecondaryAddresses) > 0 || r.SecondaryCount != 0:
		return ec2.Errorf("UnsupportedOperation", "Secondary addresses of NAT gateways are not served here; a gateway has one address")
	}
	return nil
}

type createNATGatewayAnswer struct {
	ClientToken string  `wire:"clientToken"`
	Gateway     natItem `wire:"natGateway"`
}

type natItem struct {
	ID             ec2.NATGatewayID `wire:"natGatewayId"`
	Subnet         ec2.SubnetID     `wire:"subnetId"`
	VPC            ec2.VPCID        `wire:"vpcId"`
	State          string           `wire:"state"`
	Created        time.Time        `wire:"createTime"`
	Deleted        time.Time        `wire:"deleteTime"`
	FailureCode    string           `wire:"failureCode"`
	FailureMessage string           `wire:"failureMessage"`
	Connectivity   string           `wire:"connectivityType"`
	Mode           string           `wire:"availabilityMode"`
	Addresses      []natAddress     `wire:"natGatewayAddressSet"`
	Tags           []tag            `wire:"tagSet"`
}

type natAddress struct {
	Private     string            `wire:"privateIp"`
	Public      string            `wire:"publicIp"`
	Interface   ec2.InterfaceID   `wire:"networkInterfaceId"`
	Allocation  ec2.AllocationID  `wire:"allocationId"`
	Association ec2.AssociationID `wire:"associationId"`
	Primary     bool              `wire:"isPrimary"`
	Status      string            `wire:"status"`
}

func (c *call) newNATItem(g *ec2.NATGateway) natItem {
	item := natItem{
		ID: g.ID, Subnet: g.Subnet, VPC: g.VPC, State: g.State.String(), Created: g.Created, FailureCode: g.FailureCode,
		FailureMessage: g.FailureMessage, Connectivity: "private", Mode: "zonal", Tags: c.tags(string(g.ID)),
	}
	if g.State != ec2.NATAvailable {
		item.Deleted = g.Ended
	}
	a := natAddress{Allocation: g.Allocation, Interface: g.Interface, Association: g.Assoc, Primary: true, Status: "succeeded"}
	if g.Public() {
		item.Connectivity = "public"
	}
	if g.State == ec2.NATDeleted {
		a.Interface = g.Had
	}
	if g.State == ec2.NATFailed {
		a.Status = "failed"
	}
	if g.Address.Private.IsValid() {
		a.Private = g.Address.Private.String()
	}
	if g.Address.Public.IsValid() {
		a.Public = g.Address.Public.String()
	}
	item.Addresses = []natAddress{a}
	return item
}

func createNATGateway(c *call, r *createNATGatewayRequest) (*createNATGatewayAnswer, error) {
	if err := r.refuse(); err != nil {
		return nil, err
	}
	if r.Connectivity != "" && r.Connectivity != "public" && r.Connectivity != "private" {
		return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter connectivityType is invalid. It is public or private.", wire.Quote(r.Connectivity))
	}
	var address netip.Addr
	if r.Address != "" {
		var err error
		if address, err = netip.ParseAddr(r.Address); err != nil || !address.Is4() {
			return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter privateIpAddress is invalid. It is no IPv4 address.", wire.Quote(r.Address))
		}
	}
	tags, err := tagsFor(r.Tags, "natgateway")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateNATGateway{
		Account: c.account, Region: c.region, Subnet: r.Subnet, Private: r.Connectivity == "private", Allocation: r.Allocation,
		Address: address, ClientToken: r.ClientToken, Tags: tags,
	})
	if err != nil {
		return nil, err
	}
	item := c.newNATItem(result.NAT)
	if result.NAT.State != ec2.NATDeleted { // as EC2 answers; the gateway is available, or has failed, at once
		item.State, item.FailureCode, item.FailureMessage, item.Deleted = "pending", "", "", time.Time{}
	}
	return &createNATGatewayAnswer{r.ClientToken, item}, nil
}

type natGatewayRequest struct {
	Gateway ec2.NATGatewayID `wire:"NatGatewayId"`
}

type deleteNATGatewayAnswer struct {
	Gateway ec2.NATGatewayID `wire:"natGatewayId"`
}

func deleteNATGateway(c *call, r *natGatewayRequest) (*deleteNATGatewayAnswer, error) {
	if err := checkNATGatewayID(string(r.Gateway)); err != nil {
		return nil, err
	}
	result, err := c.apply(&state.DeleteNATGateway{Account: c.account, Region: c.region, NAT: r.Gateway})
	if err != nil {
		return nil, err
	}
	return &deleteNATGatewayAnswer{result.NAT.ID}, nil
}

type describeNATGatewaysRequest struct {
	IDs []string `wire:"NatGatewayId"`
	listed
}

type describeNATGatewaysAnswer struct {
	Gateways  []natItem `wire:"natGatewaySet"`
	NextToken string    `wire:"nextToken"`
}

var natListing = listing[natItem]{
	kind: "nat",
	id:   func(g natItem) string { return string(g.ID) },
	filters: filterable[natItem]{
		"nat-gateway-id": func(g natItem) []string { return nonEmpty(g.ID) },
		"state":          func(g natItem) []string { return nonEmpty(g.State) },
		"subnet-id":      func(g natItem) []string { return nonEmpty(g.Subnet) },
		"vpc-id":         func(g natItem) []string { return nonEmpty(g.VPC) },
	},
}

func describeNATGateways(c *call, r *describeNATGatewaysRequest) (*describeNATGatewaysAnswer, error) {
	for _, id := range r.IDs {
		if err := checkNATGatewayID(id); err != nil {
			return nil, err
		}
	}
	items, next, err := describe(c, natListing, c.view.NATGatewaysOf(c.account, c.region), c.newNATItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeNATGatewaysAnswer{items, next}, nil
}

var natGatewayID = regexp.MustCompile(`^nat-[0-9a-f]{1,17}$`)

func checkNATGatewayID(id string) error {
	if id != "" && !natGatewayID.MatchString(id) {
		return ec2.Errorf("NatGatewayMalformed", `Invalid id: "%s" (expecting "nat-...")`, wire.Quote(id))
	}
	return nil
}
