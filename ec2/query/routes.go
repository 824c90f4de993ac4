package query

import (
	"net/netip"
	"slices"

	"palisade/ec2"
	"palisade/ec2/state"
)

// routeActions manage route tables, their routes, and their associations with subnets.
var routeActions = map[string]handler{
	"CreateRouteTable":             action(createRouteTable),
	"DeleteRouteTable":             action(deleteRouteTable),
	"DescribeRouteTables":          action(describeRouteTables),
	"CreateRoute":                  action(createRoute),
	"ReplaceRoute":                 action(replaceRoute),
	"DeleteRoute":                  action(deleteRoute),
	"AssociateRouteTable":          action(associateRouteTable),
	"DisassociateRouteTable":       action(disassociateRouteTable),
	"ReplaceRouteTableAssociation": action(replaceRouteTableAssociation),
}

type createRouteTableRequest struct {
	VPC         ec2.VPCID          `wire:"VpcId"`
	ClientToken string             `wire:"ClientToken"`
	Tags        []tagSpecification `wire:"TagSpecification"`
}

type createRouteTableAnswer struct {
	Table       routeTableItem `wire:"routeTable"`
	ClientToken string         `wire:"clientToken"`
}

type routeTableItem struct {
	ID           ec2.RouteTableID  `wire:"routeTableId"`
	VPC          ec2.VPCID         `wire:"vpcId"`
	Owner        ec2.AccountID     `wire:"ownerId"`
	Routes       []routeItem       `wire:"routeSet"`
	Associations []associationItem `wire:"associationSet"`
	Propagating  []routeItem       `wire:"propagatingVgwSet"`
	Tags         []tag             `wire:"tagSet"`
}

type routeItem struct {
	Destination string        `wire:"destinationCidrBlock"`
	Gateway     ec2.GatewayID `wire:"gatewayId"`
	State       string        `wire:"state"`
	Origin      string        `wire:"origin"`
}

type associationItem struct {
	ID     ec2.AssociationID `wire:"routeTableAssociationId"`
	Table  ec2.RouteTableID  `wire:"routeTableId"`
	Subnet ec2.SubnetID      `wire:"subnetId"`
	Main   bool              `wire:"main"`
	State  associationState  `wire:"associationState"`
}

type associationState struct {
	State string `wire:"state"`
}

var associated = associationState{"associated"}

// localGateway is the target of a VPC's local route, the route for its own addresses.
const localGateway ec2.GatewayID = "local"

func (c *call) newRouteTableItem(t *ec2.RouteTable) routeTableItem {
	item := routeTableItem{ID: t.ID, VPC: t.VPC, Owner: t.Account, Tags: c.tags(string(t.ID))}
	if vpc, ok := c.view.VPC(t.VPC); ok {
		for _, b := range vpc.Blocks() {
			item.Routes = append(item.Routes, routeItem{b.CIDR.String(), localGateway, "active", "CreateRouteTable"})
		}
	}
	for _, r := range t.Routes {
		state := "blackhole"
		if g, ok := c.view.InternetGateway(r.Gateway); ok && g.VPC == t.VPC {
			state = "active"
		}
		item.Routes = append(item.Routes, routeItem{r.Destination.String(), r.Gateway, state, "CreateRoute"})
	}
	if t.Main != "" {
		item.Associations = append(item.Associations, associationItem{ID: t.Main, Table: t.ID, Main: true, State: associated})
	}
	for _, a := range t.Associations {
		item.Associations = append(item.Associations, associationItem{ID: a.ID, Table: t.ID, Subnet: a.Subnet, State: associated})
	}
	return item
}

func createRouteTable(c *call, r *createRouteTableRequest) (*createRouteTableAnswer, error) {
	tags, err := tagsFor(r.Tags, "route-table")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateRouteTable{Account: c.account, Region: c.region, VPC: r.VPC, Tags: tags, ClientToken: r.ClientToken})
	if err != nil {
		return nil, err
	}
	return &createRouteTableAnswer{c.newRouteTableItem(result.RouteTable), r.ClientToken}, nil
}

type routeTableRequest struct {
	Table ec2.RouteTableID `wire:"RouteTableId"`
}

func deleteRouteTable(c *call, r *routeTableRequest) (*returned, error) {
	if _, err := c.apply(&state.DeleteRouteTable{Account: c.account, Region: c.region, RouteTable: r.Table}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describeRouteTablesRequest struct {
	IDs []string `wire:"RouteTableId"`
	listed
}

type describeRouteTablesAnswer struct {
	Tables    []routeTableItem `wire:"routeTableSet"`
	NextToken string           `wire:"nextToken"`
}

var routeTableListing = listing[routeTableItem]{
	kind: "rtb",
	id:   func(t routeTableItem) string { return string(t.ID) },
	filters: filterable[routeTableItem]{
		"owner-id":       func(t routeTableItem) []string { return nonEmpty(t.Owner) },
		"route-table-id": func(t routeTableItem) []string { return nonEmpty(t.ID) },
		"vpc-id":         func(t routeTableItem) []string { return nonEmpty(t.VPC) },

		"association.main":                       tableAssociations(func(a associationItem) []string { return boolean(a.Main) }),
		"association.route-table-association-id": tableAssociations(func(a associationItem) []string { return nonEmpty(a.ID) }),
		"association.route-table-id":             tableAssociations(func(a associationItem) []string { return nonEmpty(a.Table) }),
		"association.subnet-id":                  tableAssociations(func(a associationItem) []string { return nonEmpty(a.Subnet) }),
		"association.gateway-id":                 never[routeTableItem],

		"route.destination-cidr-block": tableRoutes(func(r routeItem) []string { return nonEmpty(r.Destination) }),
		"route.gateway-id":             tableRoutes(func(r routeItem) []string { return nonEmpty(r.Gateway) }),
		"route.origin":                 tableRoutes(func(r routeItem) []string { return nonEmpty(r.Origin) }),
		"route.state":                  tableRoutes(func(r routeItem) []string { return nonEmpty(r.State) }),

		"route.destination-ipv6-cidr-block":     never[routeTableItem],
		"route.destination-prefix-list-id":      never[routeTableItem],
		"route.egress-only-internet-gateway-id": never[routeTableItem],
		"route.instance-id":                     never[routeTableItem],
		"route.nat-gateway-id":                  never[routeTableItem],
		"route.transit-gateway-id":              never[routeTableItem],
		"route.vpc-peering-connection-id":       never[routeTableItem],
	},
}

func tableAssociations(values func(associationItem) []string) func(routeTableItem) []string {
	return eachOf(func(t routeTableItem) []associationItem { return t.Associations }, values)
}

func tableRoutes(values func(routeItem) []string) func(routeTableItem) []string {
	return eachOf(func(t routeTableItem) []routeItem { return t.Routes }, values)
}

func describeRouteTables(c *call, r *describeRouteTablesRequest) (*describeRouteTablesAnswer, error) {
	items, next, err := describe(c, routeTableListing, c.view.RouteTablesOf(c.account, c.region), c.newRouteTableItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeRouteTablesAnswer{items, next}, nil
}

type routeRequest struct {
	Table       ec2.RouteTableID `wire:"RouteTableId"`
	Destination string           `wire:"DestinationCidrBlock"`
	Gateway     ec2.GatewayID    `wire:"GatewayId"`
	LocalTarget bool             `wire:"LocalTarget"` // of ReplaceRoute

	IPv6Destination string `wire:"DestinationIpv6CidrBlock"`
	PrefixList      string `wire:"DestinationPrefixListId"`
	targets
}

// targets has the targets of a route that are not served.
type targets struct {
	CarrierGateway    string `wire:"CarrierGatewayId"`
	CoreNetwork       string `wire:"CoreNetworkArn"`
	EgressOnlyGateway string `wire:"EgressOnlyInternetGatewayId"`
	Instance          string `wire:"InstanceId"`
	LocalGateway      string `wire:"LocalGatewayId"`
	NATGateway        string `wire:"NatGatewayId"`
	Interface         string `wire:"NetworkInterfaceId"`
	ODBNetwork        string `wire:"OdbNetworkArn"`
	TransitGateway    string `wire:"TransitGatewayId"`
	Endpoint          string `wire:"VpcEndpointId"`
	Peering           string `wire:"VpcPeeringConnectionId"`
}

// refuse returns an error for a destination or a target that is not served.
func (r *routeRequest) refuse() error {
	for _, t := range []struct{ asked, what string }{
		{r.IPv6Destination, "for IPv6 (DestinationIpv6CidrBlock)"},
		{r.PrefixList, "for prefix lists (DestinationPrefixListId)"},
		{r.CarrierGateway, "to carrier gateways (CarrierGatewayId)"},
		{r.CoreNetwork, "to core networks (CoreNetworkArn)"},
		{r.EgressOnlyGateway, "to egress-only internet gateways (EgressOnlyInternetGatewayId)"},
		{r.Instance, "to instances (InstanceId)"},
		{r.LocalGateway, "to local gateways (LocalGatewayId)"},
		{r.NATGateway, "to NAT gateways (NatGatewayId)"},
		{r.Interface, "to network interfaces (NetworkInterfaceId)"},
		{r.ODBNetwork, "to ODB networks (OdbNetworkArn)"},
		{r.TransitGateway, "to transit gateways (TransitGatewayId)"},
		{r.Endpoint, "to VPC endpoints (VpcEndpointId)"},
		{r.Peering, "to VPC peering connections (VpcPeeringConnectionId)"},
	} {
		if t.asked != "" {
			return ec2.Errorf("UnsupportedOperation", "Routes %s are not served here; a route leads to an internet gateway", t.what)
		}
	}
	return nil
}

func createRoute(c *call, r *routeRequest) (*returned, error) {
	if err := r.refuse(); err != nil {
		return nil, err
	}
	block, err := parseBlock(r.Destination, "destinationCidrBlock")
	if err != nil {
		return nil, err
	}
	if _, err := c.apply(&state.CreateRoute{Account: c.account, Region: c.region, RouteTable: r.Table, Destination: block, Gateway: r.Gateway}); err != nil {
		return nil, err
	}
	return &done, nil
}

func replaceRoute(c *call, r *routeRequest) (*returned, error) {
	if err := r.refuse(); err != nil {
		return nil, err
	}
	block, err := parseBlock(r.Destination, "destinationCidrBlock")
	if err != nil {
		return nil, err
	}
	if r.LocalTarget || r.Gateway == localGateway {
		return c.keepLocalRoute(r, block)
	}
	if _, err := c.apply(&state.ReplaceRoute{Account: c.account, Region: c.region, RouteTable: r.Table, Destination: block, Gateway: r.Gateway}); err != nil {
		return nil, err
	}
	return &done, nil
}

// keepLocalRoute answers a request that sets the target of the local route to local, the
// only target it can have.
func (c *call) keepLocalRoute(r *routeRequest, destination netip.Prefix) (*returned, error) {
	if r.LocalTarget && r.Gateway != "" && r.Gateway != localGateway {
		return nil, ec2.Errorf("InvalidParameterCombination", "The parameters LocalTarget and GatewayId cannot be used together")
	}
	if !destination.IsValid() {
		return nil, ec2.Missing("destinationCidrBlock")
	}
	table, err := c.view.FindRouteTable(c.account, c.region, r.Table)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(c.newRouteTableItem(table).Routes, routeItem{destination.String(), localGateway, "active", "CreateRouteTable"}) {
		return nil, ec2.Errorf("InvalidParameterValue", "The target local is for the route of the VPC's own range, not for %s", destination)
	}
	return &done, nil
}

func deleteRoute(c *call, r *routeRequest) (*returned, error) {
	if err := r.refuse(); err != nil {
		return nil, err
	}
	block, err := parseBlock(r.Destination, "destinationCidrBlock")
	if err != nil {
		return nil, err
	}
	if _, err := c.apply(&state.DeleteRoute{Account: c.account, Region: c.region, RouteTable: r.Table, Destination: block}); err != nil {
		return nil, err
	}
	return &done, nil
}

type associateRouteTableRequest struct {
	Table   ec2.RouteTableID `wire:"RouteTableId"`
	Subnet  ec2.SubnetID     `wire:"SubnetId"`
	Gateway string           `wire:"GatewayId"`
}

type associateRouteTableAnswer struct {
	ID    ec2.AssociationID `wire:"associationId"`
	State associationState  `wire:"associationState"`
}

func associateRouteTable(c *call, r *associateRouteTableRequest) (*associateRouteTableAnswer, error) {
	if r.Gateway != "" {
		return nil, ec2.Errorf("UnsupportedOperation", "Route tables of gateways (GatewayId) are not served here; a route table is associated with subnets")
	}
	result, err := c.apply(&state.AssociateRouteTable{Account: c.account, Region: c.region, RouteTable: r.Table, Subnet: r.Subnet})
	if err != nil {
		return nil, err
	}
	return &associateRouteTableAnswer{result.Association, associated}, nil
}

type routeAssociationRequest struct {
	Association ec2.AssociationID `wire:"AssociationId"`
	Table       ec2.RouteTableID  `wire:"RouteTableId"`
}

func disassociateRouteTable(c *call, r *routeAssociationRequest) (*returned, error) {
	if _, err := c.apply(&state.DisassociateRouteTable{Account: c.account, Region: c.region, Association: r.Association}); err != nil {
		return nil, err
	}
	return &done, nil
}

type replaceRouteTableAssociationAnswer struct {
	ID    ec2.AssociationID `wire:"newAssociationId"`
	State associationState  `wire:"associationState"`
}

func replaceRouteTableAssociation(c *call, r *routeAssociationRequest) (*replaceRouteTableAssociationAnswer, error) {
	result, err := c.apply(&state.ReplaceRouteTableAssociation{Account: c.account, Region: c.region, Association: r.Association, RouteTable: r.Table})
	if err != nil {
		return nil, err
	}
	return &replaceRouteTableAssociationAnswer{result.Association, associated}, nil
}
